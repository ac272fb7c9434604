"""Weights in files: read safely, renamed, loaded, written whole or not at all.

- `download`: an address on the web to a file of this machine
- `files`: a file to tensors, without running code that may be in it
- `names`: tables between the parameter names of other libraries and ours
- `mmdet_names`: the rules of mmdetection's AdaMixer family for such a table
- `classes`: weights for some of a detector's classes
- `load`: weights into a model
- `save`: the checkpoints of a run
"""
