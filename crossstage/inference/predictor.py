"""A model that is ready to detect (`Predictor`), and how it is built from a config and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, overload

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from crossstage.checkpoints.load import load_model, local_path
from crossstage.config import instantiate
from crossstage.data.batch import Sample, collate
from crossstage.errors import InputError
from crossstage.inference.classes import Truth
from crossstage.inference.pictures import Picture, as_sample, in_batches, is_picture, pixels_of
from crossstage.structures import Detections


@dataclass(frozen=True)
class Predictor:
    """Detects in images.

    Attributes:
        model: in evaluation mode, on `device`.
        transform: from a sample to what the network gets, as in evaluation.
        size_divisor: heights and widths are padded to multiples of this, as in evaluation.
        class_names: by class index; empty if they are not known.
        category_ids: the data set's ids by class index; empty if they are not known.
        device: of the model.
    """

    model: nn.Module
    transform: Callable[[Sample], Sample]
    size_divisor: int
    class_names: tuple[str, ...]
    category_ids: tuple[int | None, ...]
    device: torch.device

    @overload  # a path is also an iterable of texts, but the first signature that fits counts
    def predict(  # type: ignore[overload-overlap]
        self, images: Picture, *, threshold: float = ..., batch: int = ...
    ) -> Detections: ...

    @overload
    def predict(self, images: Iterable[Picture], *, threshold: float = ..., batch: int = ...) -> list[Detections]: ...

    @torch.no_grad()
    def predict(
        self, images: Picture | Iterable[Picture], *, threshold: float = 0.3, batch: int = 8
    ) -> Detections | list[Detections]:
        """Detect in one image or in several.

        Only images of equal size, after the transform, share a batch: what is found in an image does not depend on the
        other images.

        Args:
            images: one image or several: files, Pillow's images, arrays uint8 [H, W, 3] or tensors uint8 [3, H, W],
                all RGB. A file is turned by its EXIF orientation; all others are taken as they are.
            threshold: the least score of a detection, from 0 to 1.
            batch: number of images per batch.

        Returns:
            The detections on the CPU, best first, in pixels of the image: one for one image, otherwise a list.

        Raises:
            InputError: if an image cannot be read or is of another type, or for an impossible number.
        """
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold={threshold}: expected a score from 0 to 1")
        if batch < 1:
            raise InputError(f"batch={batch}: expected at least 1")
        if is_picture(images):
            return self.predict([cast(Picture, images)], threshold=threshold)[0]
        if not isinstance(images, Iterable):  # such as None, which OpenCV returns for a file that it cannot read
            raise InputError(f"images is {type(images).__name__}; expected an image, or a list of images")
        given = enumerate(cast(Iterable[Picture], images))
        samples = (self.transform(as_sample(pixels_of(image, f"images[{index}]"))) for index, image in given)
        found: dict[int, Detections] = {}
        for chosen in in_batches(samples, batch):
            together = collate([sample for _, sample in chosen], size_divisor=self.size_divisor)
            for (index, _), detections in zip(chosen, self.model(together.to(self.device)), strict=True):
                named = replace(detections.to("cpu"), class_names=self.class_names, category_ids=self.category_ids)
                found[index] = named.reaching(threshold)
        return [found[index] for index in range(len(found))]


def choose_device(name: str | torch.device | None, *, flag: str = "device") -> torch.device:
    """The device of this name; None means a GPU if there is one.

    Raises InputError if it is not available; the message calls the argument `flag`.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"{flag} {name}: not available on this machine; expected cpu, cuda or cuda:N") from error
    return device


def build_predictor(
    cfg: DictConfig, weights: str | Path, *, source: str | Path, truth: Truth, device: torch.device
) -> Predictor:
    """Build the config's model with the given weights.

    Args:
        cfg: the config, with the classes of the weights (`settle_classes`).
        weights: a checkpoint: a file or an http(s) address.
        source: where the config is from, for messages.
        truth: gives the classes if the checkpoint does not name them.
        device: for the model.

    Returns:
        The predictor.

    Raises:
        InputError: if the config is incomplete or the weights do not fit.
    """
    test = OmegaConf.select(cfg, "dataloader.test") or {}
    if "model" not in cfg or "transform" not in test:
        raise InputError(f"{source}: expected the config of a detector, with model and dataloader.test.transform")
    local_path(weights)
    if OmegaConf.select(cfg, "model.backbone.pretrained"):
        cfg.model.backbone.pretrained = False  # no download, because the weights are replaced below
    model = instantiate(cfg.model)
    table = OmegaConf.select(cfg, "train.checkpoint_names")
    ema = bool(OmegaConf.select(cfg, "train.model_ema.enabled"))
    checkpoint = load_model(model, weights, names=None if table is None else instantiate(table), ema=ema)
    names = [str(name) for name in checkpoint.get("class_names") or truth.class_names]
    ids = checkpoint.get("category_ids") or (truth.category_ids if truth.class_names == names else [])
    transform = instantiate(test["transform"]) or _as_it_is
    divisor = test.get("size_divisor", 1)
    return Predictor(model.eval().to(device), transform, divisor, tuple(names), tuple(ids), device)


def _as_it_is(sample: Sample) -> Sample:
    """The transform of a config that has none."""
    return sample
