"""The work of `crossstage inspect`: opens detectors and images, and calls the tools. Read `inspect` first."""

from __future__ import annotations

import argparse
import inspect as python_inspect
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from crossstage.cli.image_choice import choose_images
from crossstage.cli.picture_files import prepare_output
from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.engine.log import RunLog
from crossstage.errors import InputError
from crossstage.evaluation.coco import CocoEvaluator
from crossstage.evaluation.loop import tracked
from crossstage.inference.classes import settle_classes
from crossstage.inference.predictor import build_predictor, choose_device
from crossstage.inference.run_files import config_name
from crossstage.inspection.assignment import write_assignment
from crossstage.inspection.features import matched_states, require_sklearn, write_features
from crossstage.inspection.points import best_queries, by_stage, recorded_samples, write_points
from crossstage.inspection.queries import look_at_queries, write_query_use
from crossstage.inspection.refinement import refinement_of, write_gradient_norms
from crossstage.inspection.stages import EveryStage, assigned, every_stage, looking, spread
from crossstage.modeling.detector import Detector
from crossstage.reproduction.rows import paper_figures
from crossstage.structures import PaddedTargets

MOST_STAGES = 6  # columns of a figure
PAPER_ROWS = {  # of DEQDet's Table 2, by config; NF counts the initial layer too
    "deqdet_r50_12ep": "DEQDet, NF=",
    "deqdet_r50_64points_12ep": "DEQDet†, NF=",
}


@dataclass(frozen=True)
class Subject:
    """What is inspected.

    Attributes:
        models: in evaluation mode, by the name that figures show.
        loader: the images.
        cfg: the first config, whose test dataset holds the chosen images.
        class_names: by class index.
        device: of the models.
        has_objects: whether any image has annotations.
        console: shows the progress.
    """

    models: dict[str, Detector]
    loader: Any
    cfg: DictConfig
    class_names: list[str]
    device: torch.device
    has_objects: bool
    console: Console

    @property
    def model(self) -> Detector:
        """The first model."""
        return next(iter(self.models.values()))

    def batches(self, what: str) -> Any:
        """The batches, with progress; close it."""
        return closing(tracked(self.loader, self.console, what=what))


def inspect(args: argparse.Namespace) -> None:
    """Run a tool. Raises InputError for a mistake of the user."""
    if args.tool == "features":
        require_sklearn()
    output = Path(args.output).expanduser()
    prepare_output(output, [], {})
    work = {
        "refinement": inspect_refinement,
        "queries": inspect_queries,
        "assignment": inspect_assignment,
        "points": inspect_points,
        "features": inspect_features,
    }[args.tool]
    with RunLog() as log, opened(args, log.console) as subject:
        work(args, subject, output)
    print(f"  written to {output}")


@contextmanager
def opened(args: argparse.Namespace, console: Console) -> Iterator[Subject]:
    """Build the models and the loader of the chosen images; inside, the models are in evaluation mode.

    Raises:
        InputError: if a config, the weights or the images do not fit.
    """
    cfg = loaded(args.config_file, args.opts)
    device = choose_device(args.device, flag="--device")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        truth = settle_classes(cfg, args.weights, asked=args.opts, problems=[])
        has_objects = choose_images(cfg, args.images, folder, limit=args.limit)
        if args.tool in ("assignment", "points"):
            cfg.dataloader.test.batch_size = 1
        first = build_predictor(cfg, args.weights, source=args.config_file, truth=truth, device=device)
        models = {config_name(find_config(args.config_file), cfg): checked(first.model, args.config_file)}
        for file, weights in getattr(args, "compare", []):
            other = loaded(file, args.opts)
            settle_classes(other, weights, asked=args.opts, problems=[])
            model = checked(build_predictor(other, weights, source=file, truth=truth, device=device).model, file)
            models[fresh(config_name(find_config(file), other), models)] = model
        for model in models.values():
            stack.enter_context(looking(model))
        loader = instantiate(cfg.dataloader.test)
        yield Subject(models, loader, cfg, list(first.class_names), device, has_objects, console)


def loaded(file: str, overrides: Sequence[str]) -> DictConfig:
    """A config after its overrides."""
    return LazyConfig.apply_overrides(LazyConfig.load(find_config(file)), list(overrides))


def fresh(name: str, taken: Any) -> str:
    """The name, with a number if it is taken."""
    count, found = 1, name
    while found in taken:
        count += 1
        found = f"{name} ({count})"
    return found


def checked(model: Any, file: str) -> Detector:
    """The model, if it is one of our detectors. Raises InputError otherwise."""
    if not isinstance(model, Detector):
        raise InputError(f"{file}: model is a {type(model).__name__}; expected a crossstage.modeling.detector.Detector")
    return model


def inspect_refinement(args: argparse.Namespace, subject: Subject, output: Path) -> None:
    """Residuals, AP by steps, gradient norms, boxes over steps."""
    if args.solver:
        choose_solver(subject.model, args.solver)
    json_file = subject.cfg.dataloader.test.dataset.json_file
    classes = subject.cfg.dataloader.test.dataset.get("classes")
    make_evaluator = partial(CocoEvaluator, json_file, classes=classes) if subject.has_objects else None
    if args.metrics:
        write_gradient_norms([Path(file) for file in args.metrics], output)
    with subject.batches("steps") as batches:
        numbers = refinement_of(
            subject.model,
            batches,
            output,
            device=subject.device,
            steps=args.steps,
            make_evaluator=make_evaluator,
            class_names=subject.class_names,
            published=published_steps(find_config(args.config_file).stem),
        )
    if scores := numbers["ap_by_steps"]:
        for step, ap, ap50 in zip(scores["steps"], scores["AP"], scores["AP50"], strict=True):
            print(f"step {step:>3}  AP {ap:6.2f}  AP50 {ap50:6.2f}")
    else:
        print("the images have no annotations, so no AP was computed")
    if numbers["residuals"] is None:
        print("the decoder keeps no states of its queries, so no residuals were computed")


def published_steps(config: str) -> list[dict[str, float]]:
    """The paper's AP and AP50 of one training after several numbers of applications, for the configs that have them."""
    if config not in PAPER_ROWS:
        return []
    rows = [row for row in paper_figures("deqdet")["table_2"] if row["row"].startswith(PAPER_ROWS[config])]
    return [{"steps": row["NF"] - 1, "AP": row["AP"], "AP50": row["AP50"]} for row in rows]


def choose_solver(model: Detector, name: str) -> None:
    """Replace the solver of a decoder that repeats a step by another one of the same module, with its defaults.

    Raises:
        InputError: if the decoder has no solver, or there is none of this name.
    """
    decoder: Any = model.decoder
    solver = getattr(decoder, "solver", None)
    if solver is None:
        raise InputError(f"--solver {name}: {type(decoder).__name__} repeats no step, so it has no solver")
    module = sys.modules[type(solver).__module__]
    classes = [found for _, found in python_inspect.getmembers(module, python_inspect.isclass)]
    own = [found for found in classes if found.__module__ == module.__name__]
    solvers = [found for found in own if "__call__" in vars(found) and not getattr(found, "_is_protocol", False)]
    fitting = [found for found in solvers if found.__name__.lower().startswith(name.lower())]
    if len(fitting) != 1:
        known = ", ".join(found.__name__ for found in solvers)
        raise InputError(f"--solver {name}: expected the beginning of one of: {known}")
    decoder.solver = fitting[0]()


def inspect_queries(args: argparse.Namespace, subject: Subject, output: Path) -> None:
    """Counts of how queries are used."""
    expect_objects(args, subject)
    with subject.batches("queries") as batches:
        tallies, comparisons = look_at_queries(subject.models, batches, device=subject.device)
    for name, numbers in write_query_use(tallies, comparisons, output).items():
        chosen = [numbers["thresholds"].index(threshold) for threshold in (0.3, 0.5)]
        gini, control = (
            " / ".join(f"{numbers[key][index]:.3f}" for index in chosen)
            for key in ("activation_gini", "activation_gini_shuffled")
        )
        matches = f"{numbers['match_gini']:.3f} ({numbers['match_gini_shuffled']:.3f})"
        print(f"{name}: Gini of activations at .3 / .5: {gini} (order of chance: {control}); of matches: {matches}")


def inspect_assignment(args: argparse.Namespace, subject: Subject, output: Path) -> None:
    """Class targets on pictures."""
    expect_objects(args, subject)
    with subject.batches("assignment") as batches:
        for batch in batches:
            batch = batch.to(subject.device)
            found = every_stage(subject.model, batch)
            targets, assignment = assigned(subject.model, found, PaddedTargets.of(batch.targets or ()))
            counts = write_assignment(
                batch,
                found,
                targets,
                assignment,
                output / f"assignment_{batch.image_ids[0]}",
                stages=chosen_stages(args.stages, found),
                class_names=subject.class_names,
            )
            print(f"image {batch.image_ids[0]}: " + ", ".join(f"{count} {origin}" for origin, count in counts.items()))


def inspect_points(args: argparse.Namespace, subject: Subject, output: Path) -> None:
    """Sampling points on pictures."""
    with subject.batches("points") as batches:
        for batch in batches:
            batch = batch.to(subject.device)
            with recorded_samples(subject.model.get_submodule("decoder")) as samples:
                found = every_stage(subject.model, batch)
            queries = args.queries or best_queries(found.outputs, count=3)
            if max(queries) >= found.outputs.logits.shape[2] or min(queries) < 0:
                raise InputError(f"--queries {max(queries)}: expected 0 to {found.outputs.logits.shape[2] - 1}")
            write_points(
                batch,
                found,
                by_stage(samples, stages=found.outputs.num_stages),
                output / f"points_{batch.image_ids[0]}",
                queries=queries,
                stages=chosen_stages(args.stages, found),
            )
            print(f"image {batch.image_ids[0]}: queries {', '.join(map(str, queries))}")


def inspect_features(args: argparse.Namespace, subject: Subject, output: Path) -> None:
    """t-SNE, silhouette and linear probe."""
    expect_objects(args, subject)
    with subject.batches("features") as batches:
        found = matched_states(subject.models, batches, device=subject.device)
    for name, numbers in write_features(found, output, class_names=subject.class_names).items():
        print(
            f"{name}: {numbers['states']} states, silhouette {numbers['silhouette']:.3f}, linear probe "
            f"{numbers['linear_probe']:.1%} (chance {numbers['chance']:.1%})"
        )


def expect_objects(args: argparse.Namespace, subject: Subject) -> None:
    """Raise InputError if no image has annotations."""
    if not subject.has_objects:
        raise InputError(
            f"crossstage inspect {args.tool} needs objects to match, and none of the images has annotations; expected "
            "images of the config's test set (dataloader.root=DIR)"
        )


def chosen_stages(given: Sequence[int] | None, found: EveryStage) -> list[int]:
    """Indices of the stages to draw: those given by their numbers, or at most six, the first and the last included."""
    if given is None:
        return spread(found.outputs.num_stages, MOST_STAGES)
    if wrong := [stage for stage in given if stage not in found.numbers]:
        raise InputError(f"--stages {wrong[0]}: expected numbers from {found.numbers[0]} to {found.numbers[-1]}")
    return [stage - found.first for stage in given]
