"""Tensor building blocks without knowledge of detectors: boxes, positions, MLPs, attention."""
