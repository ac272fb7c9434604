"""AdaMixer with 64 points in its first stage: the baseline of StageInteractor's ablations."""

from .adamixer_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.sampler.num_points = [64, 32]
train.output_dir = "./output/adamixer_r50_64points_12ep"
