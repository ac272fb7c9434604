"""A small DEQDet in float64 with random parameters."""

from pathlib import Path

from crossstage.config import LazyConfig
from crossstage.modeling.detector import Detector
from tests.tiny_models import randomised, tiny

FILE = Path(__file__).resolve().parents[3] / "projects/deqdet/configs/models/deqdet_r50.py"


def detector_of(*, num_queries: int = 7, **decoder: object) -> Detector:
    """The R50 model, tiny, with values of its decoder replaced; the same weights each time."""
    node = tiny(LazyConfig.load(str(FILE)).model)
    node.decoder.update(decoder)
    node.queries.source.num_queries = num_queries
    return randomised(node)
