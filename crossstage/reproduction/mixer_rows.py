"""StageInteractor's tables over AdaMixer as data. A `figure` is a label in paper_figures.json."""

from __future__ import annotations

from crossstage.reproduction.rows import Row

TOY = "stage_interactor_toy"
SUPERVISION = "model.criterion.groups.matching"
LABELS, COPIES = f"{SUPERVISION}.labels", f"{SUPERVISION}.matcher.copies"
MIXING, SAMPLER = "model.decoder.layer.mixing", "model.decoder.layer.sampler"
FILTERS = "crossstage.projects.stage_interactor.modeling.filters"
UNGROUPED = f"{SAMPLER}._target_=crossstage.projects.stage_interactor.modeling.grouped_sampler.ungrouped_sampler"
OWN_LABELS = (f"{LABELS}.look_back=0", f"{LABELS}.look_ahead=0", f"{LABELS}.iou_threshold=0.0")
EXCHANGED = (
    "the paper's two labels are probably exchanged: the row that it marks has the figures of its default model, which "
    "has no localisation supervision; the AP is 44.8 in both rows"
)
SUPPLEMENTARY = (
    "figure of the supplementary: the labels in the main paper contradict its Tables 6, 10 and 11, and a row is missing"
)
NO_REUSE = (f"{MIXING}.reuse.channel_filters=0", f"{MIXING}.reuse.spatial_filters=0")


def _row(
    name: str,
    *overrides: str,
    figure: str = "",
    baseline: str = "ours",
    small: tuple[str, ...] = (),
    note: str = "",
) -> Row:
    """StageInteractor R50 with 100 queries and 12 epochs; `small` are further overrides for the small model."""
    baseline = "" if baseline == name else baseline
    return Row(name, "stage_interactor_r50_12ep", TOY, figure, baseline, 12, overrides, small, note=note)


def _hybrid(times: int) -> Row:
    """Hybrid layer matching in place of CSLA: the first half of the stages matches each object several times."""
    copies = (f"{COPIES}=[{','.join([str(times)] * stages)},1]" for stages in (3, 2))
    note = f"the paper has one such row and says neither at which stages nor how often; {times} times is our reading"
    return _row(
        f"repeated_{times}x_first_half",
        *OWN_LABELS,
        next(copies),
        figure="Hybrid Layer†",
        baseline="baseline",
        small=(next(copies),),
        note=note,
    )


def _recipe(name: str, config: str, figure: str, epochs: int = 12) -> Row:
    """A recipe of Tables 2 and 3; on the generated set all of them use the small model."""
    return Row(name, config, TOY, figure, "", epochs)


def _adamixer(figure: str, points: int = 64) -> Row:
    """AdaMixer with this number of points in its first stage."""
    config = "adamixer_r50_64points_12ep" if points == 64 else "adamixer_r50_12ep"
    small = () if points == 64 else (f"{SAMPLER}.num_points=8",)
    return Row(
        "adamixer" if points == 64 else f"adamixer_{points}", config, "adamixer_toy", figure, toy_overrides=small
    )


MIXER_TABLES: dict[str, tuple[Row, ...]] = {
    # The baseline is StageInteractor without CSLA, as in Table 6 with reuse alone, and not AdaMixer.
    "1": (
        _row("baseline", *OWN_LABELS, figure="Baseline", baseline="baseline"),
        _hybrid(2),
        _hybrid(4),
        _row("ours", figure="Ours", baseline="baseline"),
    ),
    "2": (
        _adamixer("AdaMixer", 32),
        _recipe("stage_interactor", "stage_interactor_r50_12ep", "StageInteractor"),
        _recipe("stage_interactor_500q", "stage_interactor_r50_500q_12ep", "StageInteractor† (500 queries)"),
    ),
    "3": tuple(
        _recipe(name, f"stage_interactor_{name}", f"StageInteractor{queries}, {backbone}, {epochs} epochs", epochs)
        for name, queries, backbone, epochs in (
            ("r50_300q_12ep", "", "ResNet-50", 12),
            ("r50_300q_24ep", "", "ResNet-50", 24),
            ("r50_300q_36ep", "", "ResNet-50", 36),
            ("r101_300q_36ep", "", "ResNet-101", 36),
            ("x101_dcn_300q_36ep", "", "ResNeXt-101-DCN", 36),
            ("swin_small_300q_36ep", "", "Swin-S", 36),
            ("r50_900q_36ep", "* (900 queries)", "ResNet-50", 36),
        )
    ),
    "6": (
        _adamixer("CSLA=no, reuse=no"),
        _row(
            "grouped_sampler",
            *OWN_LABELS,
            *NO_REUSE,
            baseline="adamixer",
            note="not in the paper: it separates the sampler and the refinement from CSLA and reuse",
        ),
        _row("csla", *NO_REUSE, figure="CSLA=yes, reuse=no", baseline="adamixer"),
        _row("reuse", *OWN_LABELS, figure="CSLA=no, reuse=yes", baseline="adamixer"),
        _row("both", figure="CSLA=yes, reuse=yes", baseline="adamixer"),
    ),
    "7": (
        _row("neither", *OWN_LABELS, figure="cross=no, score=no", baseline="neither"),
        _row("score", *OWN_LABELS[:2], figure="cross=no, score=yes", baseline="neither"),
        _row("cross", f"{LABELS}.iou_threshold=1e-30", figure="cross=yes, score=no", baseline="neither"),
        _row("cross_and_score", figure="cross=yes, score=yes", baseline="neither"),
    ),
    "8": tuple(
        _row(f"spatial_{n}", f"{MIXING}.reuse.spatial_filters={n}", figure=f"N_S={n}", baseline="spatial_1")
        for n in (0, 1, 3)
    ),
    "10": tuple(
        _row(f"channel_{n}", f"{MIXING}.reuse.channel_filters={n}", figure=f"max_reused={n}", baseline="channel_0")
        for n in range(5)
    ),
    "11": (
        _row("none", f"{MIXING}.blend=null", figure="Filter=none (no additional dynamic mixing)", baseline="none"),
        _row("previous", f"{MIXING}.blend._target_={FILTERS}.PreviousFilters", figure="Filter=Pre", baseline="none"),
        _row("current", f"{MIXING}.blend._target_={FILTERS}.CurrentFilters", figure="Filter=Cur", baseline="none"),
        _row("adapter", figure="Filter=Adp", baseline="none"),
    ),
    "12": (
        _row("own_boxes", figure="localisation=yes (see notes)", baseline="own_boxes", note=EXCHANGED),
        _row(
            "boxes_too",
            f"{SUPERVISION}.adjustments=[{{_target_:csla.CrossStageBoxMatches}}]",
            figure="localisation=no (see notes)",
            baseline="own_boxes",
            note=EXCHANGED,
        ),
    ),
    "13": tuple(
        _row(name, *(f"{LABELS}.{value}" for value in values), figure=f"i in [1, {last}], {scope}", baseline="i_to_i")
        for name, values, scope, last in (
            ("i_to_i", ("look_back=0", "look_ahead=0"), "alpha=i, beta=i", "L"),
            ("before_to_i", ("look_ahead=0",), "alpha=i - 1, beta=i", "L"),
            ("before_to_next", ("look_ahead=1",), "alpha=i - 1, beta=i + 1", "L"),
            ("before_to_last", (), "alpha=i - 1, beta=L", "L"),
            ("first_to_last", ("look_back=null",), "alpha=1, beta=L", "L"),
            ("before_to_last_but_last_two_plain", ("plain_last_stages=2",), "alpha=i - 1, beta=L", "L - 2"),
        )
    ),
    "14": tuple(
        _row(f"iou_{t}", f"{LABELS}.iou_threshold={t}", figure=f"iou_threshold={t}", baseline="iou_0.5")
        for t in (0.3, 0.5, 0.7)
    ),
    "15": tuple(
        _row(name, *values, figure=f"dynamic={dynamic}, static={static}", baseline="neither", note=SUPPLEMENTARY)
        for name, values, dynamic, static in (
            ("neither", NO_REUSE[:1], "no", "no"),
            ("dynamic", (f"{MIXING}.static=null",), "yes", "no"),
            ("static", (f"{MIXING}.blend=null",), "no", "yes"),
            ("dynamic_and_static", (), "yes", "yes"),
        )
    ),
    "16": tuple(
        _row(name, *values, figure=f"static mixing={label}", baseline="none", note=SUPPLEMENTARY)
        for name, values, label in (
            ("none", (f"{MIXING}.static=null",), "none"),
            ("channel", (f"{MIXING}.static._target_={FILTERS}.ChannelMixing",), "Channel"),
            ("spatial", (f"{MIXING}.static._target_={FILTERS}.SpatialMixing",), "Spatial"),
            ("channel_spatial", (), "Channel-spatial"),
        )
    ),
    "17": (
        _row("vanilla", UNGROUPED, f"+{SAMPLER}.grouped_start=false", figure="Sampling=Vanilla", baseline="vanilla"),
        _row("group_start", UNGROUPED, figure="Sampling=Group init.", baseline="vanilla"),
        _row("grouped", figure="Sampling=Ours", baseline="vanilla"),
    ),
    "18": (
        _adamixer("baseline, P_in1=32", 32),
        _adamixer("baseline, P_in1=64"),
        _row(
            "first_stage_32",
            f"{SAMPLER}.num_anchors=[4,4]",
            figure="StageInteractor, P_in1=32",
            baseline="adamixer_32",
            small=(f"{SAMPLER}.num_anchors=[2,2]",),
        ),
        _row("first_stage_64", figure="StageInteractor, P_in1=64", baseline="adamixer"),
    ),
}
