"""Folders `deqdet*`, `rnndet*` and `ffndet*`: every call of a layer, in training with the recorded noise and after it.

The reference counts calls: `call07` is the eighth evaluation of a layer in a training step, `eval.call07` in a test.
"""

from __future__ import annotations

import re

import torch
from crossstage.projects.deqdet.checkpoint import mmdet_deqdet_names
from crossstage.projects.deqdet.modeling.noise import Perturbation, PerturbationNoise
from omegaconf import DictConfig
from torch import Tensor, nn

from crossstage.checkpoints.names import NameTable
from crossstage.layers.boxes import cxcywh_to_xyxy
from crossstage.layers.position_vector import to_position_vectors, vectors_to_corners
from crossstage.modeling.decoders.mixer import BoxState
from crossstage.modeling.detector import Detector
from crossstage.structures import GroupOutputs, Queries, StageOutputs
from tests.golden.folder import GoldenFolder, Row
from tests.golden.mixer_kind import PROJECTS, AdaMixerScene


def compare_deqdet(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of a DEQDet or RNNDet, which is a DEQDet without steps."""
    return [row for case in folder.cases for row in _DEQDetScene(folder, case).rows()]


def compare_ffndet(folder: GoldenFolder) -> list[Row]:
    """All keys of all cases of an FFNDet."""
    return [row for case in folder.cases for row in _FFNDetScene(folder, case).rows()]


class _RecordedNoise(Perturbation):
    """The reference's draws in place of our own."""

    def __init__(self, inputs: dict[str, Tensor], **options: float) -> None:
        super().__init__(**options)
        self.inputs = inputs

    def draw(self, state: BoxState, index: int) -> PerturbationNoise:
        probabilities = {"content": self.content_probability, "position": self.position_probability}
        return PerturbationNoise(**{kind: self._noise(kind, index, most) for kind, most in probabilities.items()})

    def _noise(self, kind: str, index: int, probability: float) -> Tensor | None:
        uniforms = self.inputs.get(f"perturb.u_{kind}")
        if uniforms is None or uniforms[index - 1] >= probability:
            return None
        return self.inputs[f"perturb.{kind}_noise.step{index}"]


class _LayerCalls:
    """Records what goes into and comes out of each step of a decoder."""

    def __init__(self, decoder: nn.Module) -> None:
        self.inputs: list[BoxState] = []
        self.outputs: list[tuple[BoxState, Tensor]] = []
        steps = [step for step in (decoder.initial, decoder.refinement) if step is not None]
        self._handles = [step.register_forward_hook(self._record) for step in steps]

    def _record(self, step: nn.Module, inputs: tuple, output: tuple[BoxState, Tensor]) -> None:
        self.inputs.append(inputs[0])
        self.outputs.append(output)

    def stop(self) -> None:
        """The backward pass may call the layers again."""
        for handle in self._handles:
            handle.remove()


class _FFNDetScene(AdaMixerScene):
    """Stages with weights of their own, and DEQDet's boxes and neck."""

    config = PROJECTS / "deqdet/configs/models/ffndet_r50.py"

    def names(self) -> NameTable:
        return mmdet_deqdet_names(shared_weights=False)

    def set_interaction(self, node: DictConfig) -> None:
        node.decoder.layer.sampler.num_points = [self.hyper["P_init"], *[self.hyper["P_refine"]] * 9]

    def loss_prefixes(self, outputs: StageOutputs) -> list[str]:
        """How the reference's names of a stage's losses begin."""
        return [f"stage_{stage}" for stage in range(outputs.num_stages)]

    def _check_queries(self, queries: Queries) -> None:
        self.check("init_xyzr", to_position_vectors(queries.references, self.sizes, least_side=1e-7))
        self.check("init_content", queries.content)
        self.check("init_boxes", cxcywh_to_xyxy(queries.references) * self.extent[:, None])

    def _check_stages(self, outputs: StageOutputs) -> None:
        self._check_as_calls("", outputs)

    def _check_as_calls(self, prefix: str, outputs: StageOutputs) -> None:
        """Where each stage is one call of a layer."""
        for stage in range(outputs.num_stages):
            call = f"{prefix}call{stage:02d}."
            self.check(f"{call}cls_logits", outputs.logits[stage])
            self.check(f"{call}content", outputs.states[stage])
            self.check(f"{call}xyzr", to_position_vectors(outputs.boxes[stage], self.sizes))
            self.check(f"{call}boxes", cxcywh_to_xyxy(outputs.boxes[stage]) * self.extent[:, None])

    def _check_supervision(self, groups: list[GroupOutputs]) -> None:
        criterion, outputs = self.model.criterion, groups[0].outputs
        (matches,) = criterion.match(groups, self.targets)
        losses = criterion(groups, self.targets)
        for stage, prefix in enumerate(self.loss_prefixes(outputs)):
            self.check(f"match.{prefix}gt_inds", matches[stage] + 1)
            for kind, theirs in (("class", "cls"), ("bbox", "bbox"), ("giou", "iou")):
                ours = losses.terms[f"loss_{kind}{outputs.suffix(stage)}"]
                self.check(f"loss.{prefix}loss_{theirs}", ours)
        self.check("loss_total", losses.total)
        losses.total.backward()

    def _check_detections(self) -> None:
        with torch.no_grad():
            _, groups = self.model.eval().predict(self.batch)
        self._check_as_calls("eval.", groups[0].outputs)
        super()._check_detections()


class _DEQDetScene(_FFNDetScene):
    """An initial and a repeated layer."""

    config = PROJECTS / "deqdet/configs/models/deqdet_r50.py"

    def names(self) -> NameTable:
        return mmdet_deqdet_names()

    def build(self) -> Detector:
        model = super().build()
        model.decoder.perturbation = _RecordedNoise(
            self.inputs,
            content_probability=self.hyper["perturb_content_prob"],
            position_probability=self.hyper["perturb_position_prob"],
            content_scale=self.hyper["sigma_q"],
            position_scale=self.hyper["sigma_p"],
        )
        self.calls = _LayerCalls(model.decoder)
        return model

    def set_decoder(self, decoder: DictConfig) -> None:
        for layer in (decoder.initial.layer, decoder.refinement.layer):
            self.set_layer(layer)
        hyper = self.hyper
        steps = hyper["refinement_steps_train"]
        decoder.update(
            steps=steps,
            eval_steps=hyper["refinement_steps_eval"] + 1,  # the reference adds one
            supervised=[at for at in sorted(set(hyper["supervision_position"])) if 1 <= at <= steps],
            extra_supervised=hyper["extra_supervisions_on_init_head"],
            gradient_steps=hyper["rag"],
        )

    def set_interaction(self, node: DictConfig) -> None:
        node.decoder.initial.layer.sampler.num_points = self.hyper["P_init"]
        node.decoder.refinement.layer.sampler.num_points = self.hyper["P_refine"]

    def loss_prefixes(self, outputs: StageOutputs) -> list[str]:
        return [re.sub(r"(?<=init)(\d+)$", r"^\1", name) + "_" for name in outputs.names]

    def _check_stages(self, outputs: StageOutputs) -> None:
        self.calls.stop()
        self._check_calls("", self.calls)
        for index, call in enumerate(self._steps_of_the_way(), 1):
            state = self.calls.inputs[call]
            self.check(f"step{index}.input_xyzr", state.vectors)
            self.check(f"step{index}.input_content", state.content)
            self.check(f"step{index}.input_boxes", _corners(state))

    def _steps_of_the_way(self) -> list[int]:
        """The numbers of the calls that lead to the fixed point: between them lie the calls of the branches."""
        decoder, call, calls = self.model.decoder, 1 + self.model.decoder.extra_supervised, []
        for index in range(1, decoder.steps + 1):
            calls.append(call)
            call += 1 + (decoder.gradient_steps if index in decoder.supervised else 0)
        return calls

    def _check_calls(self, prefix: str, calls: _LayerCalls) -> None:
        for index, (state, logits) in enumerate(calls.outputs):
            call = f"{prefix}call{index:02d}."
            self.check(f"{call}cls_logits", logits)
            self.check(f"{call}content", state.content)
            self.check(f"{call}xyzr", state.vectors)
            self.check(f"{call}boxes", _corners(state))

    def _check_detections(self) -> None:
        calls = _LayerCalls(self.model.decoder)
        with torch.no_grad():
            self.model.eval().predict(self.batch)
        calls.stop()
        self._check_calls("eval.", calls)
        super()._check_detections()

    def _check_as_calls(self, prefix: str, outputs: StageOutputs) -> None:
        """Evaluation returns the last stage alone; `_check_calls` has compared all of them."""


def _corners(state: BoxState) -> Tensor:
    return vectors_to_corners(state.vectors) if state.corners is None else state.corners
