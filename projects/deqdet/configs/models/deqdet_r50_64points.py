"""DEQDet as its weights were released: 64 points in both layers, 3x3 convolutions and a ReLU in the neck."""

import torch

from crossstage.config import LazyCall as L

from .deqdet_r50 import model

model.neck.kernel_size = 3
model.neck.activation = L(torch.nn.ReLU)()
model.decoder.initial.layer.sampler.num_points = 64
model.decoder.refinement.layer.sampler.num_points = 64
