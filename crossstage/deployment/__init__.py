"""Detectors in files that other runtimes execute: ONNX, and torch's own export.

- `exported_detector`: a detector as one function of tensors, pixels to boxes
- `facts`: what a file says about itself: classes, resize rule, config, weights
- `write`: records the function and writes the file
- `for_onnxruntime`: rewrites of the ONNX graph that make it faster
- `load`: a file as a function of arrays again
- `agreement`: how far the detections of a file are from those of the model, and how long both take
"""
