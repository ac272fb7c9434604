"""RNNDet R50 of the paper's Table 3 with 64 points in both layers, 300 queries, 36 epochs."""

from .rnndet_r50_300q_36ep import dataloader, lr_multiplier, model, optimizer, train

model.decoder.refinement.layer.sampler.num_points = 64
train.output_dir = "./output/rnndet_r50_64points_300q_36ep"
