"""The generated data set, in COCO's layout: `python -m crossstage.data.toy --output FOLDER --train 1200 --val 200`.

- `outlines`: the outlines of the classes, and masks from outlines
- `scenes`: draws one image
- `generate`: writes the data set
"""

from crossstage.data.toy.generate import ToySettings, write_toy

__all__ = ["ToySettings", "write_toy"]
