"""A small DEQDet: for the generated dataset and the tests."""

from crossstage.config import get_config

from .deqdet_r50 import model

_small = get_config("common/models/toy.py").mixer
_layer = _small.pop("decoder").layer

model.merge_with(_small)
model.decoder.initial.layer.merge_with(_layer)
model.decoder.refinement.layer.merge_with(_layer)
model.decoder.initial.layer.sampler.num_points = 16
model.decoder.refinement.layer.sampler.num_points = 16
model.decoder.update(steps=8, eval_steps=8, supervised=[1, 3, 6, 8])
model.decoder.perturbation.position_scale = 6.0  # its images have 192 pixels, COCO's 800
