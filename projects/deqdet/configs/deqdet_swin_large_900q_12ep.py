"""DEQDet with a Swin-L of ImageNet-22k, 900 queries, 12 epochs; the best 300 detections of an image count."""

from .deqdet_swin_large_300q_12ep import dataloader, lr_multiplier, model, optimizer, train

model.queries.source.num_queries = 900
model.postprocess.num_select = 300
train.output_dir = "./output/deqdet_swin_large_900q_12ep"
