"""StageInteractor R50, 500 queries, 12 epochs (46.9 AP in the paper; no released config)."""

from .stage_interactor_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.queries.source.num_queries = 500
train.output_dir = "./output/stage_interactor_r50_500q_12ep"
