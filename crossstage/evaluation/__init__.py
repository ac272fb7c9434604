"""Measures the accuracy and the cost of a detector.

- `loop`: runs a model over a data set
- `coco`: COCO's box metrics
- `truth`: the annotations as records for these metrics
- `reachable`: the objects that no detector can find
- `cost`: parameters and FLOPs
"""

from crossstage.evaluation.coco import CocoEvaluator
from crossstage.evaluation.loop import metrics_table, run_evaluation

__all__ = ["CocoEvaluator", "metrics_table", "run_evaluation"]
