"""Measures the accuracy and the cost of a detector.

- `loop`: runs a model over a data set
- `coco`: COCO's box metrics
- `truth`: the annotations as records for these metrics
- `reachable`: the objects that no detector can find
- `mistakes`: the kind of each wrong detection
- `report`: numbers per class, the cost of each kind of mistake, the worst images
- `report_page`: the report as a page with pictures
- `query_use`: pure functions: which queries work, how even, how steady
- `query_metrics`: counts them during an evaluation
- `cost`: parameters and FLOPs
"""

from crossstage.evaluation.coco import CocoEvaluator
from crossstage.evaluation.loop import metrics_table, run_evaluation

__all__ = ["CocoEvaluator", "metrics_table", "run_evaluation"]
