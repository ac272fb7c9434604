"""Deformable-DETR with iterative box refinement: each stage starts from the boxes of the one before."""

from .deformable_detr_r50 import model

model.decoder.refine = True
