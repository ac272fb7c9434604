"""A DINO that trains on two CPU cores in minutes: for the generated dataset, the quickstart and the tests."""

from .dino_r50 import model

model.num_classes = 8
model.embed_dim = 96
model.backbone.update(
    name="resnet18",
    pretrained=False,
    frozen_norm=False,
    frozen_stages=0,
    options={"layers": [1, 1, 1, 1], "channels": [32, 64, 96, 128]},
)
model.neck.update(in_channels=[64, 96, 128], num_levels=3, groups=8)
model.encoder.update(num_layers=1)
model.encoder.position.num_features = 48
model.decoder.update(num_layers=3)
for _layer in (model.encoder.layer, model.decoder.layer):
    _layer.ffn.feedforward_dim = 192
    _layer.self_attn.num_heads = 4
model.decoder.layer.cross_attn.num_heads = 4
model.encoder.layer.self_attn.num_points = 2
model.decoder.layer.cross_attn.num_points = 2
model.queries.num_queries = 40
model.queries.denoising.num_queries = 12
model.criterion.weights.loss_class = 2.0
model.postprocess.num_select = 40
