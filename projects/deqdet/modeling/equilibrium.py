"""The decoder as a fixed point (DEQDet, Wang et al., ICCV 2023): one refinement step, applied until nothing changes.

    start --initial--> y0 --refinement--> y1 --refinement--> ... --> y* = f(y*)

Training goes to the fixed point without gradient, and supervises short branches with gradient on the way. Where paper
and released code differ we follow the code: the README lists it. RNNDet is the same decoder with `steps=0`: the chain
of `extra_supervised` steps is then all there is, with gradient through all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from crossstage.projects.deqdet.modeling.noise import BranchNoise, Perturbation
from crossstage.projects.deqdet.modeling.solver import Advance, Application, FixedPointIteration, Solver
from torch import Tensor, nn

from crossstage.errors import InputError
from crossstage.layers.sampling import with_shared_gradient
from crossstage.modeling.layer_seams import RefinementStep
from crossstage.modeling.recompute import recomputed
from crossstage.structures import Memory, Queries, StageOutputs


@dataclass(frozen=True)
class _Stage:
    """One prediction: its name in the log, the state, and logits [B, N, K]."""

    name: str
    state: Any
    logits: Tensor


class EquilibriumDecoder(nn.Module):
    """Applies one step with shared weights `steps` times, and supervises some of the results.

    Args:
        initial: the first step, with weights of its own; None: the iteration begins with the queries themselves.
        refinement: the step that is repeated.
        steps: applications of `refinement` on the way to the fixed point, in training.
        eval_steps: applications in evaluation. (The paper counts the initial step too: NF = 1 + eval_steps.)
        supervised: numbers of the steps, from 1 and increasing, after which a branch is supervised.
        extra_supervised: supervised applications after the initial step, with gradient through all of them.
        gradient_steps: applications with gradient of each branch, of which the last is supervised.
        solver: how the fixed point is approached; None: FixedPointIteration.
        perturbation: noise before each step of the way in training; None: no noise. It needs FixedPointIteration.
        branch_noise: noise on the branches alone.
        recompute: compute the branches again in the backward pass, so that memory depends neither on `steps` nor on
            the number of branches.

    Raises:
        ValueError: if the numbers do not fit each other, or nothing would be supervised.
    """

    def __init__(
        self,
        *,
        initial: RefinementStep | None,
        refinement: RefinementStep,
        steps: int = 20,
        eval_steps: int = 24,
        supervised: Sequence[int] = (1, 3, 6, 9, 12, 20),
        extra_supervised: int = 2,
        gradient_steps: int = 2,
        solver: Solver | None = None,
        perturbation: Perturbation | None = None,
        branch_noise: BranchNoise | None = None,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.initial, self.refinement = initial, refinement
        self.steps, self.eval_steps, self.supervised = steps, eval_steps, tuple(supervised)
        self.extra_supervised, self.gradient_steps = extra_supervised, gradient_steps
        self.solver: Solver = FixedPointIteration() if solver is None else solver
        self.perturbation, self.branch_noise, self.recompute = perturbation, branch_noise, recompute
        self._check()

    def _check(self) -> None:
        if list(self.supervised) != sorted({*self.supervised} & {*range(1, self.steps + 1)}):
            raise ValueError(
                f"supervised={self.supervised}: expected increasing numbers of steps from 1 to steps={self.steps}"
            )
        if self.gradient_steps < 1 or min(self.steps, self.eval_steps, self.extra_supervised) < 0:
            raise ValueError(
                f"gradient_steps={self.gradient_steps} must be at least 1, and steps={self.steps}, eval_steps="
                f"{self.eval_steps}, extra_supervised={self.extra_supervised} at least 0"
            )
        if self.initial is None and min(self.extra_supervised + len(self.supervised), self.applications) == 0:
            raise ValueError(
                "without an initial step there is nothing to predict: extra_supervised or supervised, and the steps "
                "of evaluation, must not be empty"
            )

    @property
    def applications(self) -> int:
        """Applications of `refinement` in evaluation. A chain without a way to a fixed point has its own length."""
        return self.eval_steps if self.steps else self.extra_supervised

    def forward(self, queries: Queries, memory: Memory) -> StageOutputs:
        """Refine the queries.

        Args:
            queries: content [B, N, C] and boxes [B, N, 4], without gradient.
            memory: what the steps read.

        Returns:
            In training all supervised predictions in the order of their depth: of the initial step, of the
            `extra_supervised` steps after it, and of the branch of each number in `supervised`; named init, init1, ...,
            iter1, .... In evaluation the last prediction alone.

        Raises:
            InputError: in training with noise, if the solver combines results of several steps.
        """
        if self.training:
            return self._outputs(self._supervised_stages(queries, with_shared_gradient(memory)), memory)
        *_, (last, _) = self._way(queries, memory, self.applications)
        return self._outputs([last], memory)

    def trace(self, queries: Queries, memory: Memory, steps: int) -> tuple[StageOutputs, Tensor]:
        """The predictions of every step without noise, and how far each application moved the contents.

        Returns:
            Stages named init, iter1, ..., and the relative residuals of the `steps` applications, [steps, B].
        """
        stages, applications = zip(*self._way(queries, memory, steps), strict=True)
        residuals = [application.residual() for application in applications if application is not None]
        return self._outputs(stages, memory), torch.stack(residuals)

    def _way(self, queries: Queries, memory: Memory, steps: int) -> Iterator[tuple[_Stage, Application | None]]:
        """Yield the predictions of the initial step (with None) and of each application, without noise."""
        start = self.refinement.start(queries, memory)
        if self.initial is not None:
            first = _initial_stage(self.initial, queries, memory)
            start = first.state
            yield first, None

        def advance(state: Any, index: int) -> tuple[Any, Tensor]:
            return self.refinement(state, memory, queries.attention_mask)

        for index, application in enumerate(self.solver(advance, start, steps=steps), 1):
            yield _Stage(f"iter{index}", application.state, application.logits), application

    def _supervised_stages(self, queries: Queries, memory: Memory) -> list[_Stage]:
        """The chain with gradient, then the branches of the way to the fixed point."""
        if self.steps and self.perturbation is not None and not self.solver.takes_noise:
            raise InputError(
                "model.decoder.perturbation: noise before each step needs a solver that starts each step from the last "
                f"result alone, but {type(self.solver).__name__} combines several results, and takes their differences "
                "for those of the contents. Use FixedPointIteration in training (evaluation may use either), or set "
                "model.decoder.perturbation=null"
            )
        stages: list[_Stage] = []
        state = self.refinement.start(queries, memory)
        if self.initial is not None:
            stages.append(_initial_stage(self.initial, queries, memory))
            state = stages[0].state
        first = state
        for number in range(1, self.extra_supervised + 1):
            state, logits = self.refinement(state, memory, queries.attention_mask)
            stages.append(_Stage(f"init{number}", state, logits))
        for index, application in enumerate(self.solver(self._noisy(queries, memory), first, steps=self.steps), 1):
            if index in self.supervised:
                start = self._branch_start(application, index, queries, memory)
                stages.append(_Stage(f"iter{index}", *self._branch(start, queries, memory)))
        return stages

    def _noisy(self, queries: Queries, memory: Memory) -> Advance:
        """One step of the way in training: noise, then the refinement, without gradient."""

        @torch.no_grad()
        def advance(state: Any, index: int) -> tuple[Any, Tensor]:
            if self.perturbation is not None:
                state = self.perturbation(state, index, self.refinement)
            return self.refinement(state, memory, queries.attention_mask)

        return advance

    @torch.no_grad()
    def _branch_start(self, application: Application, index: int, queries: Queries, memory: Memory) -> Any:
        """The state after step `index`, with noise if only branches have it."""
        if self.branch_noise is None:
            return application.state
        if self.branch_noise.steps_before == 0:
            return self.branch_noise.perturbation(application.state, index, self.refinement)
        state = self.branch_noise.perturbation(application.start, index, self.refinement)
        return self.refinement(state, memory, queries.attention_mask)[0]

    def _branch(self, state: Any, queries: Queries, memory: Memory) -> tuple[Any, Tensor]:
        """`gradient_steps` applications with gradient: the last state and its logits."""

        def applied(state: Any) -> tuple[Any, Tensor]:
            for _ in range(self.gradient_steps):
                state, logits = self.refinement(state, memory, queries.attention_mask)
            return state, logits

        return recomputed(applied, state, when=self.recompute)

    def _outputs(self, stages: Sequence[_Stage], memory: Memory) -> StageOutputs:
        return StageOutputs(
            torch.stack([stage.logits for stage in stages]),
            self.refinement.boxes([stage.state for stage in stages], memory),
            states=torch.stack([stage.state.content for stage in stages]),
            names=tuple(stage.name for stage in stages),
        )


def _initial_stage(step: RefinementStep, queries: Queries, memory: Memory) -> _Stage:
    """The prediction of the first step, which begins with the queries themselves."""
    return _Stage("init", *step(step.start(queries, memory), memory, queries.attention_mask))
