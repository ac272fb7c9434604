"""Bridges to other libraries, which are imported only when used.

- `detectron2`: our detectors in detectron2's trainers and evaluators, and its data sets in our trainer
"""
