"""Deformable-DETR R50 with iterative box refinement, 50 epochs on COCO: detrex's recipe (47.0 AP there)."""

from .deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.deformable_detr_r50_with_box_refinement import model

train.output_dir = "./output/deformable_detr_r50_with_box_refinement_50ep"
