"""FFNDet, the baseline of DEQDet's code: an AdaMixer of 64 points, whose neck has 3x3 convolutions and a ReLU."""

import torch
from crossstage.projects.adamixer.configs.models.adamixer_r50 import model

from crossstage.config import LazyCall as L

model.neck.kernel_size = 3
model.neck.activation = L(torch.nn.ReLU)()
model.decoder.least_side = 1e-7
model.decoder.layer.sampler.num_points = 64
