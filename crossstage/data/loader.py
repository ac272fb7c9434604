"""Batches for training (endless, resumable) and for evaluation (each image once).

The training stream depends only on (dataset, total batch size, seed). Images are drawn epoch by epoch, sorted into
total batches by aspect ratio, and augmented with a seed that depends on their position in the stream. The images of a
step are therefore the same for any number of workers and processes, and after an interruption.
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
    """Endless `ImageBatch`es on the CPU, pinned if CUDA is available. Each process gets its part of a total batch.

    Args:
        dataset: the images.
        transform: the augmentation, or None.
        total_batch_size: number of images per step over all processes; each process takes a consecutive part.
        num_workers: worker processes per process; at most one per core is started.
        seed: decides the order and the augmentation; not negative.
        aspect_ratio_grouping: whether wide images (width > height) are kept apart from the others; saves padding.
        size_divisor: padded heights and widths are multiples of this.

    Raises:
        InputError: if the processes cannot share `total_batch_size` equally.
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
        self.dataset, self.transform = dataset, transform
        self.total_batch_size, self.num_workers, self.seed = total_batch_size, num_workers, seed
        self.aspect_ratio_grouping, self.size_divisor = aspect_ratio_grouping, size_divisor
        self._consumed = 0
        self._share()  # raises at once if the total batch size does not fit

    def __iter__(self) -> Iterator[ImageBatch]:
        """Continue at the position of `state_dict`. A batch counts as consumed when it is yielded."""
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
        """The position in the stream (the number of batches yielded), and the values that the stream depends on."""
        return {
            "batches": self._consumed,
            "seed": self.seed,
            "total_batch_size": self.total_batch_size,
            "num_images": len(self.dataset),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration continue where `state` was taken, with its seed.

        Raises InputError if the number of images or the total batch size has changed.
        """
        for name, value in self.state_dict().items():
            if name in ("num_images", "total_batch_size") and state[name] != value:
                raise InputError(
                    f"cannot resume: the checkpoint was written with {name}={state[name]}, now it is {value}; restore "
                    "it, or start again from only the weights (train.init_checkpoint)"
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
    """Batches of each image once, in the order of the dataset; process r of n takes images r, r + n, r + 2n, ...

    No image is repeated to fill a batch, so that some processes may have one batch less than others. The arguments
    are as for `TrainLoader`; `batch_size` is the number of images per process.
    """

    __test__ = False  # tells pytest that this class is not a test

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
        self.dataset, self.transform = dataset, transform
        self.batch_size, self.num_workers, self.size_divisor = batch_size, num_workers, size_divisor

    def __len__(self) -> int:
        """Number of batches of this process."""
        return len(self._draws())

    def __iter__(self) -> Iterator[ImageBatch]:
        source = _TransformedDataset(self.dataset, self.transform, seed=0)
        try:
            yield from _batches(source, self._draws(), num_workers=self.num_workers, size_divisor=self.size_divisor)
        except InputError as error:
            raise InputError(f"{error}; replace the file, or remove the image from the JSON") from error

    def _draws(self) -> list[list[Draw]]:
        rank, processes = _rank_and_processes()
        mine = [(index, index) for index in range(rank, len(self.dataset), processes)]
        return [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]


def grouped_batches(groups: np.ndarray, *, batch_size: int, seed: int) -> Iterator[list[Draw]]:
    """Endless batches of (index, position), each with images of one group only.

    `groups` is bool [I], the group of each image. Epoch e is a permutation that depends on (seed, e). An image waits
    until its group has a full batch; its batch may therefore be yielded in a later epoch.
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
    """The form in which a batch leaves a worker.

    All targets together are two tensors, because each tensor that a worker sends needs a file descriptor.
    """

    batch: ImageBatch  # without targets
    labels: Tensor
    boxes: Tensor
    counts: tuple[int, ...]  # objects per image

    def pin_memory(self) -> _Parcel:
        """Pin the tensors; DataLoader calls this if it pins memory."""
        batch = replace(self.batch, pixels=self.batch.pixels.pin_memory(), mask=self.batch.mask.pin_memory())
        return replace(self, batch=batch, labels=self.labels.pin_memory(), boxes=self.boxes.pin_memory())

    def open(self) -> ImageBatch:
        """The batch with its targets."""
        parts = zip(self.labels.split(self.counts), self.boxes.split(self.counts), strict=True)
        return replace(self.batch, targets=tuple(Target(labels=labels, boxes=boxes) for labels, boxes in parts))


@dataclass(frozen=True)
class _Refusal:
    """The message of an InputError. The error itself would leave the worker as a traceback."""

    message: str

    def open(self) -> NoReturn:
        """Raise the InputError."""
        raise InputError(self.message)


class _TransformedDataset(Dataset):
    """Samples after their transform, which uses generators that are seeded by (seed, position)."""

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
    """Inside, torch, numpy and Python are seeded by (seed, position); afterwards their states are restored."""
    words = np.random.SeedSequence([seed, position]).generate_state(4, np.uint32)
    # A transform that a user wrote may draw from any of the three global generators.
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        # Without workers, torch.manual_seed would also reset the CUDA generators of the run.
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
    targets = batch.targets or ()  # a batch of samples always has targets
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
        generator=torch.Generator(),  # otherwise it draws from the global generator, and a resumed run would differ
    )
    for parcel in parcels:
        yield parcel.open()


def _available_cores() -> int:
    """The cores of this process. More workers would not be faster, and DataLoader would warn about them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave_interrupts_to_the_main_process(_worker: int) -> None:
    """Ignore Ctrl-C, which reaches all processes of a terminal; the main process ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _rank_and_processes() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _require(name: str, value: int, *, least: int, remedy: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}={value!r}: expected a whole number of at least {least}{remedy}")
