"""Weights in files: reading them safely, renaming, loading, and writing each file completely or not at all.

- `download`: a web address to a local file
- `files`: a file to tensors, without running code in it
- `tensor_file`: weights as safetensors, with the names of the classes
- `names`: tables that translate between the parameter names of other libraries and ours
- `mmdet_names`: the rules of mmdetection's AdaMixer family for such a table, with a ResNet or a Swin
- `classes`: weights for some of a detector's classes
- `load`: weights into a model
- `save`: the checkpoints of a run
"""
