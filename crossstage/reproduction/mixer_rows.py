"""StageInteractor's tables over AdaMixer as data. The AP is the paper's, on COCO val2017, if we know it."""

from __future__ import annotations

from crossstage.reproduction.rows import Row

PAPER = "StageInteractor, ICCV 2023"
TOY = "stage_interactor_toy"
SUPERVISION = "model.criterion.groups.matching"
LABELS, COPIES = f"{SUPERVISION}.labels", f"{SUPERVISION}.matcher.copies"
MIXING, SAMPLER = "model.decoder.layer.mixing", "model.decoder.layer.sampler"
FILTERS = "crossstage.projects.stage_interactor.modeling.filters"
OWN_LABELS = (f"{LABELS}.look_back=0", f"{LABELS}.look_ahead=0", f"{LABELS}.iou_threshold=0.0")
NO_REUSE = (f"{MIXING}.reuse.channel_filters=0", f"{MIXING}.reuse.spatial_filters=0")


def _row(name: str, *overrides: str, ap: float | None = None, baseline: str = "ours", small: tuple = ()) -> Row:
    """StageInteractor R50 with 100 queries and 12 epochs; `small` are further overrides for the small model."""
    return Row(
        name=name,
        config="stage_interactor_r50_12ep",
        toy_config=TOY,
        paper_ap=ap,
        source=PAPER if ap else "",
        baseline="" if baseline == name else baseline,
        epochs=12,
        overrides=overrides,
        toy_overrides=small,
    )


def _recipe(name: str, config: str, ap: float, epochs: int) -> Row:
    """A recipe of Tables 2 and 3; on the generated set all of them use the small model."""
    return Row(name, config, TOY, ap, PAPER, "", epochs)


_ADAMIXER = Row(
    name="adamixer",
    config="adamixer_r50_64points_12ep",
    toy_config="adamixer_toy",
    paper_ap=42.6,
    source=PAPER,
    baseline="",
    epochs=12,
)

MIXER_TABLES: dict[str, tuple[Row, ...]] = {
    # Hybrid layer matching: early stages match each object several times. The numbers of stages and of times are our
    # interpretation.
    "1": (
        _row("ours", ap=44.8),
        _row("repeated_2x_first_half", f"{COPIES}=[2,2,2,1]", small=(f"{COPIES}=[2,2,1]",)),
        _row("repeated_4x_first_half", f"{COPIES}=[4,4,4,1]", small=(f"{COPIES}=[4,4,1]",)),
    ),
    "2": (
        _ADAMIXER,
        _recipe("stage_interactor", "stage_interactor_r50_12ep", 44.8, 12),
        _recipe("stage_interactor_500q", "stage_interactor_r50_500q_12ep", 46.9, 12),
    ),
    "3": (
        _recipe("r50_300q_12ep", "stage_interactor_r50_300q_12ep", 46.3, 12),
        _recipe("r50_300q_24ep", "stage_interactor_r50_300q_24ep", 48.3, 24),
        _recipe("r50_300q_36ep", "stage_interactor_r50_300q_36ep", 48.9, 36),
        _recipe("r101_300q_36ep", "stage_interactor_r101_300q_36ep", 49.9, 36),
        _recipe("x101_dcn_300q_36ep", "stage_interactor_x101_dcn_300q_36ep", 51.3, 36),
        _recipe("swin_small_300q_36ep", "stage_interactor_swin_small_300q_36ep", 52.7, 36),
        _recipe("r50_900q_36ep", "stage_interactor_r50_900q_36ep", 50.8, 36),
    ),
    "6": (
        _ADAMIXER,
        _row("grouped_sampler", *OWN_LABELS, *NO_REUSE, baseline="adamixer"),
        _row("csla", *NO_REUSE, ap=44.1, baseline="adamixer"),
        _row("reuse", *OWN_LABELS, ap=43.0, baseline="adamixer"),
        _row("both", ap=44.8, baseline="adamixer"),
    ),
    "7": (
        _row("neither", *OWN_LABELS, baseline="neither"),
        _row("score", f"{LABELS}.look_back=0", f"{LABELS}.look_ahead=0", baseline="neither"),
        _row("cross", f"{LABELS}.iou_threshold=1e-30", baseline="neither"),
        _row("cross_and_score", ap=44.8, baseline="neither"),
    ),
    "8": tuple(
        _row(f"spatial_{n}", f"{MIXING}.reuse.spatial_filters={n}", ap=44.8 if n == 1 else None, baseline="spatial_1")
        for n in (0, 1, 3)
    ),
    "10": tuple(
        _row(f"channel_{n}", f"{MIXING}.reuse.channel_filters={n}", ap=44.8 if n == 4 else None, baseline="channel_0")
        for n in range(5)
    ),
    "11": (
        _row("none", f"{MIXING}.blend=null", baseline="none"),
        _row("previous", f"{MIXING}.blend._target_={FILTERS}.PreviousFilters", baseline="none"),
        _row("current", f"{MIXING}.blend._target_={FILTERS}.CurrentFilters", baseline="none"),
        _row("adapter", ap=44.8, baseline="none"),
    ),
    "12": (
        _row("own_boxes", ap=44.8, baseline="own_boxes"),
        _row(
            "boxes_too",
            f"{SUPERVISION}.adjustments=[{{_target_:csla.CrossStageBoxMatches}}]",
            ap=44.8,
            baseline="own_boxes",
        ),
    ),
    "13": (
        _row("i_to_i", f"{LABELS}.look_back=0", f"{LABELS}.look_ahead=0", baseline="i_to_i"),
        _row("before_to_i", f"{LABELS}.look_ahead=0", baseline="i_to_i"),
        _row("before_to_next", f"{LABELS}.look_ahead=1", baseline="i_to_i"),
        _row("before_to_last", ap=44.8, baseline="i_to_i"),
        _row("first_to_last", f"{LABELS}.look_back=null", baseline="i_to_i"),
        _row("before_to_last_but_last_two_plain", f"{LABELS}.plain_last_stages=2", baseline="i_to_i"),
    ),
    "14": tuple(
        _row(f"iou_{t}", f"{LABELS}.iou_threshold={t}", ap=44.8 if t == 0.5 else None, baseline="iou_0.5")
        for t in (0.3, 0.4, 0.5, 0.6, 0.7)
    ),
    "15": (
        _row("neither", *NO_REUSE[:1], baseline="neither"),
        _row("dynamic", f"{MIXING}.static=null", baseline="neither"),
        _row("static", f"{MIXING}.blend=null", baseline="neither"),
        _row("dynamic_and_static", ap=44.8, baseline="neither"),
    ),
    "16": (
        _row("channel", f"{MIXING}.static._target_={FILTERS}.ChannelMixing", baseline="channel"),
        _row("spatial", f"{MIXING}.static._target_={FILTERS}.SpatialMixing", baseline="channel"),
        _row("channel_spatial", ap=44.8, baseline="channel"),
    ),
    "17": (
        _row(
            "vanilla",
            f"{SAMPLER}._target_=crossstage.projects.stage_interactor.modeling.grouped_sampler.ungrouped_sampler",
            f"+{SAMPLER}.grouped_start=false",
            baseline="vanilla",
        ),
        _row(
            "group_start",
            f"{SAMPLER}._target_=crossstage.projects.stage_interactor.modeling.grouped_sampler.ungrouped_sampler",
            baseline="vanilla",
        ),
        _row("grouped", ap=44.8, baseline="vanilla"),
    ),
    "points": (
        _row(
            "first_stage_32",
            f"{SAMPLER}.num_anchors=[4,4]",
            baseline="first_stage_32",
            small=(f"{SAMPLER}.num_anchors=[2,2]",),
        ),
        _row("first_stage_64", ap=44.8, baseline="first_stage_32"),
    ),
}
