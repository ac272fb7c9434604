"""StageInteractor R50, 900 queries and more points, 36 epochs (50.8 AP in the paper; its counts are not stated)."""

from .stage_interactor_r50_300q_36ep import dataloader, lr_multiplier, model, optimizer, train

model.queries.source.num_queries = 900
model.decoder.layer.sampler.num_anchors = [8]  # 64 points at every stage: our guess
train.output_dir = "./output/stage_interactor_r50_900q_36ep"
