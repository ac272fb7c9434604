"""RNNDet with a ResNet-50, 100 queries and 32 points: DEQDet's decoder as a chain of 20 layers, all supervised."""

from .deqdet_r50 import model

# NF = 20 layers: the initial one and 19 applications of the shared one
model.decoder.update(steps=0, supervised=[], extra_supervised=19, perturbation=None)
