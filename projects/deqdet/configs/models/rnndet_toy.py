"""A small RNNDet: for the generated dataset and the tests."""

from .deqdet_toy import model

model.decoder.update(steps=0, supervised=[], extra_supervised=5, perturbation=None)
