"""Bridges to other libraries, which are imported only when used.

- `detectron2`: our detectors in its trainers and evaluators, its data sets in ours
"""
