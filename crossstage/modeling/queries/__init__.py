"""Where decoder queries come from: a source, and groups that training adds.

- `joined`: joins a source with extra groups; order, attention mask and checks
- `content`: the content half of a source's queries
- `learned`: source: learned content and positions (Deformable-DETR)
- `anchors`: source: learned anchor boxes (DAB-DETR)
- `boxes`: source: boxes that begin as the whole image (AdaMixer)
- `two_stage`: sources: the best tokens of the encoder (Deformable-DETR, DINO)
- `denoising`: extra group: noised objects (DINO)
- `one_to_many`: extra group: several queries per object (H-DETR)
"""
