"""RT-DETR of Hugging Face transformers with and without CSLA: small models, random weights, runs paired by seed.

    python -m crossstage.data.toy --output datasets/toy_easy --train 1200 --val 200 --seed 0 --preset easy
    python examples/rt_detr_csla.py --train datasets/toy_easy/annotations/instances_train2017.json \
        datasets/toy_easy/train2017 --val datasets/toy_easy/annotations/instances_val2017.json datasets/toy_easy/val2017

The runs of a seed start from the same weights and see the same batches. Each finished run is a line of --output, and a
repeated command skips it. Three rows: `plain`, `csla` with the paper's rule, and `csla, own kept`, which keeps a
query's own object even where its box has an IoU below 0.5 with it (`filter_own=False`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from crossstage.data.coco import CocoDetection
from crossstage.evaluation.coco import CocoEvaluator
from crossstage.reproduction.intervals import mean_of_seeds
from crossstage.structures import Detections
from csla.transformers import with_csla

ROWS = {"plain": None, "csla": {}, "csla, own kept": {"filter_own": False}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, then print the table."""
    args = parsed(arguments)
    train, val = (Pictures(*paths, size=args.size) for paths in (args.train, args.val))
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    for seed in range(args.seeds):
        for row in ROWS:
            settings = {"row": row, "seed": seed, "steps": args.steps, "size": args.size, "train": args.train[0]}
            if any(settings.items() <= run.items() for run in done):
                continue
            begin = time.perf_counter()
            model = trained(train, row, seed=seed, steps=args.steps, device=args.device)
            run = {**settings, **scores(model, val), "seconds": round(time.perf_counter() - begin)}
            done.append(run)
            with output.open("a") as file:
                file.write(json.dumps(run) + "\n")
            print(f"{row}, seed {seed}: AP {run['AP']:.2f}, AP50 {run['AP50']:.2f}, {run['seconds']} s", flush=True)
    asked = {"steps": args.steps, "size": args.size, "train": args.train[0]}
    print_table([run for run in done if asked.items() <= run.items() and run["seed"] < args.seeds])


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for split in ("--train", "--val"):
        parser.add_argument(split, nargs=2, metavar=("JSON", "FOLDER"), required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128, help="height and width of the network's input in pixels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", default="output/rt_detr_csla/runs.jsonl")
    return parser.parse_args(arguments)


class Pictures:
    """A COCO-format data set in memory, all pictures stretched to one size; boxes normalised cxcywh."""

    def __init__(self, json_file: str, folder: str, *, size: int) -> None:
        self.json_file, dataset = json_file, CocoDetection(json_file, folder)
        samples = [dataset[index] for index in range(len(dataset))]
        whole = (interpolate(s.pixels[None].float(), (size, size), mode="bilinear", antialias=True) for s in samples)
        self.pixels = torch.cat([picture.round().byte() for picture in whole])
        self.class_names, self.image_ids = dataset.class_names, [sample.image_id for sample in samples]
        self.sizes = [sample.original_size for sample in samples]
        self.targets = [
            {"class_labels": sample.labels, "boxes": normalised(torch.as_tensor(sample.boxes), sample.original_size)}
            for sample in samples
        ]

    def batch(self, rows: list[int], flipped: list[bool], device: str) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Pixels [B, 3, H, W] in [0, 1] and the targets of some pictures, of which some are mirrored."""
        chosen = list(zip(rows, flipped, strict=True))
        pixels = torch.stack([self.pixels[row].flip(-1) if flip else self.pixels[row] for row, flip in chosen])
        targets = [
            {name: value.to(device) for name, value in self.target(row, mirrored=flip).items()} for row, flip in chosen
        ]
        return pixels.to(device) / 255, targets

    def target(self, row: int, *, mirrored: bool) -> dict[str, Tensor]:
        """The classes and the boxes of a picture, or of its mirror image."""
        labels, boxes = self.targets[row]["class_labels"], self.targets[row]["boxes"]
        return {"class_labels": labels, "boxes": torch.cat([1 - boxes[:, :1], boxes[:, 1:]], 1) if mirrored else boxes}


def normalised(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Absolute xyxy [T, 4] as cxcywh in units of the picture's (height, width)."""
    first, last = corners[:, :2], corners[:, 2:]
    return torch.cat([(first + last) / 2, last - first], 1) / torch.tensor([size[1], size[0]] * 2)


def small_rt_detr(num_classes: int) -> torch.nn.Module:
    """RT-DETR with a ResNet of four blocks, three decoder layers and 50 queries: 0.8 M parameters."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        num_labels=num_classes, backbone_config=backbone, freeze_backbone_batch_norms=False, num_denoising=20,
        encoder_in_channels=[32, 64, 96], encoder_hidden_dim=64, hidden_expansion=0.5, encoder_ffn_dim=128,
        decoder_in_channels=[64, 64, 64], decoder_ffn_dim=128, decoder_layers=3, d_model=64, num_queries=50,
    )  # fmt: skip
    return RTDetrForObjectDetection(config)


def trained(data: Pictures, row: str, *, seed: int, steps: int, device: str) -> torch.nn.Module:
    """A model after `steps` steps of AdamW, whose learning rate rises for a twentieth of them and then falls to 0."""
    torch.manual_seed(seed)
    model = small_rt_detr(len(data.class_names)).to(device).train()
    options = ROWS[row]
    if options is not None:
        model = with_csla(model, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.05)
    for rows, flipped in order(len(data.image_ids), seed=seed, steps=steps):
        pixels, labels = data.batch(rows, flipped, device)
        loss = model(pixel_values=pixels, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
    return model


def order(images: int, *, seed: int, steps: int, batch: int = 8) -> Iterator[tuple[list[int], list[bool]]]:
    """Which pictures a step sees and which are mirrored: the same for all rows of a seed."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch // images)
    rows = torch.cat([torch.randperm(images, generator=generator) for _ in range(epochs)])[: steps * batch]
    flipped = torch.rand(steps * batch, generator=generator) < 0.5
    yield from zip(rows.view(steps, batch).tolist(), flipped.view(steps, batch).tolist(), strict=True)


@torch.no_grad()
def scores(model: torch.nn.Module, data: Pictures) -> dict[str, float]:
    """AP and AP50 in percent."""
    model.eval()
    device = str(next(model.parameters()).device)
    evaluator = CocoEvaluator(data.json_file)
    for rows in torch.arange(len(data.image_ids)).split(16):
        pixels, _ = data.batch(rows.tolist(), [False] * len(rows), device)
        outputs = model(pixel_values=pixels)
        best, places = outputs.logits.sigmoid().flatten(1).topk(50)
        boxes = outputs.pred_boxes.gather(1, (places // outputs.logits.shape[-1])[..., None].expand(-1, -1, 4))
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        sizes = torch.tensor([data.sizes[row][::-1] * 2 for row in rows], device=boxes.device)[:, None]
        corners = torch.cat([centre - half, centre + half], -1) * sizes
        found = [Detections(*one) for one in zip(corners, best, places % outputs.logits.shape[-1], strict=True)]
        evaluator.process(SimpleNamespace(image_ids=[data.image_ids[row] for row in rows]), found)
    results = evaluator.evaluate()["bbox"]
    return {name: results[name] for name in ("AP", "AP50")}


def print_table(runs: list[dict]) -> None:
    """Means over the seeds with 95 % intervals (Student's t), and the differences from `plain`, paired by seed."""
    print("\n| row | AP by seed | AP | AP50 | AP against plain |\n| --- | --- | --- | --- | --- |")
    found = {row: {run["seed"]: run for run in runs if run["row"] == row} for row in ROWS}
    for row, by_seed in found.items():
        ap, ap50 = ([run[name] for run in by_seed.values()] for name in ("AP", "AP50"))
        paired = [run["AP"] - found["plain"][seed]["AP"] for seed, run in by_seed.items() if seed in found["plain"]]
        gain = mean_of_seeds(paired) if row != "plain" else None
        each = " / ".join(f"{value:.2f}" for value in ap)
        print(f"| {row} | {each} | {mean_of_seeds(ap)} | {mean_of_seeds(ap50)} | {gain.signed() if gain else '-'} |")


if __name__ == "__main__":
    main()
