"""Names of the released StageInteractor checkpoints (mmdetection) against ours.

Two tensors in them have no counterpart because the released code never uses them: `dynamic_conv.subbox_score_list`
(a softmax over one number) and `iou_snyc_statistics`. They are ignored, and the log says so.
"""

from crossstage.checkpoints.mmdet_names import mmdet_mixer_names, mmdet_mixer_rules
from crossstage.checkpoints.names import NameTable

_MIXING = {
    "parameter_generator": "filters",
    "mix_bias": "biases",
    "Wv": "project",
    "subbox_local_list": "over_details",
    "axis_atten_list": "over_anchors",
    "M_score_list": "channel_shares",
    "M_score_list_mix_bias": "reused_biases",
    "S_score_list": "row_shares",
    "S_score_list2": "point_shares",
}


def mmdet_stage_interactor_names(*, free_sampler: bool = False) -> NameTable:
    """StageInteractor with a ResNet or a Swin. free_sampler: True for the ablation without grouped points."""
    theirs, ours = "roi_head.bbox_head.{i}.", "decoder.layers.{i}."
    details = "offsets" if free_sampler else "details"
    return mmdet_mixer_names(
        [
            ("rpn_head.init_proposal_bboxes", "queries.source.boxes"),
            *mmdet_mixer_rules(),
            (theirs + "dynamic_conv.Wv_layer_norm.{p}", ours + "mixing_norm.{p}"),
            *(
                (f"{theirs}dynamic_conv.{name}.{{p}}", f"{ours}mixing.{native}.{{p}}")
                for name, native in _MIXING.items()
            ),
            (theirs + "feat_extractor.gen_one_d.0.{p}", ours + "sampler.anchors.{p}"),
            (theirs + "feat_extractor.gen_double_d.0.{p}", f"{ours}sampler.{details}.{{p}}"),
        ],
        unread=[theirs + "dynamic_conv.subbox_score_list.{p}", theirs + "iou_snyc_statistics.{p}"],
    )
