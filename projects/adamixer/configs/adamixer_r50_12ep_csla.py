"""AdaMixer R50 with cross-stage labels: its line of the config is the whole difference."""

from csla import with_csla

from .adamixer_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/adamixer_r50_12ep_csla"
