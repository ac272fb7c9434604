"""The backbone from which the runs of a question start: it was trained to name the shape in a picture of one object.

The papers' detectors start from a backbone that was trained on ImageNet. With a backbone of random weights, a small
detector spends most of its few minutes on the backbone, and rows differ before any of them has learned.

    python -m crossstage.reproduction.pretraining --config-file dino_toy --output backbone.pth

Pictures are drawn in memory by the generator of the easy set, from other random numbers: one object each, as large in
pixels as there. Training takes one CPU core for a few minutes. The same machine gives the same file again.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from crossstage.config import instantiate
from crossstage.data.toy.outlines import CLASS_NAMES
from crossstage.data.toy.scenes import PRESETS, draw_scene
from crossstage.engine.setup import load_config
from crossstage.errors import InputError
from crossstage.files import replacing
from crossstage.modeling.backbone import TimmBackbone

SIZE = 64  # pixels; half of the easy set's pictures
TRAINED, HELD_OUT, SEED = 20_000, 1_024, 1_000_003  # the seed is none that a data set is likely to have
STEPS, BATCH, RATE, REPORTS = 4_000, 32, 2e-3, 8


@dataclass(frozen=True)
class Shapes:
    """Pictures of one object: uint8 [N, 3, 64, 64], the mask of their padding [N, 64, 64], their classes [N]."""

    pixels: Tensor
    mask: Tensor
    classes: Tensor

    def __getitem__(self, chosen: Tensor | slice) -> Shapes:
        """Some of the pictures."""
        return Shapes(self.pixels[chosen], self.mask[chosen], self.classes[chosen])

    def flipped(self) -> Shapes:
        """All pictures from left to right."""
        return Shapes(self.pixels.flip(-1), self.mask.flip(-1), self.classes)


def draw_shapes(count: int, *, seed: int = SEED) -> Shapes:
    """Draw pictures of one object; the i-th one depends on the seed and i alone."""
    easy = PRESETS["easy"]
    least, most = (share * easy.size / SIZE for share in easy.extent)
    preset = replace(easy, size=SIZE, objects=(1, 1), extent=(least, most))
    pixels = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    mask = torch.ones(count, SIZE, SIZE, dtype=torch.bool)
    classes = torch.zeros(count, dtype=torch.long)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        drawn, objects = draw_scene(rng, preset)
        while not objects:  # it fitted nowhere
            drawn, objects = draw_scene(rng, preset)
        height, width = drawn.shape[:2]
        pixels[index, :, :height, :width] = torch.from_numpy(drawn).permute(2, 0, 1)
        mask[index, :height, :width] = False
        classes[index] = objects[0].class_index
    return Shapes(pixels, mask, classes)


class Classifier(nn.Module):
    """A backbone, the mean of its coarsest map over the picture, and a linear layer.

    Args:
        backbone: returns feature maps, finest first.
        num_classes: number of classes.
    """

    def __init__(self, backbone: TimmBackbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels[-1], num_classes)

    def forward(self, shapes: Shapes) -> Tensor:
        """Logits [N, classes]."""
        return self.head(self.backbone(shapes.pixels, shapes.mask)[-1].mean(dim=(2, 3)))

    @torch.no_grad()
    def accuracy(self, shapes: Shapes) -> float:
        """The share of pictures whose class is found."""
        self.eval()
        found = [self(shapes[i : i + 128]).argmax(dim=1) for i in range(0, len(shapes.classes), 128)]
        self.train()
        return (torch.cat(found) == shapes.classes).double().mean().item()


def train(classifier: Classifier, shapes: Shapes, held_out: Shapes, *, steps: int, seed: int = 0) -> float:
    """Train with AdamW and one cycle of the learning rate; tells the accuracy several times.

    Args:
        classifier: is changed.
        shapes: pictures to draw batches from.
        held_out: pictures to evaluate on.
        steps: number of optimizer steps.
        seed: of the choice of pictures and of flips.

    Returns:
        The share of held out pictures whose class is found at the end.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(2, steps), pct_start=0.1)
    started, accuracy = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        batch = shapes[torch.randint(len(shapes.classes), (BATCH,), generator=generator)]
        if torch.rand((), generator=generator) < 0.5:
            batch = batch.flipped()
        loss = cross_entropy(classifier(batch), batch.classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % -(-steps // REPORTS) == 0 or step == steps:
            accuracy = classifier.accuracy(held_out)
            left = (time.monotonic() - started) / step * (steps - step)
            print(f"step {step} of {steps}: {accuracy:.1%} of {len(held_out.classes)} shapes named, eta {left:.0f} s")
    return accuracy


def write_backbone(config: str, output: Path, *, steps: int = STEPS, pictures: int = TRAINED) -> float:
    """Train the backbone of a config and write it as a checkpoint for train.init_checkpoint.

    Args:
        config: a short name or a file.
        output: the file; it appears when it is complete.
        steps: number of optimizer steps.
        pictures: number of pictures to train on.

    Returns:
        The share of held out pictures whose class is found.

    Raises:
        InputError: if the config does not load, or the file cannot be written.
    """
    node = load_config(config, ()).model.backbone
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would give another file
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as temporary, temporary.open("wb") as file:  # before the work, and not after it
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                classifier = Classifier(instantiate(node), len(CLASS_NAMES))
            shapes = draw_shapes(pictures + HELD_OUT)
            accuracy = train(classifier, shapes[HELD_OUT:], shapes[:HELD_OUT], steps=steps)
            weights = {f"backbone.{name}": value for name, value in classifier.backbone.state_dict().items()}
            torch.save({"model": weights}, file)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error}); choose another file") from error
    finally:
        torch.set_num_threads(threads)
    return accuracy


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for a mistake that the user can correct)."""
    parser = argparse.ArgumentParser(
        prog="python -m crossstage.reproduction.pretraining", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--config-file", required=True, help="the config whose backbone is trained, such as dino_toy")
    parser.add_argument("--output", required=True, type=Path, help="the checkpoint to write, for train.init_checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps (default: {STEPS})")
    parser.add_argument("--pictures", type=int, default=TRAINED, help=f"to train on (default: {TRAINED})")
    args = parser.parse_args(arguments)
    try:
        for name in ("steps", "pictures"):
            if getattr(args, name) < 1:
                raise InputError(f"--{name} {getattr(args, name)}: expected at least 1")
        accuracy = write_backbone(args.config_file, args.output.expanduser(), steps=args.steps, pictures=args.pictures)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted, nothing was kept", file=sys.stderr)
        return 130
    print(f"{args.output}: written; it names {accuracy:.1%} of the shapes held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
