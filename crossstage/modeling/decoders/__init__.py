"""From queries and memory to the predictions of every stage.

- `deformable`: deformable attention (Deformable-DETR, DINO)
- `conditional`: attention steered by anchor boxes (DAB-DETR, DN-DETR)
- `mixer`: sampling and mixing around boxes (AdaMixer)
- `point_sampler`: where a query of the mixers samples
- `adaptive_mixing`: how it mixes what it sampled
"""
