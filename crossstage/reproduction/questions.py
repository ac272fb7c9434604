"""The questions of docs/results.md: rows of a paper's table with one recipe for all of them.

`crossstage reproduce --question NAME` answers one. Recipes are chosen for the baseline alone, so that it is trained out
as far as six minutes of a core allow; docs/results.md says how. Rows are named as in the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from crossstage.config.names import suggestion
from crossstage.errors import InputError
from crossstage.reproduction.rows import Table
from crossstage.reproduction.tables import table_of

SEEDS, EVALUATIONS = 5, 5
ROOT = "datasets/toy_easy_1000"
BACKBONES = Path("output/questions/backbones")
GENERATED = ("--train", "1200", "--val", "1000", "--seed", "0", "--preset", "easy")
"""As the data set of the quickstart, with five times as many pictures to evaluate on."""

AVERAGED = (
    "train.model_ema.enabled=true",
    "train.model_ema.decay=0.99",
    "train.model_ema.use_ema_weights_for_eval_only=true",
)
PLAIN, CSLA, BOTH = "dino_12ep", "dino_12ep_csla", "dino_12ep_csla_dca"
MIXERS = ("adamixer", "grouped_sampler", "csla", "reuse", "both")


@dataclass(frozen=True)
class Question:
    """Rows to compare, and how they are trained.

    Attributes:
        asks: the question in words.
        paper: the paper's name in paper_figures.json.
        table: the table's name.
        rows: names of its rows, in the table's order; the first one is the baseline. Some may evaluate the weights of
            another one of them, as DEQDet with fewer steps does.
        recipe: key=value for the configs of all rows.
        data: "toy" for the generated set, or "own" for a folder that --root gives.
        backbone: the config whose backbone is trained to classify shapes (`pretraining`) and is where all runs start
            from; "" for random weights.
    """

    asks: str
    paper: str
    table: str
    rows: tuple[str, ...]
    recipe: tuple[str, ...]
    data: str = "toy"
    backbone: str = ""

    @property
    def backbone_file(self) -> Path | None:
        """The checkpoint of the backbone, relative to the folder in which the command runs; None for random weights."""
        return BACKBONES / f"{self.backbone}.pth" if self.backbone else None

    def as_table(self) -> Table:
        """The rows with the recipe."""
        table = table_of(self.paper, self.table)
        rows = {row.name: row for row in table.rows}
        chosen = [rows[name] for name in self.rows]
        start = (f"train.init_checkpoint={self.backbone_file}",) if self.backbone else ()
        recipe = (*self.recipe, *AVERAGED, *start)
        return replace(
            table, asks=self.asks, rows=tuple(replace(row, toy_overrides=row.toy_overrides + recipe) for row in chosen)
        )


def _recipe(rate: str, iterations: int) -> tuple[str, ...]:
    return f"optimizer.lr={rate}", f"train.max_iter={iterations}"


# The pictures of blood cells have 640 x 480 pixels; a batch has half as many as on the generated set.
_BCCD = ("dataloader.image_size=224", "dataloader.train.total_batch_size=4")
DEFORMABLE, H_DETR = "deformable_detr_50ep", "h_detr_12ep"

DETR_BACKBONE, MIXER_BACKBONE = "dino_toy", "adamixer_toy"
_MIXER = (*_recipe("5e-4", 1600), "optimizer.params.lr_factors.backbone=1.0")  # more than 1 is for random weights

QUESTIONS = {
    "dino": Question(
        "CSLA and DCA on the small DINO",
        "stageinteractor",
        "4",
        (PLAIN, CSLA, BOTH),
        _recipe("2e-3", 1600),
        backbone=DETR_BACKBONE,
    ),
    "deformable_detr": Question(
        "CSLA on the small two-stage Deformable-DETR",
        "stageinteractor",
        "4",
        (DEFORMABLE, f"{DEFORMABLE}_csla"),
        _recipe("2e-3", 1600),
        backbone=DETR_BACKBONE,
    ),
    "h_detr": Question(
        "CSLA on the small H-DETR",
        "stageinteractor",
        "4",
        (H_DETR, f"{H_DETR}_csla"),
        _recipe("2e-3", 1600),
        backbone=DETR_BACKBONE,
    ),
    "stage_interactor": Question(
        "CSLA and reuse over the small AdaMixer", "stageinteractor", "6", MIXERS, _MIXER, backbone=MIXER_BACKBONE
    ),
    "deqdet": Question(
        "the small DEQDet and RNNDet against AdaMixer",
        "deqdet",
        "2",
        ("adamixer", "rnndet_nf6", *(f"deqdet_nf{nf}" for nf in (6, 8, 16, 25))),
        _MIXER,
        backbone=MIXER_BACKBONE,
    ),
    "paq": Question(
        "pattern queries and quality-aware matching on the small DINO",
        "paq_detr",
        "6",
        ("neither", "patterns", "quality", "both"),
        _recipe("2e-3", 1600),
        backbone=DETR_BACKBONE,
    ),
    "dino_from_scratch": Question(
        "CSLA and DCA on the small DINO, from random weights",
        "stageinteractor",
        "4",
        (PLAIN, CSLA, BOTH),
        _recipe("2e-3", 2400),
    ),
    "h_detr_from_scratch": Question(
        "CSLA on the small H-DETR, from random weights",
        "stageinteractor",
        "4",
        (H_DETR, f"{H_DETR}_csla"),
        _recipe("2e-3", 1600),
    ),
    "dino_pictures": Question(
        "CSLA and DCA on the small DINO, on pictures",
        "stageinteractor",
        "4",
        (PLAIN, CSLA, BOTH),
        (*_recipe("2e-3", 1000), *_BCCD),
        "own",
    ),
    "stage_interactor_pictures": Question(
        "CSLA and reuse over the small AdaMixer, on pictures",
        "stageinteractor",
        "6",
        MIXERS,
        (*_recipe("5e-4", 1000), *_BCCD),
        "own",
    ),
}


def question_of(name: str) -> Question:
    """A question by its name. Raises InputError for an unknown name; the message lists all."""
    if name not in QUESTIONS:
        raise InputError(
            f"--question {name}: no such question.{suggestion(name, list(QUESTIONS))} There are: {', '.join(QUESTIONS)}"
        )
    return QUESTIONS[name]
