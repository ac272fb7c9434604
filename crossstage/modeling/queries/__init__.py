"""Where decoder queries come from.

- `learned`: learned content and positions (Deformable-DETR)
- `anchors`: learned anchor boxes (DAB-DETR)
- `boxes`: boxes that begin as the whole image (AdaMixer)
- `two_stage`: the best tokens of the encoder (Deformable-DETR, DINO)
- `denoising`: further queries: noised objects (DN-DETR, DINO)
- `one_to_many`: further queries: several for each object (H-DETR)
"""
