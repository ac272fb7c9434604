"""Batches for training (endless, resumable) and for evaluation (each image once).

The training stream is a function of (dataset, total batch size, seed) alone. Images are drawn epoch by epoch, sorted
into total batches by aspect ratio, and augmented with a seed that depends on their position in the stream: neither the
number of workers nor that of processes, nor an interruption, changes what a step sees.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from crossstage.data.batch import Sample, collate
from crossstage.data.coco import CocoDetection
from crossstage.errors import InputError
from crossstage.structures import ImageBatch, Target

Transform = Callable[[Sample], Sample]
Draw = tuple[int, int]  # (index in the dataset, position in the stream)


class TrainLoader:
    """Endless CPU `ImageBatch`es, pinned if CUDA is there: this process's share of `total_batch_size` images.

    total_batch_size: over all processes; each takes a consecutive part.  num_workers: per process; no more than there
    are cores are started.  seed: not negative; decides order and augmentation.  aspect_ratio_grouping: wide images
    (width > height) and the others are not mixed in a total batch, which saves padding.  size_divisor: padded sizes
    are multiples of it.
    Raises InputError if `total_batch_size` cannot be shared equally.
    """

    def __init__(
        self,
        dataset: CocoDetection,
        *,
        transform: Transform | None,
        total_batch_size: int,
        num_workers: int = 4,
        seed: int = 0,
        aspect_ratio_grouping: bool = True,
        size_divisor: int = 1,
    ) -> None:
        _require("total_batch_size", total_batch_size, least=1)
        _require("num_workers", num_workers, least=0)
        _require("seed", seed, least=0, remedy="; set train.seed (its -1 is replaced when a run is set up)")
        self.dataset = dataset
        self.transform = transform
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.aspect_ratio_grouping = aspect_ratio_grouping
        self.size_divisor = size_divisor
        self._consumed = 0
        self._share()  # complain at once

    def __iter__(self) -> Iterator[ImageBatch]:
        """Go on at the position of `state_dict`. A batch counts as consumed when it is handed out."""
        mine = self._share()
        groups = np.zeros(len(self.dataset), bool)
        if self.aspect_ratio_grouping:
            groups = self.dataset.image_sizes[:, 1] > self.dataset.image_sizes[:, 0]
        stream = grouped_batches(groups, batch_size=self.total_batch_size, seed=self.seed)
        draws = (batch[mine] for batch in islice(stream, self._consumed, None))
        source = _TransformedDataset(self.dataset, self.transform, seed=self.seed)
        for batch in _batches(source, draws, num_workers=self.num_workers, size_divisor=self.size_divisor):
            self._consumed += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position in the stream, in batches that were handed out, and what the stream depends on."""
        return {
            "batches": self._consumed,
            "seed": self.seed,
            "total_batch_size": self.total_batch_size,
            "num_images": len(self.dataset),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on where `state` was taken, with its seed.

        Raises InputError if the number of images or the total batch size is another one.
        """
        for name, value in self.state_dict().items():
            if name in ("num_images", "total_batch_size") and state[name] != value:
                raise InputError(
                    f"cannot resume: the checkpoint was written with {name}={state[name]}, now it is {value}; restore "
                    "it, or start anew from the weights alone (train.init_checkpoint)"
                )
        self._consumed = state["batches"]
        self.seed = state["seed"]

    def _share(self) -> slice:
        """This process's part of a total batch."""
        rank, processes = _rank_and_processes()
        if self.total_batch_size % processes:
            raise InputError(
                f"dataloader.train.total_batch_size={self.total_batch_size} cannot be shared by {processes} processes; "
                f"expected a multiple of {processes}"
            )
        size = self.total_batch_size // processes
        return slice(rank * size, (rank + 1) * size)


class TestLoader:
    """Each image once, in the order of the dataset; process r of n takes images r, r + n, r + 2n, ...

    Nothing is padded or repeated: the processes together yield each image exactly once, so one may have a batch less.
    """

    __test__ = False  # pytest: this is no test

    def __init__(
        self,
        dataset: CocoDetection,
        *,
        transform: Transform | None,
        batch_size: int = 1,
        num_workers: int = 4,
        size_divisor: int = 1,
    ) -> None:
        _require("batch_size", batch_size, least=1)
        _require("num_workers", num_workers, least=0)
        self.dataset = dataset
        self.transform = transform
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.size_divisor = size_divisor

    def __len__(self) -> int:
        """Number of batches of this process."""
        return len(self._draws())

    def __iter__(self) -> Iterator[ImageBatch]:
        source = _TransformedDataset(self.dataset, self.transform, seed=0)
        return _batches(source, self._draws(), num_workers=self.num_workers, size_divisor=self.size_divisor)

    def _draws(self) -> list[list[Draw]]:
        rank, processes = _rank_and_processes()
        mine = [(index, index) for index in range(rank, len(self.dataset), processes)]
        return [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]


def grouped_batches(groups: np.ndarray, *, batch_size: int, seed: int) -> Iterator[list[Draw]]:
    """Endless batches of (index, position), each with images of one group only.

    groups: bool [I], the group of each image. Epoch e is a permutation that depends on (seed, e); an image waits
    until its group has a full batch, so every image occurs once per epoch, sooner or later.
    """
    waiting: dict[bool, list[Draw]] = {False: [], True: []}
    position = 0
    epoch = 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(groups))
        for index, group in zip(order.tolist(), groups[order].tolist(), strict=True):
            waiting[group].append((index, position))
            position += 1
            if len(waiting[group]) == batch_size:
                yield waiting[group]
                waiting[group] = []
        epoch += 1


@dataclass(frozen=True)
class _Parcel:
    """A batch on its way out of a worker.

    The targets travel as two tensors, however many images there are: each tensor of a worker costs a file descriptor.
    """

    batch: ImageBatch  # without targets
    labels: Tensor
    boxes: Tensor
    counts: tuple[int, ...]  # objects per image

    def pin_memory(self) -> _Parcel:
        """What DataLoader calls where it is to pin."""
        batch = replace(self.batch, pixels=self.batch.pixels.pin_memory(), mask=self.batch.mask.pin_memory())
        return replace(self, batch=batch, labels=self.labels.pin_memory(), boxes=self.boxes.pin_memory())

    def open(self) -> ImageBatch:
        """The batch with its targets."""
        parts = zip(self.labels.split(self.counts), self.boxes.split(self.counts), strict=True)
        return replace(self.batch, targets=tuple(Target(labels=labels, boxes=boxes) for labels, boxes in parts))


@dataclass(frozen=True)
class _Refusal:
    """The message of an InputError, which would become a traceback on its way out of a worker."""

    message: str

    def open(self) -> NoReturn:
        """Raise the InputError."""
        raise InputError(self.message)


class _TransformedDataset(Dataset):
    """Samples after their transform, which draws from generators that are seeded by (seed, position)."""

    def __init__(self, dataset: CocoDetection, transform: Transform | None, *, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __getitem__(self, draw: Draw) -> Sample | InputError:
        index, position = draw
        try:
            sample = self.dataset[index]
            if self.transform is None:
                return sample
            with _isolated_random_numbers(self.seed, position):
                return self.transform(sample)
        except InputError as error:
            return error


@contextmanager
def _isolated_random_numbers(seed: int, position: int) -> Iterator[None]:
    """Seed torch, numpy and Python by (seed, position); put their states back afterwards."""
    words = np.random.SeedSequence([seed, position]).generate_state(4, np.uint32)
    # A transform that its user wrote may draw from any of the three global generators.
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: without workers that would reset the run's CUDA generators as well.
        torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
        np.random.seed(words)  # noqa: NPY002
        random.seed(words.tobytes())
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _pack(samples: list[Sample | InputError], *, size_divisor: int) -> _Parcel | _Refusal:
    images: list[Sample] = []
    for sample in samples:
        if isinstance(sample, InputError):
            return _Refusal(str(sample))
        images.append(sample)
    batch = collate(images, size_divisor=size_divisor)
    targets = batch.targets or ()  # of a dataset's samples there are always some
    return _Parcel(
        batch=replace(batch, targets=None),
        labels=torch.cat([target.labels for target in targets]),
        boxes=torch.cat([target.boxes for target in targets]),
        counts=tuple(len(target) for target in targets),
    )


def _batches(source: _TransformedDataset, draws: Any, *, num_workers: int, size_divisor: int) -> Iterator[ImageBatch]:
    """Run `source` over the batches of `draws` (any iterable of lists of `Draw`), in order."""
    parcels = DataLoader(
        source,
        batch_sampler=draws,
        num_workers=min(num_workers, _available_cores()),
        collate_fn=partial(_pack, size_divisor=size_divisor),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_interrupts_to_the_main_process if num_workers else None,
        generator=torch.Generator(),  # else it draws a seed from the global generator, and a resumed run differs
    )
    for parcel in parcels:
        yield parcel.open()


def _available_cores() -> int:
    """More workers than these only take turns (and DataLoader warns of them); the stream does not depend on it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _leave_interrupts_to_the_main_process(_worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the main process ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _rank_and_processes() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _require(name: str, value: int, *, least: int, remedy: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}={value!r}: expected a whole number of at least {least}{remedy}")
