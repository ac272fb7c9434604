"""A native detector in detectron2: `detectron2_scenarios.py CONFIG DATA STEPS` prints JSON.

DATA is a folder of `python -m crossstage.data.toy`. The detector trains on and is scored over its validation images.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from detrex_on_cpu import register_toy, stub

from crossstage.data.loader import TestLoader
from crossstage.evaluation import CocoEvaluator, run_evaluation
from crossstage.interop.detectron2 import Detectron2Model, native_model, registered_dataset

OVERRIDES = {"deqdet_toy": []}  # all others: fewer layers
FEWER_LAYERS = ["model.decoder.num_layers=3"]


def loader(*, training: bool) -> Any:
    """detectron2's loader of the validation images, as they are."""
    from detectron2.data import DatasetMapper, build_detection_test_loader, build_detection_train_loader
    from detectron2.data import get_detection_dataset_dicts as records
    from detectron2.data.samplers import TrainingSampler

    mapper = DatasetMapper(is_train=training, augmentations=[], image_format="BGR")
    if training:
        images = records("toy_val")
        options = {"sampler": TrainingSampler(len(images), seed=0), "total_batch_size": 2, "num_workers": 0}
        return build_detection_train_loader(images, mapper=mapper, **options)
    return build_detection_test_loader(records("toy_val", filter_empty=False), mapper=mapper, num_workers=0)


def train(model: Detectron2Model, steps: int) -> list[float]:
    """Total losses by step, by detectron2's SimpleTrainer and its event storage."""
    from detectron2.engine import SimpleTrainer, hooks

    totals: list[float] = []
    trainer = SimpleTrainer(model, loader(training=True), torch.optim.AdamW(model.parameters(), lr=1e-3))
    latest = hooks.CallbackHook(after_step=lambda t: totals.append(t.storage.latest()["total_loss"][0]))
    trainer.register_hooks([latest])
    trainer.train(0, steps)
    return totals


def theirs(model: Detectron2Model) -> dict[str, float]:
    """By detectron2's loader and COCOEvaluator."""
    from detectron2.evaluation import COCOEvaluator, inference_on_dataset

    return inference_on_dataset(model, loader(training=False), COCOEvaluator("toy_val", distributed=False))["bbox"]


def ours(detector: torch.nn.Module) -> dict[str, float]:
    """By our loader of the registered dataset and our evaluator."""
    dataset = registered_dataset("toy_val")
    test_loader = TestLoader(dataset, transform=None, batch_size=1, num_workers=0)
    return run_evaluation(detector, test_loader, CocoEvaluator(dataset.json_file))["bbox"]


def records(folder: str) -> dict[str, Any]:
    """A dataset that detectron2 knows by a function, and the COCO JSON that it came from."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    DatasetCatalog.register("by_function", lambda: DatasetCatalog.get("toy_val"))
    MetadataCatalog.get("by_function").thing_classes = MetadataCatalog.get("toy_val").thing_classes
    written = registered_dataset("by_function", json_file=f"{folder}/by_function.json")
    read = registered_dataset("toy_val")
    pairs = [(written[index], read[index]) for index in range(len(read))]
    equal = [
        torch.equal(one.pixels, other.pixels)
        and torch.allclose(one.boxes, other.boxes, atol=1e-4)
        and torch.equal(one.labels, other.labels)
        for one, other in pairs
    ]
    return {"images": len(written), "equal": all(equal) and written.class_names == read.class_names}


def predicted(trained: Detectron2Model, config: str, weights: Path) -> dict[str, Any]:
    """Detections of an image by DefaultPredictor, which loads the trained weights, and their picture by Visualizer."""
    import cv2
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.data import MetadataCatalog
    from detectron2.engine import DefaultPredictor
    from detectron2.modeling import META_ARCH_REGISTRY
    from detectron2.utils.visualizer import Visualizer

    def crossstage(cfg: Any) -> Detectron2Model:
        return native_model(config, overrides=OVERRIDES.get(config, FEWER_LAYERS), image_format=cfg.INPUT.FORMAT)

    META_ARCH_REGISTRY._do_register("crossstage", crossstage)
    DetectionCheckpointer(trained, str(weights.parent)).save(weights.stem)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "crossstage", "cpu", str(weights)
    cfg.INPUT.MIN_SIZE_TEST = 0  # keep the size
    record = registered_records("toy_val")[0]
    image = cv2.imread(record["file_name"])
    instances = DefaultPredictor(cfg)(image)["instances"]
    trained.eval()
    tensor = torch.as_tensor(image.copy()).permute(2, 0, 1)
    with torch.no_grad():
        direct = trained([{"image": tensor, "height": image.shape[0], "width": image.shape[1]}])[0]["instances"]
    drawn = Visualizer(image[:, :, ::-1], MetadataCatalog.get("toy_val")).draw_instance_predictions(instances[:3])
    return {
        "equal": torch.equal(instances.scores, direct.scores)
        and torch.equal(instances.pred_boxes.tensor, direct.pred_boxes.tensor),
        "detections": len(instances),
        "pixels_drawn": int((drawn.get_image() != image[:, :, ::-1]).any(axis=-1).sum()),
    }


def registered_records(name: str) -> list[dict[str, Any]]:
    """detectron2's records of a dataset."""
    from detectron2.data import DatasetCatalog

    return DatasetCatalog.get(name)


def main() -> None:
    torch.set_num_threads(1)
    config, data, steps = sys.argv[1:]
    stub()
    register_toy(data)
    torch.manual_seed(0)
    model = native_model(config, overrides=OVERRIDES.get(config, FEWER_LAYERS), image_format="BGR").train()
    losses = train(model, int(steps))
    result = {"losses": losses, "theirs": theirs(model), "ours": ours(model.detector)}
    result["predicted"] = predicted(model, config, Path(data) / f"{config}.pth")
    result["records"] = records(data)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
