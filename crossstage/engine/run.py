"""A run, from its arguments to its exit status. Read `run` first."""

from __future__ import annotations

import argparse
import copy
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import distributed

from crossstage.checkpoints.load import class_names_of, load_model, local_path
from crossstage.checkpoints.save import Checkpointer
from crossstage.config import LazyConfig, instantiate
from crossstage.config.nodes import opaque
from crossstage.data.own_data import settle_data
from crossstage.engine import acceleration, setup
from crossstage.engine.checks import check_classes, check_same_classes, check_same_run, preflight
from crossstage.engine.class_rows import with_rows_of_classes
from crossstage.engine.interrupt import Interrupted, ending_signals
from crossstage.engine.learner import build_learner
from crossstage.engine.length import settle_length
from crossstage.engine.log import RunLog
from crossstage.engine.output import held, holds_training, prepare_folder, set_previous_run_aside
from crossstage.engine.provenance import head, model_line
from crossstage.engine.session import Parts, Results, Session, closing_words, origin, save_results, score
from crossstage.engine.trainer import Trainer
from crossstage.errors import InputError, NonFiniteError
from crossstage.evaluation import CocoEvaluator, metrics_table
from crossstage.evaluation.report import write_report
from crossstage.files import remove_leftovers
from crossstage.processes import Processes, end_started_processes, watch_started_processes
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
    if args.eval_only and not cfg.train.init_checkpoint:
        raise InputError("--eval-only needs weights: add train.init_checkpoint=FILE")
    if args.eval_only and holds_training(output_dir):  # whose results stay
        output_dir = output_dir / f"eval_{Path(cfg.train.init_checkpoint).stem}"
        cfg.train.output_dir = str(output_dir)
    prepare_folder(output_dir)
    with held(output_dir) if setup.is_first_process() else nullcontext():
        return run_in_folder(args, cfg, output_dir, device, notice)


def run_in_folder(args: argparse.Namespace, cfg: DictConfig, output_dir: Path, device: str, notice: str) -> Results:
    """The part of `run` that needs the folder for itself."""
    resumes = args.resume and not args.eval_only and Checkpointer(output_dir).latest() is not None
    if cfg.train.init_checkpoint and not resumes:
        local_path(cfg.train.init_checkpoint)
    if cfg.train.deterministic:
        acceleration.make_deterministic()
    chosen = acceleration.choose(cfg, device)
    acceleration.apply(chosen)
    fabric = setup.build_fabric(args, cfg.train, device)
    fabric.launch()
    patience = 0.0
    try:
        with (
            RunLog(quiet=not setup.is_first_process()) as log,
            log.noting_end(output_dir, rank=fabric.global_rank),
            ending_signals(),
        ):
            watch_started_processes(fabric, log.write_plainly)
            threads = setup.settle_threads(cfg.train)
            command = getattr(args, "command", "")
            logger.info(head(command=command, device=device, processes=args.num_gpus, threads=threads))
            for line in filter(None, (notice, chosen.line())):
                logger.info(line)
            session = Session(cfg, fabric, Processes(), output_dir, log)
            if args.eval_only:
                results = evaluate(session, reports=getattr(args, "report", False), overrides=args.opts)
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
    replaced = checkpoint is not None or bool(cfg.train.init_checkpoint)
    parts = processes.together(lambda: build_parts(cfg, trains=True, replaced=replaced))
    logger.info(model_line(parts.model, cfg.train.seed))
    if length := settle_length(cfg.train, parts.train_loader):
        logger.info(length)
    if checkpoint is not None:
        processes.together(lambda: check_same_run(checkpoint, parts, path, max_iter=cfg.train.max_iter))
    processes.on_first(lambda: preflight(parts))
    acceleration.place(parts.model, cfg, session.fabric.device)
    trainer = processes.together(lambda: build_trainer(session, parts, load=checkpoint is None))
    processes.on_first(lambda: settle_folder(session, resumes=resumes, asked=asked))
    seed_all(cfg.train.seed + processes.rank)  # from here on each process draws different random numbers
    if checkpoint is not None:
        logger.info(f"resuming from {path}: iteration {checkpoint['iteration'] + 1} of {cfg.train.max_iter}")
    results = trainer.train(checkpoint)
    logger.info(metrics_table(results))
    logger.info(closing_words(session, results))
    return results


def build_parts(cfg: DictConfig, *, trains: bool, replaced: bool) -> Parts:
    """Build model, loaders and evaluator, and compare their classes.

    Args:
        cfg: the config.
        trains: whether to build the training loader.
        replaced: whether a checkpoint will replace all weights: then pretrained ones are not downloaded.

    Returns:
        The parts.
    """
    node = copy.deepcopy(cfg.model)
    if replaced and OmegaConf.select(node, "backbone.pretrained"):
        node.backbone.pretrained = False
    parts = Parts(
        model=instantiate(node),
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
    if cfg.train.compile.enabled:
        acceleration.compile_layers(parts.model, cfg.train.compile.backend)
    node = acceleration.with_fused_steps(copy.deepcopy(cfg.optimizer), cfg.train, session.fabric.device.type)
    with open_dict(node.params):
        node.params.model = opaque(parts.model)
    learner = build_learner(session.fabric, parts.model, partial(instantiate, node), cfg.train.model_ema)
    return Trainer(session, parts, learner=learner, multiplier=instantiate(cfg.lr_multiplier))


def load_initial_weights(cfg: DictConfig, parts: Parts, *, fine_tuning: bool, ema: bool = False) -> None:
    """Load train.init_checkpoint, with the rename table train.checkpoint_names if the config has one."""
    names = instantiate(cfg.train.checkpoint_names) if cfg.train.get("checkpoint_names") else None
    path = cfg.train.init_checkpoint
    ours = list(getattr(parts.loaders[0].dataset, "class_names", ()))
    adapt = partial(with_rows_of_classes, node=cfg.model, model=parts.model, class_names=ours)
    load_model(parts.model, path, names=names, ema=ema, fine_tuning=fine_tuning, adapt=adapt if fine_tuning else None)
    logger.info(f"weights of {path}")


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


def evaluate(session: Session, *, reports: bool, overrides: Sequence[str] = ()) -> Results:
    """Evaluate train.init_checkpoint (its averaged weights if train.model_ema.enabled) and write results.json.

    Args:
        session: the environment of the run.
        reports: whether to write the folder report/ too.
        overrides: the key=value of the command line.

    Returns:
        The scores.
    """
    cfg, processes = session.cfg, session.processes
    seed_all(max(cfg.train.seed, 0))
    names = processes.together(lambda: class_names_of(cfg.train.init_checkpoint))
    processes.together(lambda: settle_data(cfg, class_names=names, asked=overrides))
    parts = processes.together(lambda: build_parts(cfg, trains=False, replaced=True))
    processes.on_first(lambda: preflight(parts))
    acceleration.place(parts.model, cfg, session.fabric.device)
    ema = cfg.train.model_ema.enabled
    processes.together(lambda: load_initial_weights(cfg, parts, fine_tuning=False, ema=ema))
    if processes.is_first:
        session.log.open_file(session.output_dir / "log.txt")
    results = score(session, parts)
    logger.info(metrics_table(results))
    if processes.is_first:
        save_results(results, session, parts, weights=str(cfg.train.init_checkpoint))
        logger.info(f"written to {session.output_dir / 'results.json'}")
    if reports:
        page = processes.on_first(lambda: report_of(session, parts))
        logger.info(f"report: {page}")
    return results


def report_of(session: Session, parts: Parts) -> Path:
    """Write report/ after an evaluation; returns its page. Raises InputError if evaluator or data are not COCO's."""
    root = getattr(parts.test_loader.dataset, "image_root", None)
    if not isinstance(parts.evaluator, CocoEvaluator) or root is None:
        raise InputError("--report needs dataloader.evaluator=CocoEvaluator and a dataset with image_root")
    about = origin(parts, weights=str(session.cfg.train.init_checkpoint))
    return write_report(parts.evaluator, session.output_dir / "report", image_root=Path(root), about=about)
