"""What a detector finds in an image (`Detections`), and its forms in COCO's JSON and in supervision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from crossstage.errors import InputError
from crossstage.movable import Movable

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Detections(Movable):
    """The detections of one image, best first.

    Attributes:
        boxes_xyxy: [D, 4] absolute corners in the original image.
        scores: [D].
        labels: int64 [D], class indices.
        class_names: by class index; empty if they are not known. A predictor fills them in, a model does not.
        category_ids: the data set's ids by class index, None for a class without one; empty if they are not known.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int | None, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class of each detection: its name, or its index as text if it has no name."""
        known = self.class_names
        return [known[label] if label < len(known) else str(label) for label in self.labels.tolist()]

    def reaching(self, least: Tensor | float) -> Detections:
        """The detections with a score of at least `least`, a number or float32 [D]."""
        kept = self.scores >= least
        return replace(self, boxes_xyxy=self.boxes_xyxy[kept], scores=self.scores[kept], labels=self.labels[kept])

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """The entries of a COCO results file.

        Args:
            image_id: the id of the image in its data set.

        Returns:
            One dict per detection: image_id, category_id, bbox (x, y, width, height in pixels) and score.

        Raises:
            InputError: if the category id of a detected class is not known.
        """
        ids = dict(enumerate(self.category_ids))
        labels = self.labels.tolist()
        if unknown := sorted({label for label in labels if ids.get(label) is None}):
            raise InputError(
                f"to_coco: the category ids of the classes {', '.join(map(str, unknown))} are not known: the weights "
                "do not hold them; set them by class index: dataclasses.replace(detections, category_ids=(1, 2, ...))"
            )
        corners = zip(self.boxes_xyxy.tolist(), self.scores.tolist(), labels, strict=True)
        return [
            {"image_id": image_id, "category_id": ids[label], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            for (x0, y0, x1, y1), score, label in corners
        ]

    def to_supervision(self) -> supervision.Detections:
        """The same as supervision's Detections, with the classes under `data["class_name"]`.

        Raises:
            InputError: if supervision is not installed.
        """
        try:
            import numpy as np
            import supervision
        except ImportError as error:
            raise InputError("to_supervision needs supervision: pip install 'crossstage[convert]'") from error
        return supervision.Detections(
            xyxy=self.boxes_xyxy.float().cpu().numpy(),
            confidence=self.scores.float().cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )
