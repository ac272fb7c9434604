"""What makes a detector small enough for two CPU cores and the generated dataset: values to merge into its model.

    model.merge_with(get_config("common/models/toy.py").deformable)

`anchor_boxes` is for the model of `anchor_boxes_r50.py`, `deformable` for that of `deformable.py`, `mixer` for that of
`adamixer.py`.
"""

from omegaconf import OmegaConf

_small = OmegaConf.create(
    {
        "num_classes": 8,
        "embed_dim": 96,
        "backbone": {
            "name": "resnet18",
            "pretrained": False,
            "frozen_norm": False,
            "frozen_stages": 0,
            "options": {"layers": [1, 1, 1, 1], "channels": [32, 64, 96, 128]},
        },
        "encoder": {
            "num_layers": 1,
            "position": {"num_features": 48},
            "layer": {"ffn": {"feedforward_dim": 192}, "self_attn": {"num_heads": 4}},
        },
        "queries": {"source": {"num_queries": 40}},
        "decoder": {
            "num_layers": 3,
            "layer": {
                "ffn": {"feedforward_dim": 192},
                "self_attn": {"num_heads": 4},
                "cross_attn": {"num_heads": 4},
            },
        },
        "postprocess": {"num_select": 40},
    }
)

anchor_boxes = OmegaConf.merge(
    _small,
    {
        # dilated, because an object of 35 pixels would be a single token at stride 32
        "backbone": {"strides": [8], "options": {"output_stride": 8}},
        "neck": {"in_channels": 128},
    },
)

deformable = OmegaConf.merge(
    _small,
    {
        "backbone": {"strides": [8, 16, 32]},
        "neck": {"in_channels": [64, 96, 128], "num_levels": 3, "groups": 8},
        "encoder": {"layer": {"self_attn": {"num_points": 2}}},
        "decoder": {"layer": {"cross_attn": {"num_points": 2}}},
        "criterion": {"groups": {"matching": {"weights": {"class": 2.0}}}},
    },
)

mixer = OmegaConf.create(
    {
        "num_classes": 8,
        "embed_dim": 64,
        "backbone": {
            **deformable.backbone,
            "strides": [4, 8, 16, 32],
            "edits": [],
            # a stem of 16 channels: with ResNet's own 64 channels the backbone takes 1.5 times as long
            "options": {**deformable.backbone.options, "stem_type": "deep", "stem_width": 8},
        },
        "neck": {"in_channels": [32, 64, 96, 128], "groups": 8},
        "queries": {"source": {"num_queries": 24}},
        "decoder": {
            "num_layers": 4,  # in StageInteractor, the last two layers reuse filters
            "layer": {
                "attention": {"num_heads": 4},
                "ffn": {"feedforward_dim": 128},
                "mixing": {"num_outputs": 32},
            },
        },
        "criterion": {"groups": {"matching": {"weights": {"class": 3.0}}}},  # boxes are learned before classes
    }
)
