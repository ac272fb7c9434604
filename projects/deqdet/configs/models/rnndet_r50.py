"""RNNDet with a ResNet-50, 100 queries and 32 points: DEQDet's decoder as a chain of 12 layers, all supervised."""

from .deqdet_r50 import model

# 12 layers (NF in the paper): the initial one and 11 applications of the shared one
model.decoder.update(steps=0, supervised=[], extra_supervised=11, perturbation=None)
