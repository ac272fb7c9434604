"""PaQ-DINO Swin-L, 4 scales, 12 epochs (57.8 AP in the paper, over a stronger DINO)."""

from crossstage.projects.dino.configs.dino_swin_large_384_4scale_12ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from crossstage.projects.paq_detr.config import with_paq

model = with_paq(model)
train.output_dir = "./output/dino_swin_large_384_4scale_12ep_paq"
