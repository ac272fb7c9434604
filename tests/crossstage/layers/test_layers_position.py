"""Position embeddings against the formulas written out, and what padding does to them."""

import math

import pytest
import torch

from crossstage.layers.position import LearnedPositions, SinePositions, box_sine_embedding, sine_embedding


def embedded(value: float, features: int, temperature: float) -> list[float]:
    """One coordinate, feature by feature (DETR, section A.4)."""
    waves = []
    for k in range(features):
        angle = value / temperature ** (2 * (k // 2) / features)
        waves.append(math.cos(angle) if k % 2 else math.sin(angle))
    return waves


def test_sines_and_cosines_alternate():
    value = torch.tensor([0.7, -2.0, 0.0], dtype=torch.float64)
    ours = sine_embedding(value, 6, temperature=20.0)
    assert ours.tolist() == [pytest.approx(embedded(x, 6, 20.0), abs=1e-14) for x in value.tolist()]


def test_box_blocks_come_vertical_first_or_in_order():
    box = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    blocks = {value: embedded(value * 2 * math.pi, 4, 10000.0) for value in box.tolist()}
    x, y, w, h = (blocks[value] for value in box.tolist())
    assert box_sine_embedding(box, 4).tolist() == pytest.approx([*y, *x, *w, *h], abs=1e-14)
    assert box_sine_embedding(box, 4, vertical_first=False).tolist() == pytest.approx([*x, *y, *w, *h], abs=1e-14)
    assert box_sine_embedding(box[:2], 4).tolist() == pytest.approx([*y, *x], abs=1e-14)


@pytest.mark.parametrize("offset", [0.0, -0.5])
def test_map_positions_count_valid_cells(offset):
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 3:] = True
    mask[0, :, 4:] = True
    ours = SinePositions(4, temperature=20.0, offset=offset)(mask, dtype=torch.float64)
    assert ours.shape == (1, 8, 4, 6)
    for row in range(3):
        for column in range(4):
            y = (row + 1 + offset) / (3 + 1e-6) * 2 * math.pi
            x = (column + 1 + offset) / (4 + 1e-6) * 2 * math.pi
            expected = embedded(y, 4, 20.0) + embedded(x, 4, 20.0)
            assert ours[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-12)


def test_map_positions_without_normalisation_are_cell_numbers():
    ours = SinePositions(2, normalize=False)(torch.zeros(1, 2, 3, dtype=torch.bool), dtype=torch.float64)
    assert ours[0, 0, :, 0].tolist() == pytest.approx([math.sin(1), math.sin(2)])
    assert ours[0, 2, 0].tolist() == pytest.approx([math.sin(1), math.sin(2), math.sin(3)])


def test_more_padding_changes_no_valid_position():
    small = torch.zeros(1, 3, 5, dtype=torch.bool)
    large = torch.ones(1, 6, 8, dtype=torch.bool)
    large[:, :3, :5] = False
    position = SinePositions(8, offset=-0.5)
    assert position(large)[:, :, :3, :5].equal(position(small))


def test_a_map_that_is_all_padding_stays_finite():
    assert SinePositions(8, offset=-0.5)(torch.ones(1, 3, 5, dtype=torch.bool)).isfinite().all()


def test_learned_positions_put_columns_before_rows():
    positions = LearnedPositions(3, rows=4, columns=5)
    ours = positions(torch.zeros(2, 2, 4, dtype=torch.bool))
    assert ours.shape == (2, 6, 2, 4)
    assert ours[1, :3, 1, 2].equal(positions.col_embed.weight[2])
    assert ours[1, 3:, 1, 2].equal(positions.row_embed.weight[1])


def test_learned_positions_have_the_dtype_that_an_encoder_needs():
    positions, mask = LearnedPositions(3, rows=4, columns=5), torch.zeros(1, 2, 4, dtype=torch.bool)
    assert positions(mask).dtype == torch.float32
    assert positions(mask, dtype=torch.float64).dtype == torch.float64


def test_learned_positions_say_when_a_map_is_too_large():
    with pytest.raises(ValueError, match="a map of 5x3 cells, but positions were learned for 4x4"):
        LearnedPositions(3, rows=4, columns=4)(torch.zeros(1, 5, 3, dtype=torch.bool))
