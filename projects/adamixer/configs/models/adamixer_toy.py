"""An AdaMixer that trains on two CPU cores in minutes: for the generated dataset and the tests."""

from crossstage.config import get_config

from .adamixer_r50 import model

model.merge_with(get_config("common/models/toy.py").mixer)
model.decoder.layer.sampler.num_points = [16, 8]
