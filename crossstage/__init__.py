"""Query-based object detectors (the DETR family): data, parts, training, evaluation, LazyConfig."""

__version__ = "0.1.0"
