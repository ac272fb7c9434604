"""The work of `crossstage export`: builds the model, writes the file, and compares both. Read `export` first."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from crossstage.checkpoints.load import local_path
from crossstage.cli.picture_files import find_images
from crossstage.config import LazyConfig, find_config
from crossstage.config.yaml_form import dump, encode
from crossstage.data.pixels import read_image
from crossstage.deployment.agreement import LIMITS, Agreement, check, compared
from crossstage.deployment.exported_detector import ExportedDetector, rounded_up
from crossstage.deployment.facts import Facts, resize_rule
from crossstage.deployment.load import Detecting, loaded
from crossstage.deployment.write import FORMATS, Shape, require_onnx, write
from crossstage.engine.log import RunLog
from crossstage.errors import InputError
from crossstage.files import digest
from crossstage.inference.classes import settle_classes
from crossstage.inference.pictures import as_sample
from crossstage.inference.predictor import Predictor, build_predictor

SIZES = ((256, 320), (352, 288))  # of generated pictures, where the size is dynamic: (height, width)
BATCHES = (2, 1)  # where the batch is dynamic


def export(args: argparse.Namespace) -> None:
    """Do everything from the command line to the checked file. Raises InputError if the file is not right."""
    with RunLog():
        if args.rounds < 1:
            raise InputError(f"--rounds {args.rounds}: expected at least 1")
        if args.format == "onnx":
            require_onnx()
        shape = Shape(size=size_of(args.size), batch=batch_of(args.batch))
        file = output_file(args)
        cfg = LazyConfig.apply_overrides(LazyConfig.load(find_config(args.config_file)), args.opts)
        truth = settle_classes(cfg, args.weights, asked=args.opts, problems=[])
        cpu = torch.device("cpu")
        detector = build_predictor(cfg, args.weights, source=args.config_file, truth=truth, device=cpu)
        model = ExportedDetector(detector.model, any_size=shape.size is None)
        facts = Facts(
            class_names=detector.class_names,
            resize=resize_rule(None if cfg.dataloader.test.transform is None else detector.transform),
            config=dump(encode(cfg)[0]),
            weights=Path(args.weights).name,
            weights_sha256=digest(local_path(args.weights)),
            precision="float16" if args.fp16 else "float32",
            multiples=model.multiples,
        )
        write(model, file, form=args.format, shape=shape, facts=facts)
        print(f"{file}: {args.format}, {facts.precision}, {shape}, {file.stat().st_size / 1e6:.1f} MB")
        if facts.multiples != (1, 1):
            rows, columns = facts.multiples
            print(f"  takes heights of multiples of {rows} and widths of multiples of {columns} pixels alone")
        checked(model, file, pictures(args, shape, detector, facts.multiples), args, facts.precision)


def checked(
    model: ExportedDetector, file: Path, batches: Sequence[Tensor], args: argparse.Namespace, precision: str
) -> list[Agreement]:
    """Compare the file with the model in float32 on every batch, print it, and remove the file if it is not right."""
    limits = LIMITS[precision]
    try:
        with one_thread():
            detect, _ = loaded(file, form=args.format)
            found = []
            for pixels in batches:
                sides = {"precise": precise(model), "limits": limits, "rounds": args.rounds}
                found.append(compared(eager(model), detect, pixels, **sides))
                print(f"  {found[-1]}")
        check(found, limits, str(file))
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return found


def eager(model: ExportedDetector) -> Detecting:
    """The model as a function that keeps no gradients."""

    @torch.no_grad()
    def detect(pixels: Tensor) -> tuple[Tensor, ...]:
        return model(pixels)

    return detect


def precise(model: ExportedDetector) -> Detecting:
    """A copy of the model in float64 as a function, made when it is called."""
    return lambda pixels: eager(copy.deepcopy(model).double())(pixels)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread, as the session of onnxruntime does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pictures(
    args: argparse.Namespace, shape: Shape, detector: Predictor, multiples: tuple[int, int] = (1, 1)
) -> list[Tensor]:
    """Batches in the sizes to compare, uint8 [B, 3, H, W]: of the given pictures, or of generated ones.

    Dynamic sizes are rounded up to multiples of `multiples`.
    """
    given = [] if args.input is None else given_pictures(args, detector)
    batches = BATCHES if shape.batch is None else (shape.batch,) * 2
    sizes = SIZES if shape.size is None else (shape.size, shape.size)
    if shape.size is None and given:
        sizes = ((given[0].shape[-2], given[0].shape[-1]), (given[-1].shape[-2], given[-1].shape[-1]))
    if shape.size is None:
        sizes = (rounded_up(sizes[0], multiples), rounded_up(sizes[1], multiples))
    same = shape.size is not None and shape.batch is not None
    return [
        torch.stack([picture(number + index, size, given) for index in range(count)])
        for number, (size, count) in enumerate(zip(sizes, batches, strict=True))
    ][: 1 if same else 2]


def given_pictures(args: argparse.Namespace, detector: Predictor) -> list[Tensor]:
    """The pictures of --input, as the config's test transform gives them."""
    return [detector.transform(as_sample(read_image(file))).pixels for file in find_images(args.input)]


def picture(number: int, size: tuple[int, int], given: Sequence[Tensor]) -> Tensor:
    """A given picture brought to a size, or a generated one of rectangles on noise: uint8 [3, H, W]."""
    if given:
        pixels = given[number % len(given)].float()[None]
        return torch.nn.functional.interpolate(pixels, size=size, mode="bilinear")[0].round().to(torch.uint8)
    height, width = size
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 64, (3, height, width), generator=generator, dtype=torch.uint8)
    for _ in range(8):
        y, x, h, w = (torch.rand(4, generator=generator) * torch.tensor([height, width, height / 2, width / 2])).int()
        pixels[:, y : y + h, x : x + w] = torch.randint(0, 256, (3, 1, 1), generator=generator, dtype=torch.uint8)
    return pixels


def size_of(given: Sequence[str]) -> tuple[int, int] | None:
    """The value of --size. Raises InputError unless it is dynamic or two positive numbers."""
    if list(given) == ["dynamic"]:
        return None
    if len(given) != 2 or not all(text.isdecimal() and int(text) > 0 for text in given):
        raise InputError(f"--size {' '.join(given)}: expected height and width in pixels, such as 640 640, or dynamic")
    return int(given[0]), int(given[1])


def batch_of(given: str) -> int | None:
    """The value of --batch. Raises InputError unless it is dynamic or a positive number."""
    if given == "dynamic":
        return None
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"--batch {given}: expected a number of images of at least 1, or dynamic")
    return int(given)


def output_file(args: argparse.Namespace) -> Path:
    """The file to write. Raises InputError if its folder does not exist."""
    file = Path(args.output or Path(args.weights).with_suffix(FORMATS[args.format])).expanduser()
    if not file.parent.is_dir():
        raise InputError(f"--output {file}: the folder {file.parent} does not exist; create it first")
    return file
