"""The small DINO with a Swin of five blocks, 32 to 256 channels wide, on images of any size."""

from .dino_toy import model

model.backbone.update(
    name="swin_tiny_patch4_window7_224",
    output_norm=True,
    options={"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4, "img_size": 128},
)
model.neck.in_channels = [64, 128, 256]
