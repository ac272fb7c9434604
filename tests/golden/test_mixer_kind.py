"""What the comparison with AdaMixer and StageInteractor makes of folders that the public ones do not show."""

from pathlib import Path

import pytest
import torch

from tests.golden.folder import GoldenFolder
from tests.golden.mixer_kind import compare_stage_interactor, window_of

DATA = Path(__file__).parent / "data"


class WithoutObjects(GoldenFolder):
    """A public folder as the reference would have left it for images without objects: it divides by 0."""

    def inputs(self, case: str = "") -> dict[str, torch.Tensor]:
        inputs = super().inputs(case)
        return inputs | {name: tensor[:0] for name, tensor in inputs.items() if name.startswith("gt_")}

    def expected(self, case: str = "") -> dict[str, torch.Tensor]:
        values = {"loss_": 0.0, "loss.": 0.0, "match": 0, "csla": 0.0, "avg": 0.0, "grad": float("nan")}
        found = super().expected(case)
        for name, tensor in found.items():
            value = next((value for start, value in values.items() if name.startswith(start)), None)
            if value is not None:
                found[name] = torch.full_like(tensor, float("inf") if name.endswith(("_cls", "total")) else value)
        return found | {"avg_factor_cls": torch.zeros(5)}

    @property
    def meta(self) -> dict:
        meta = super().meta
        return meta | {"grad_norms": {name: float("nan") for name in meta["grad_norms"]}}


def test_only_what_the_reference_divides_by_zero_is_not_comparable():
    torch.set_default_dtype(torch.float64)
    rows = compare_stage_interactor(WithoutObjects(DATA / "stageinteractor"))
    assert [row for row in rows if not row.ok] == []
    left_out = {row.name.split(" ")[0] for row in rows if "not comparable" in row.name}
    stages = {f"loss.stage{stage}_loss_cls" for stage in range(5)}
    divided = {*stages, "loss_total", "avg_factor_cls", "avg_factor_reg"}
    assert {name for name in left_out if not name.startswith("grad.")} == divided
    compared = {row.name for row in rows}
    assert {"match_gt_inds", "csla_targets", "loss.stage0_loss_bbox", "stage4.boxes", "det1.scores"} <= compared


@pytest.mark.parametrize(
    ("offsets", "back", "ahead"),
    [
        ([[], [], [], []], 0, 0),
        ([[-1], [-1], [-1], [-1]], 1, 0),
        ([[-1, 1], [-1, 1], [-1, 1], [-1, 1]], 1, 1),
        ([[-1, 1, 2, 3], [-1, 1, 2], [-1, 1], [-1]], 1, None),
        ([[1, 2, 3], [-1, 1, 2], [-2, -1, 1], [-3, -2, -1]], None, None),
        (None, 1, None),
    ],
)
def test_offsets_of_stages_are_a_window(offsets: list[list[int]] | None, back: int | None, ahead: int | None):
    assert window_of(offsets, 4) == {"look_back": back, "look_ahead": ahead}


def test_stages_without_offsets_keep_their_own_labels_and_odd_offsets_are_an_error():
    assert window_of([[-1, 1, 2, 3], [-1, 1, 2], None, None], 4)["plain_last_stages"] == 2
    with pytest.raises(ValueError, match="expected one of the scopes"):
        window_of([[2], [2], [2], [2]], 4)
