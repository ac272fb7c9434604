"""detrex's DAB-DETRs and ours are the same tensors under two names."""

from pathlib import Path

import pytest

from tests.foreign_names import detector_and_table, foreign_shapes, parameter_counts, reached_names

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dab_detr_r50_50ep", (43_668_690, 43_659_282)),
        ("dab_detr_r50_3patterns_50ep", (43_669_458, 43_660_050)),
        ("dab_detr_r50_dc5_50ep", (43_668_690, 43_446_290)),
    ],
)
def test_every_name_of_detrex_is_one_of_ours_and_back(name: str, parameters: tuple[int, int]):
    """Two names have the box head, which the decoder shares, and the one slope of each feed-forward network."""
    detector, table = detector_and_table(f"dab_detr/configs/{name}.py")
    reached = reached_names(detector, table, foreign_shapes(DATA / f"detrex_{name}.txt"))
    assert {len(names) for names in reached.values()} == {1, 2}
    aliased = {native for native, names in reached.items() if len(names) == 2}
    assert aliased == {native for native in reached if "box_head" in native or "ffn.activation" in native}
    assert parameter_counts(detector) == parameters
