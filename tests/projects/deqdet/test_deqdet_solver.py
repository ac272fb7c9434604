"""The solvers: where they arrive, in how many steps, when an image stops, and what they refuse."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from crossstage.projects.deqdet.modeling.noise import Perturbation
from crossstage.projects.deqdet.modeling.solver import (
    AndersonAcceleration,
    FixedPointIteration,
    Solver,
    anderson_mix,
    relative_residual,
)
from torch import Tensor

from crossstage.errors import InputError
from crossstage.modeling.decoders.mixer import BoxState
from tests.projects.deqdet.contraction import WIDTH, Content, Contraction
from tests.projects.deqdet.small import detector_of
from tests.random_scenes import alone, image_batch
from tests.tiny_models import decoder_inputs

DOUBLE = torch.float64
SOLVERS = pytest.mark.parametrize("solver", [FixedPointIteration, AndersonAcceleration])


@torch.no_grad()
def applications(solver: Solver, step: Contraction, start: Tensor, steps: int) -> list:
    return list(solver(lambda state, index: step(state, None), Content(start), steps=steps))


def starts(*shape: int) -> Tensor:
    return torch.randn(*shape, WIDTH, dtype=DOUBLE)


@SOLVERS
def test_the_fixed_points_are_those_of_torchdeq(solver: type):
    torchdeq = pytest.importorskip("torchdeq", reason="torchdeq is part of the dev extra: pip install torchdeq")
    torch.manual_seed(0)
    step, start = Contraction(norm=0.6), starts(3, 1)
    *_, last = applications(solver(), step, start, 80)
    for theirs in ("anderson", "fixed_point_iter"):
        equation = torchdeq.get_deq(f_solver=theirs, f_max_iter=80, f_tol=1e-13)
        (found,), _ = equation(lambda content: step(Content(content), None)[0].content, start)
        torch.testing.assert_close(last.state.content, found, rtol=0, atol=1e-10)


def test_where_steps_contract_slowly_anderson_arrives_in_fewer():
    torch.manual_seed(0)
    step, start = Contraction(norm=0.95), starts(3, 1)
    plain, mixed = (
        applications(solver(), step, start, 30)[-1] for solver in (FixedPointIteration, AndersonAcceleration)
    )
    assert (mixed.residual() < plain.residual() / 1000).all()


@pytest.mark.parametrize("mixing", [1.0, 0.5])
def test_the_combination_solves_the_system_of_the_paper(mixing: float):
    torch.manual_seed(0)
    before, after = torch.randn(2, 4, 3, 5, 6, dtype=DOUBLE)  # four applications, three images
    found = anderson_mix(before, after, ridge=1e-2, mixing=mixing)
    for image in range(3):
        moves = (after - before)[:, image].flatten(1)
        products = moves @ moves.T
        system = torch.ones(5, 5, dtype=DOUBLE)  # [[0, 1], [1, G G^T + ridge I]] [nu, weights] = [1, 0]
        system[0, 0] = 0
        system[1:, 1:] = products + 1e-2 * products.diagonal().max() * torch.eye(4, dtype=DOUBLE)
        weights = torch.linalg.solve(system, torch.eye(5, dtype=DOUBLE)[0])[1:]
        expected = sum(w * (mixing * f + (1 - mixing) * y) for w, y, f in zip(weights, before, after, strict=True))
        torch.testing.assert_close(found[image], expected[image], rtol=1e-12, atol=1e-12)


def test_a_memory_of_one_is_plain_iteration():
    torch.manual_seed(0)
    step, start = Contraction(), starts(2, 3)
    plain, found = (applications(s, step, start, 5) for s in (FixedPointIteration(), AndersonAcceleration(memory=1)))
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(other.state.content, one.state.content, rtol=1e-14, atol=1e-14)


def test_at_the_fixed_point_the_combination_stays_there():
    content = torch.randn(2, 3, WIDTH, dtype=DOUBLE)
    history = content.expand(4, -1, -1, -1)
    torch.testing.assert_close(anderson_mix(history, history, ridge=1e-4, mixing=1.0), content)
    half = history.bfloat16()
    assert anderson_mix(half, half, ridge=1e-4, mixing=1.0).dtype == torch.bfloat16


def test_anderson_combines_contents_and_takes_the_boxes_that_the_step_returned_last():
    seen = []

    def advance(state: BoxState, index: int) -> tuple[BoxState, Tensor]:
        seen.append(state)
        content = 3 - 0.5 * state.content  # plain iteration would go to and fro around 2
        return BoxState(content, torch.full((1, 2, 4), float(index))), torch.full((1, 2, 1), float(index))

    found = list(AndersonAcceleration()(advance, BoxState(torch.ones(1, 2, 4), torch.zeros(1, 2, 4)), steps=4))
    assert [state.vectors[0, 0, 0].item() for state in seen] == [0, 1, 2, 3]
    assert [application.logits[0, 0, 0].item() for application in found] == [1, 2, 3, 4]
    assert all(a.start is state for a, state in zip(found, seen, strict=True))
    torch.testing.assert_close(seen[1].content, found[0].state.content)
    torch.testing.assert_close(seen[2].content, torch.full((1, 2, 4), 2.0), rtol=1e-3, atol=1e-3)
    assert (found[1].state.content - 2).abs().max() > 0.1, "what is handed on is the step's own result"


@pytest.mark.parametrize("options", [{"memory": 0}, {"ridge": 0.0}, {"mixing": -1.0}])
def test_numbers_of_the_combination_are_positive(options: dict):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.*: expected positive numbers"):
        AndersonAcceleration(**options)


def test_noise_and_anderson_do_not_go_together_in_training():
    detector = detector_of(perturbation=None, eval_steps=3)
    queries, memory = decoder_inputs(detector.eval(), image_batch(1))
    detector.decoder.solver = AndersonAcceleration()
    with torch.no_grad():
        assert detector.decoder.train()(queries, memory).logits.isfinite().all()
        detector.decoder.perturbation = Perturbation()
        assert detector.decoder.eval()(queries, memory).num_stages == 1
        with pytest.raises(
            InputError, match=r"AndersonAcceleration combines several .* model.decoder.perturbation=null"
        ):
            detector.decoder.train()(queries, memory)


def test_a_trace_has_the_residuals_of_what_each_step_was_applied_to():
    detector = detector_of(perturbation=None).eval()
    queries, memory = decoder_inputs(detector, image_batch(1, 1))
    detector.decoder.solver = AndersonAcceleration()
    seen = []
    detector.decoder.refinement.register_forward_hook(lambda step, given, found: seen.append((given[0], found[0])))
    with torch.no_grad():
        _, residuals = detector.decoder.trace(queries, memory, 4)
    assert residuals.equal(torch.stack([relative_residual(before, after) for before, after in seen]))
    (first, second), changed = seen[0], seen[2][0].content - seen[1][1].content
    assert not first.content.equal(second.content) and changed.any(), "Anderson starts from a combination"


def halving(rates: torch.Tensor):
    """A step that divides the content of each image by its own rate; logits count the steps."""

    def advance(state: BoxState, index: int) -> tuple[BoxState, torch.Tensor]:
        content = 1 + (state.content - 1) / rates[:, None, None]
        return replace(state, content=content), torch.full((len(rates), 1, 1), float(index))

    return advance


def test_an_image_stops_by_itself_and_the_others_go_on():
    start = BoxState(torch.full((2, 3, 4), 9.0), torch.zeros(2, 3, 4))
    found = list(FixedPointIteration(tolerance=0.1)(halving(torch.tensor([2.0, 100.0])), start, steps=12))
    states, logits = [a.state.content[:, 0, 0] for a in found], torch.stack([a.logits for a in found])
    assert len(found) == 12
    residuals = [abs(after - before) / after for before, after in pairwise([start.content[:, 0, 0], *states])]
    first = [next(step for step, row in enumerate(residuals) if row[image] < 0.1) for image in (0, 1)]
    assert first == [6, 1]
    assert all(state[image].equal(states[first[image]][image]) for image in (0, 1) for state in states[first[image] :])
    assert logits[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7]
    assert logits[:, 1, 0, 0].tolist() == [1, 2] + [2] * 10


def test_an_image_that_stopped_stays_so_however_far_from_it_the_combination_lies():
    start = BoxState(torch.full((2, 3, 4), 9.0), torch.zeros(2, 3, 4))
    solver = AndersonAcceleration(tolerance=0.3, ridge=10.0)  # combines old and new results in almost equal parts
    found = list(solver(halving(torch.tensor([2.0, 100.0])), start, steps=20))
    contents = torch.stack([application.state.content[:, 0, 0] for application in found])
    residuals = torch.stack([application.residual() for application in found])
    for image in (0, 1):
        stopped = (residuals[:, image] < 0.3).tolist().index(True)
        assert 0 < stopped < 19 and contents[stopped:, image].eq(contents[stopped, image]).all()
        assert residuals[stopped + 1 :, image].eq(0).all()


def test_without_a_tolerance_all_steps_are_taken():
    start = BoxState(torch.full((2, 3, 4), 9.0), torch.zeros(2, 3, 4))
    *_, last = FixedPointIteration()(halving(torch.tensor([2.0, 100.0])), start, steps=40)
    assert last.state.content.allclose(torch.ones(2, 3, 4)) and last.logits.eq(40).all()
    with pytest.raises(ValueError, match=r"tolerance=0: expected a positive number"):
        FixedPointIteration(tolerance=0)


@SOLVERS
def test_with_a_tolerance_an_images_detections_do_not_depend_on_its_neighbours(solver: type):
    detector = detector_of(eval_steps=12).eval()
    batch = image_batch(1, 1, 1)
    with torch.no_grad():
        queries, memory = decoder_inputs(detector, batch)
        detector.decoder.solver = solver()
        _, residuals = detector.decoder.trace(queries, memory, 12)
        first, second, _ = residuals[5].sort().values.tolist()
        detector.decoder.solver = solver(tolerance=(first + second) / 2)
        stopped = [list(column).index(True) for column in (residuals < detector.decoder.solver.tolerance).T]
        assert len(set(stopped)) > 1, "the images stop at different steps"
        together = detector(batch)
        for image, expected in enumerate(together):
            (found,) = detector(alone(batch, image))
            torch.testing.assert_close(found.scores, expected.scores, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, rtol=1e-10, atol=1e-8)


def test_the_residual_is_relative_and_by_image():
    before = BoxState(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    content = torch.stack([torch.full((3, 4), 2.0), torch.zeros(3, 4)])
    content[1, 0, 0] = 5
    assert relative_residual(before, replace(before, content=content)).tolist() == [1, 1]
    moved = replace(before, content=content * 1.25)
    assert relative_residual(replace(before, content=content), moved).tolist() == pytest.approx([0.2, 0.2])
