"""A run, from its arguments to its exit status. Read `run` first."""

from __future__ import annotations

import argparse
import copy
import logging
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict
from torch import distributed, nn

from crossstage.checkpoints.load import class_names_of, load_model, load_weights, local_path
from crossstage.checkpoints.save import Checkpointer
from crossstage.config import LazyConfig, instantiate
from crossstage.config.nodes import opaque
from crossstage.data.classes import some
from crossstage.data.own_data import settle_data
from crossstage.engine import setup
from crossstage.engine.class_rows import with_rows_of_classes
from crossstage.engine.interrupt import Interrupted
from crossstage.engine.log import RunLog
from crossstage.engine.output import prepare_folder, set_previous_run_aside
from crossstage.engine.session import Parts, Results, Session, save_results, score
from crossstage.engine.trainer import Trainer
from crossstage.errors import InputError, NonFiniteError
from crossstage.evaluation import metrics_table
from crossstage.files import remove_leftovers
from crossstage.processes import Processes, end_started_processes
from crossstage.random_state import seed_all

logger = logging.getLogger("crossstage.engine")


def run_to_exit_status(args: argparse.Namespace) -> int:
    """Train or evaluate. Errors that are not the user's mistakes propagate with their traceback.

    Args:
        args: the command line, parsed by `crossstage.cli.train`.

    Returns:
        0, or 2 for a mistake in the input, or 128 + signal number if a signal stopped the run.
    """
    status = 0
    try:
        run(args)
    except (InputError, NonFiniteError) as error:
        # Lightning kills the first process if one that it started fails. The first process must print the error.
        told_by_first = error.known_to_first and not setup.is_first_process()
        if not told_by_first and isinstance(error, NonFiniteError):
            raise
        if not told_by_first:
            print(f"error: {error}", file=sys.stderr)
        status = 0 if told_by_first and setup.is_started_by_fabric() else 2
    except Interrupted as stop:
        if setup.is_first_process():
            print(f"{stop}; continue with the same command and --resume", file=sys.stderr)
        status = 0 if setup.is_started_by_fabric() else stop.status
    except KeyboardInterrupt:
        if setup.is_first_process():
            print("interrupted; nothing was saved since the last checkpoint", file=sys.stderr)
        return 128 + signal.SIGINT
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    return status


def run(args: argparse.Namespace) -> Results:
    """Do everything from the config to the results. Raises InputError, Interrupted and NonFiniteError."""
    cfg = setup.load_config(args.config_file, args.opts)
    device, notice = setup.choose_device(args, cfg.train)
    output_dir = Path(cfg.train.output_dir)
    prepare_folder(output_dir)
    resumes = args.resume and not args.eval_only and Checkpointer(output_dir).latest() is not None
    if args.eval_only and not cfg.train.init_checkpoint:
        raise InputError("--eval-only needs weights: add train.init_checkpoint=FILE")
    if cfg.train.init_checkpoint and not resumes:
        local_path(cfg.train.init_checkpoint)
    if cfg.train.deterministic:
        setup.make_deterministic()
    precision = setup.set_matmul_precision(cfg.train, device)
    fabric = setup.build_fabric(args, cfg.train, device)
    fabric.launch()
    patience = 0.0
    try:
        with RunLog(quiet=not setup.is_first_process()) as log:
            for line in filter(None, (notice, precision)):
                logger.info(line)
            session = Session(cfg, fabric, Processes(), output_dir, log)
            if args.eval_only:
                results = evaluate(session, overrides=args.opts)
            else:
                results = train(session, resumes=resumes, asked=args.resume, overrides=args.opts)
        patience = 60.0
    except (InputError, NonFiniteError, Interrupted):
        patience = 10.0  # the other processes know about the error too, and will end
        raise
    finally:
        end_started_processes(fabric, patience=patience)
    return results


def train(session: Session, *, resumes: bool, asked: bool, overrides: Sequence[str] = ()) -> Results:
    """Train from the beginning or from the last checkpoint, evaluate, and log where the results are.

    Args:
        session: the environment of the run.
        resumes: whether to continue from the last checkpoint.
        asked: whether the command line has --resume.
        overrides: the changes to the config on the command line.

    Returns:
        The scores of the last evaluation.
    """
    cfg, processes, folder = session.cfg, session.processes, session.output_dir
    checkpointer = Checkpointer(folder)
    checkpoint = None
    if resumes:
        path = processes.from_first(checkpointer.latest())
        checkpoint = processes.together(lambda: checkpointer.read(path))
        cfg.train.seed = checkpoint["seed"]
    elif cfg.train.seed == -1:
        cfg.train.seed = processes.from_first(setup.draw_seed())
    seed_all(cfg.train.seed)
    names = () if checkpoint is None else checkpoint["class_names"]
    processes.together(lambda: settle_data(cfg, class_names=names, asked=overrides))
    parts = processes.together(lambda: build_parts(cfg, trains=True))
    if checkpoint is not None:
        processes.together(lambda: check_same_run(checkpoint, parts, path, max_iter=cfg.train.max_iter))
    processes.on_first(lambda: preflight(parts))
    parts.model.to(session.fabric.device)
    trainer = processes.together(lambda: build_trainer(session, parts, load=checkpoint is None))
    processes.on_first(lambda: settle_folder(session, resumes=resumes, asked=asked))
    seed_all(cfg.train.seed + processes.rank)  # from here on each process draws different random numbers
    if checkpoint is not None:
        logger.info(f"resuming from {path}: iteration {checkpoint['iteration'] + 1} of {cfg.train.max_iter}")
    results = trainer.train(checkpoint)
    logger.info(metrics_table(results))
    logger.info(closing_words(session, results))
    return results


def build_parts(cfg: DictConfig, *, trains: bool) -> Parts:
    """Build model, loaders and evaluator, and compare their classes; the training loader only if `trains` is true."""
    parts = Parts(
        model=instantiate(cfg.model),
        train_loader=instantiate(cfg.dataloader.train) if trains else None,
        test_loader=instantiate(cfg.dataloader.test),
        evaluator=instantiate(cfg.dataloader.evaluator),
    )
    for loader in parts.loaders:
        check_classes(parts.model, loader)
    check_same_classes(parts)
    return parts


def build_trainer(session: Session, parts: Parts, *, load: bool) -> Trainer:
    """Load the initial weights if `load` is true, and build the optimizer and the trainer."""
    cfg = session.cfg
    if load and cfg.train.init_checkpoint:
        load_initial_weights(cfg, parts, fine_tuning=True)
    node = setup.with_fused_steps(copy.deepcopy(cfg.optimizer), cfg.train, session.fabric.device.type)
    with open_dict(node.params):
        node.params.model = opaque(parts.model)
    return Trainer(session, parts, optimizer=instantiate(node), multiplier=instantiate(cfg.lr_multiplier))


def load_initial_weights(cfg: DictConfig, parts: Parts, *, fine_tuning: bool, ema: bool = False) -> None:
    """Load train.init_checkpoint, with the rename table train.checkpoint_names if the config has one."""
    names = instantiate(cfg.train.checkpoint_names) if cfg.train.get("checkpoint_names") else None
    path = cfg.train.init_checkpoint
    ours = list(getattr(parts.loaders[0].dataset, "class_names", ()))
    adapt = partial(with_rows_of_classes, node=cfg.model, model=parts.model, class_names=ours)
    load_model(parts.model, path, names=names, ema=ema, fine_tuning=fine_tuning, adapt=adapt if fine_tuning else None)
    logger.info(f"weights of {path}")


def preflight(parts: Parts) -> None:
    """Check the files of the datasets before the run starts."""
    for loader in parts.loaders:
        if hasattr(loader.dataset, "preflight"):
            loader.dataset.preflight()


def check_classes(model: nn.Module, loader: Any) -> None:
    """Raise InputError if the model and the dataset have different numbers of classes."""
    ours, theirs = getattr(model, "num_classes", None), getattr(loader.dataset, "num_classes", None)
    if ours is not None and theirs is not None and ours != theirs:
        file = getattr(loader.dataset, "json_file", "the dataset")
        raise InputError(f"model.num_classes={ours}, but {file} has {theirs} classes; add model.num_classes={theirs}")


def check_same_classes(parts: Parts) -> None:
    """Raise InputError if training and evaluation have different classes, or the same in another order."""
    known = [
        (part, [str(name) for name in part.class_names])
        for part in (*(loader.dataset for loader in parts.loaders), parts.evaluator)
        if getattr(part, "class_names", None)
    ]
    for part, names in known[1:]:
        first, expected = known[0]
        if names != expected:
            raise InputError(
                f"{getattr(part, 'json_file', 'the test set')}: its classes ({some(names)}) are not those of "
                f"{getattr(first, 'json_file', 'the training set')} ({some(expected)}) in the same order; expected the "
                "same class names"
            )


def check_same_run(checkpoint: dict[str, Any], parts: Parts, path: Path, *, max_iter: int) -> None:
    """Raise InputError if a checkpoint does not fit the model, the classes or the length of this run."""
    if checkpoint["iteration"] >= max_iter:
        raise InputError(
            f"train.max_iter={max_iter}: {path} has already done {checkpoint['iteration'] + 1} iterations; expected at "
            "least as many, or a new train.output_dir"
        )
    names = [str(name) for name in getattr(parts.train_loader.dataset, "class_names", ())]
    if names != checkpoint["class_names"]:
        raise InputError(
            f"{path}: its classes ({some(checkpoint['class_names'])}) are not the dataset's ({some(names)}); "
            "resume with the dataset that the run began with"
        )
    load_weights(parts.model, checkpoint["model"], path)


def settle_folder(session: Session, *, resumes: bool, asked: bool) -> None:
    """Move the files of an earlier run away unless it is resumed; write config.yaml; open log.txt."""
    folder = session.output_dir
    remove_leftovers(folder)
    if asked and not resumes:
        logger.info(f"--resume: {folder} has no checkpoint to resume from, starting from the beginning")
    aside = None if resumes else set_previous_run_aside(folder)
    if aside is not None:
        logger.info(f"{folder} held an earlier run; its files are now in {aside}")
    session.log.open_file(folder / "log.txt")
    LazyConfig.save(session.cfg, folder / "config.yaml")


def evaluate(session: Session, *, overrides: Sequence[str] = ()) -> Results:
    """Evaluate train.init_checkpoint (its averaged weights if train.model_ema.enabled) and write results.json."""
    cfg, processes = session.cfg, session.processes
    seed_all(max(cfg.train.seed, 0))
    names = processes.together(lambda: class_names_of(cfg.train.init_checkpoint))
    processes.together(lambda: settle_data(cfg, class_names=names, asked=overrides))
    parts = processes.together(lambda: build_parts(cfg, trains=False))
    processes.on_first(lambda: preflight(parts))
    parts.model.to(session.fabric.device)
    ema = cfg.train.model_ema.enabled
    processes.together(lambda: load_initial_weights(cfg, parts, fine_tuning=False, ema=ema))
    if processes.is_first:
        session.log.open_file(session.output_dir / "log.txt")
    results = score(session, parts)
    logger.info(metrics_table(results))
    if processes.is_first:
        save_results(results, session.output_dir)
        logger.info(f"written to {session.output_dir / 'results.json'}")
    return results


def closing_words(session: Session, results: Results) -> str:
    """The last lines of the log: AP, AP50, and where the files of the run are."""
    folder = session.output_dir
    lines = ["done"]
    for task, scores in results.items():
        main = "  ".join(f"{name} {scores[name]:.2f}" for name in ("AP", "AP50") if name in scores)
        lines.append(f"  {task:<9} {main}")
    lines += [
        f"  weights   {folder / 'model_final.pth'}",
        f"  curves    {folder / 'curves.png'}",
        f"  numbers   {folder / 'metrics.json'}, {folder / 'results.json'}; tensorboard --logdir {folder}",
        f"  pictures  python -m crossstage predict --config-file {folder / 'config.yaml'} --weights "
        f"{folder / 'model_final.pth'} --input 'FOLDER/*.jpg' --output {folder / 'pictures'}",
    ]
    return "\n".join(lines)
