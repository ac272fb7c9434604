"""Names of the released AdaMixer checkpoints (mmdetection) against ours."""

from crossstage.checkpoints.names import NameTable, mmdet_mixer_rules


def mmdet_adamixer_names() -> NameTable:
    """The table for AdaMixer with a ResNet."""
    theirs, ours = "roi_head.bbox_head.{i}.sampling_n_mixing.", "decoder.layers.{i}."
    return NameTable(
        [
            ("rpn_head.init_proposal_bboxes.weight", "queries.source.boxes"),
            *mmdet_mixer_rules(),
            (theirs + "norm.{p}", ours + "mixing_norm.{p}"),
            (theirs + "sampling_offset_generator.0.{p}", ours + "sampler.offsets.{p}"),
            (theirs + "adaptive_mixing.parameter_generator.0.{p}", ours + "mixing.filters.{p}"),
            (theirs + "adaptive_mixing.out_proj.{p}", ours + "mixing.project.{p}"),
        ],
        library="mmdet",
    )
