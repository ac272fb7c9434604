"""Every stage or step of a detector, its scores, and what its contents change by."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from crossstage.errors import InputError
from crossstage.evaluation import CocoEvaluator
from crossstage.inspection import figures
from crossstage.inspection.refinement import (
    StepScores,
    changes,
    write_boxes_over_steps,
    write_gradient_norms,
    write_residuals,
    write_scores,
)
from crossstage.inspection.stages import EveryStage, every_stage, looking, spread, trained_steps
from crossstage.modeling.postprocess import TopK
from crossstage.structures import Queries, QueryGroup, StageOutputs
from tests.random_scenes import image_batch
from tests.tiny_models import decoder_inputs, random_detector


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESOLUTION", 50)


def test_a_detector_without_repeated_steps_has_its_stages():
    model, batch = random_detector("dino_toy"), image_batch(2, 1)
    with looking(model):
        found = every_stage(model, batch, steps=7)  # which means nothing here
        _, (expected,) = model.predict(batch)
    assert torch.equal(found.outputs.logits, expected.outputs.logits)
    assert found.numbers == [1, 2, 3] and found.title(0) == "stage 1" and trained_steps(model) is None


@pytest.mark.parametrize(("name", "trained"), [("deqdet_toy", 8), ("rnndet_toy", 5)])
def test_a_repeated_step_is_shown_before_and_after_each_application(name: str, trained: int):
    model, batch = random_detector(name), image_batch(2, 1)
    with looking(model):
        found = every_stage(model, batch)
        _, (expected,) = model.predict(batch)
        queries, memory = decoder_inputs(model, batch)
        _, relative = model.decoder.trace(queries, memory, 3)
        longer = every_stage(model, batch, steps=3)
    torch.testing.assert_close(found.outputs.boxes[-1], expected.outputs.boxes[-1])
    assert found.numbers == list(range(model.decoder.applications + 1)) and found.title(0) == "step 0"
    assert trained_steps(model) == trained
    assert torch.equal(longer.residuals, relative)
    absolute, relative = changes(longer.outputs.states)  # the plain iteration begins each step from the state before
    torch.testing.assert_close(changes(longer.outputs.states, longer.residuals), (absolute, relative))
    with pytest.raises(InputError, match=r"^--steps 0: expected at least 1$"):
        every_stage(model, batch, steps=0)


@pytest.mark.parametrize(
    ("count", "most", "expected"), [(3, 6, [0, 1, 2]), (25, 3, [0, 12, 24]), (9, 6, [0, 2, 3, 5, 6, 8]), (1, 6, [0])]
)
def test_things_are_chosen_evenly_with_the_first_and_the_last(count: int, most: int, expected: list[int]):
    assert spread(count, most) == expected


@pytest.fixture
def scene(tmp_path: Path):
    """Two images with an object each; the predictions of three steps, of which the second is right."""
    batch = image_batch(1, 1)
    objects = torch.stack([target.boxes for target in batch.targets])
    boxes = torch.full((3, 2, 4, 4), 0.01)
    boxes[1, :, :1] = objects
    logits = torch.full((3, 2, 4, 8), -9.0)
    for image, target in enumerate(batch.targets):
        logits[:, image, 0, target.labels[0]] = 3.0
    states = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None].expand(-1, 2, 4, 16)
    corners = [(box[:2] - box[2:] / 2).tolist() + box[2:].tolist() for box in objects[:, 0]]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 96, "height": 64} for i in batch.image_ids],
        "categories": [{"id": label, "name": str(label)} for label in range(8)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": int(target.labels[0]), "iscrowd": 0,
             "bbox": [x * 96, y * 64, w * 96, h * 64]}
            for i, target, (x, y, w, h) in zip(batch.image_ids, batch.targets, corners, strict=True)
        ],
    }  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(content))
    queries = Queries(states[0], torch.rand(2, 4, 4), (QueryGroup("matching", 4),))
    return batch, EveryStage(
        queries, StageOutputs(logits, boxes, states), first=0, residuals=torch.tensor([[0.5, 0.5], [0.25, 0.5]])
    )


class _Model:
    postprocess = TopK(num_select=4)


def test_one_pass_scores_every_step(scene, tmp_path: Path):
    batch, found = scene
    scores = StepScores(partial(CocoEvaluator, tmp_path / "truth.json"))
    scores.add(_Model, batch, found)
    published = [{"steps": 1, "AP": 45.7, "AP50": 64.3}]
    write_scores(scores, tmp_path, trained=2, published=published)
    numbers = json.loads((tmp_path / "ap_by_steps.json").read_text())
    assert numbers["steps"] == [0, 1, 2] and numbers["AP"] == numbers["AP50"] == [0, pytest.approx(100), 0]
    assert numbers["paper"] == published
    numbers = write_residuals(scores, tmp_path, trained=2)
    assert numbers["steps"] == [1, 2] and numbers["images"] == 2
    assert numbers["relative"]["median"].tolist() == pytest.approx([0.5, 0.375])
    assert numbers["absolute"]["median"].tolist() == pytest.approx([0.5 * 2 * 8, 0.375 * 3 * 8])  # 8^2 = 4 x 16
    for name in ("ap_by_steps", "residuals"):
        assert (tmp_path / f"{name}.png").stat().st_size and (tmp_path / f"{name}.pdf").stat().st_size


def test_without_residuals_a_step_begins_from_the_state_before_it():
    states = torch.tensor([1.0, 2.0, -1.0])[:, None, None, None].expand(-1, 2, 4, 16)
    absolute, relative = changes(states)
    assert absolute[:, 0].tolist() == pytest.approx([8, 24]) and relative[:, 1].tolist() == pytest.approx([0.5, 3])


def test_boxes_over_steps_have_one_frame_per_step(scene, tmp_path: Path):
    from PIL import Image

    batch, found = scene
    assert write_boxes_over_steps(batch, found.outputs, found.numbers, [], tmp_path) == 3
    assert Image.open(tmp_path / "refinement.gif").n_frames == 3
    assert (tmp_path / "refinement_sheet.png").stat().st_size


def test_gradient_norms_come_from_the_files_of_runs(tmp_path: Path):
    rows = [{"iteration": 0, "grad_norm": 2.0}, {"iteration": 9, "bbox/AP": 1.0}, {"iteration": 19, "grad_norm": 60.0}]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = write_gradient_norms([tmp_path / "mine/metrics.json"], tmp_path)
    assert runs == {"mine": {"iteration": [0, 19], "grad_norm": [2.0, 60.0]}}
    (tmp_path / "metrics.json").write_text('{"iteration": 0}\n')
    with pytest.raises(InputError, match=r"^--metrics .*metrics\.json: has no grad_norm; expected the metrics"):
        write_gradient_norms([tmp_path / "metrics.json"], tmp_path)
