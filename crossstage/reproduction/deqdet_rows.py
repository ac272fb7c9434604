"""DEQDet's tables as data. A `figure` is a label in paper_figures.json.

NF counts the initial layer, so that it is one more than the applications of the refinement layer. The rows have
AdaMixer's neck, as the paper's numbers of parameters say. On the generated set 16 points stand for the paper's 32, and
32 for 64; noise of 6 pixels stands for 25.
"""

from __future__ import annotations

from dataclasses import replace

from crossstage.reproduction.rows import Row

D = "model.decoder"
INITIAL, REFINEMENT = (f"{D}.{step}.layer.sampler.num_points" for step in ("initial", "refinement"))
POINTS_64 = (f"{INITIAL}=64", f"{REFINEMENT}=64"), (f"{INITIAL}=32", f"{REFINEMENT}=32")
NOISE = "crossstage.projects.deqdet.modeling.noise"


def _adamixer(name: str, figure: str, points: int, baseline: str = "") -> Row:
    """AdaMixer with 100 queries and as many points in all layers."""
    key = f"{D}.layer.sampler.num_points"
    return Row(
        name, "adamixer_r50_12ep", "adamixer_toy", figure, baseline, 12, (f"{key}={points}",), (f"{key}={points // 2}",)
    )


def _rnndet(nf: int, figure: str) -> Row:
    values = (f"{D}.extra_supervised={nf - 1}",)
    return Row(f"rnndet_nf{nf}", "rnndet_r50_12ep", "rnndet_toy", figure, "adamixer", 12, values)


def _deqdet(nf: int, figure: str, *, name: str = "deqdet") -> Row:
    """A number of layers in evaluation, all of one training, whose own evaluation is the one with 25."""
    values, trained_as = (f"{D}.eval_steps={nf - 1}",), "" if nf == 25 else f"{name}_nf25"
    return Row(f"{name}_nf{nf}", "deqdet_r50_12ep", "deqdet_toy", figure, "adamixer", 12, values, (), trained_as)


def _with_64_points(row: Row) -> Row:
    """The same with 64 points in both layers."""
    return replace(row, overrides=row.overrides + POINTS_64[0], toy_overrides=row.toy_overrides + POINTS_64[1])


def _recipe(name: str, config: str, figure: str, epochs: int, *, baseline: str = "", points: int = 32) -> Row:
    """A row of Table 3: 300 queries, 64 points in the initial layer, `points` in the refinement layer."""
    kind = config.split("_")[0]
    row = Row(name, config, f"{kind}_toy", f"{figure}, {epochs} epochs", baseline, epochs)
    if kind == "rnndet":
        row = replace(row, overrides=(f"{D}.extra_supervised=7",))
    if kind != "adamixer":
        row = replace(row, toy_overrides=(f"{INITIAL}=32",))
    return _with_64_points(row) if points == 64 else row


def _row(name: str, figure: str, *overrides: str, baseline: str, small: tuple[str, ...] = ()) -> Row:
    """A row of Table 4: 64 points in the initial layer; `small` are further overrides for the small model."""
    baseline = "" if baseline == name else baseline
    values, toy = (f"{INITIAL}=64", *overrides), (f"{INITIAL}=32", *small)
    return Row(name, "deqdet_r50_12ep", "deqdet_toy", figure, baseline, 12, values, toy)


def _supervised(name: str, figure: str, *positions: int, baseline: str) -> Row:
    """Supervised positions, the last of which is the number of steps in training."""
    values = (f"{D}.steps={positions[-1]}", f"{D}.supervised=[{','.join(map(str, positions))}]")
    return _row(name, figure, *values, baseline=baseline)


def _branch_noise(name: str, figure: str, steps_before: int) -> Row:
    """Noise on the branches alone, whose main path has none."""

    def node(scale: float) -> str:
        inner = f"{{_target_:{NOISE}.Perturbation,position_scale:{scale}}}"
        return f"{D}.branch_noise={{_target_:{NOISE}.BranchNoise,perturbation:{inner},steps_before:{steps_before}}}"

    return _row(name, figure, f"{D}.perturbation=null", node(25.0), baseline="multi_step", small=(node(6.0),))


def _noise(name: str, sigma_q: float | None, sigma_p: int | None, *, baseline: str) -> Row:
    """Noise of a strength on contents and boxes; None for none."""
    content = "content_probability=0.0" if sigma_q is None else f"content_scale={sigma_q}"
    position = "position_probability=0.0" if sigma_p is None else f"position_scale={sigma_p}.0"
    values = tuple(f"{D}.perturbation.{value}" for value in (content, position))
    small = () if sigma_p is None else (f"{D}.perturbation.position_scale={6.0 * sigma_p / 25}",)
    return _row(name, f"sigma_q={sigma_q}, sigma_p={sigma_p}", *values, baseline=baseline, small=small)


DEQDET_TABLES: dict[str, tuple[Row, ...]] = {
    "1": (
        _adamixer("adamixer", "AdaMixer T=6", 32),
        _adamixer("adamixer_64points", "AdaMixer† T=6", 64, "adamixer"),
        _rnndet(6, "RNNDet T=6"),
        _rnndet(12, "RNNDet T=12"),
        _deqdet(25, "DEQDet"),
        _with_64_points(_deqdet(25, "DEQDet†", name="deqdet_64points")),
    ),
    "2": (
        _adamixer("adamixer", "AdaMixer, NF=6", 32),
        _adamixer("adamixer_64points", "AdaMixer†, NF=6", 64, "adamixer"),
        *(_rnndet(nf, f"RNNDet, NF={nf}") for nf in (6, 8, 12, 16, 20)),
        *(_deqdet(nf, f"DEQDet, NF={nf}") for nf in (6, 8, 16, 25)),
        *(_with_64_points(_deqdet(nf, f"DEQDet†, NF={nf}", name="deqdet_64points")) for nf in (6, 25)),
    ),
    "3": (
        _recipe("adamixer_r50", "adamixer_r50_300q_36ep", "AdaMixer, ResNet-50", 36),
        _recipe("rnndet", "rnndet_r50_300q_36ep", "RNNDet T=8, ResNet-50", 36, baseline="adamixer_r50"),
        _recipe(
            "rnndet_64points", "rnndet_r50_300q_36ep", "RNNDet T=8†, ResNet-50", 36, baseline="adamixer_r50", points=64
        ),
        _recipe("deqdet_12ep", "deqdet_r50_300q_12ep", "DEQDet, ResNet-50", 12, baseline="adamixer_r50"),
        _recipe("deqdet_24ep", "deqdet_r50_300q_24ep", "DEQDet, ResNet-50", 24, baseline="adamixer_r50"),
        _recipe(
            "deqdet_64points", "deqdet_r50_300q_24ep", "DEQDet†, ResNet-50", 24, baseline="adamixer_r50", points=64
        ),
        _recipe("adamixer_r101", "adamixer_r101_300q_36ep", "AdaMixer, ResNet-101", 36),
        _recipe("deqdet_r101", "deqdet_r101_300q_24ep", "DEQDet, ResNet-101", 24, baseline="adamixer_r101"),
        _recipe(
            "deqdet_r101_64points",
            "deqdet_r101_300q_24ep",
            "DEQDet†, ResNet-101",
            24,
            baseline="adamixer_r101",
            points=64,
        ),
        _recipe("adamixer_swin", "adamixer_swin_small_300q_36ep", "AdaMixer, Swin-S", 36),
        _recipe("deqdet_swin", "deqdet_swin_small_300q_24ep", "DEQDet, Swin-S", 24, baseline="adamixer_swin"),
    ),
    "4a": (
        Row("none", "deqdet_r50_12ep", "deqdet_toy", "no init layer", "points_64", 12, (f"{D}.initial=null",)),
        _row("points_32", "init layer points=32", f"{INITIAL}=32", baseline="points_64", small=(f"{INITIAL}=16",)),
        _row("points_64", "init layer points=64", baseline="points_64"),
    ),
    "4b": tuple(
        _row(f"h_{h}", f"extra supervised layers h={h}", f"{D}.extra_supervised={h}", baseline="h_2") for h in range(3)
    ),
    "4c": tuple(_row(f"k_{k}", f"RAG steps k={k}", f"{D}.gradient_steps={k}", baseline="k_2") for k in (1, 2, 3, 4)),
    "4d": (
        _supervised("m4_c3", "m=4, C=3", 1, 3, 6, 9, 12, 20, baseline="m4_c3"),
        _supervised("m4_c4", "m=4, C=4", 1, 4, 8, 12, 16, 20, baseline="m4_c3"),
        _supervised("m3_c3", "m=3, C=3", 1, 3, 6, 9, 20, baseline="m4_c3"),
        _supervised("m5_c3", "m=5, C=3", 1, 3, 6, 9, 12, 15, 20, baseline="m4_c3"),
    ),
    "4e": (
        _row("none", "perturbation=none", f"{D}.perturbation=null", baseline="multi_step"),
        _branch_noise("zero_step", "perturbation=zero-step", 0),
        _branch_noise("one_step", "perturbation=one-step", 1),
        _row("multi_step", "perturbation=multi-step", baseline="multi_step"),
    ),
    "4f": (
        _row("none", "sigma_q=None, sigma_p=None", f"{D}.perturbation=null", baseline="none"),
        _noise("boxes_25", None, 25, baseline="none"),
        _noise("boxes_50", None, 50, baseline="none"),
        _noise("contents_0.1", 0.1, None, baseline="none"),
        _noise("contents_0.2", 0.2, None, baseline="none"),
    ),
    "4g": tuple(_noise(f"q_{q}_p_{p}", q, p, baseline="q_0.1_p_25") for q in (0.1, 0.2) for p in (25, 50)),
    "4h": tuple(_supervised(f"t_{t}", f"T_train={t}", 1, 3, 6, 9, 12, t, baseline="t_20") for t in (15, 20, 25)),
}
