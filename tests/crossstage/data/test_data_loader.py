"""The training stream depends on dataset, total batch size and seed alone; evaluation sees each image once."""

import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from crossstage.data.coco import CocoDetection
from crossstage.data.loader import TestLoader, TrainLoader, grouped_batches
from crossstage.data.transforms import DetrAugmentation, Resize
from crossstage.errors import InputError
from crossstage.structures import ImageBatch
from tests.random_numbers import draws, seed_all

AUGMENTATION = DetrAugmentation(short_edges=(32, 48), max_size=80, crop_short_edges=(40, 60), crop_size=(20, 40))
SIZES = [(40, 60), (60, 40), (40, 60), (50, 50), (60, 40), (40, 60), (40, 60)]  # four wide ones, three others


@pytest.fixture
def dataset(coco_folder) -> CocoDetection:
    boxes = [{"image_id": 100 + i % 6, "bbox": [2 + i, 3, 20, 15]} for i in range(12)]  # the last image is empty
    folder = coco_folder(SIZES, boxes)
    return CocoDetection(folder / "instances.json", folder / "images")


def train_loader(dataset, **options) -> TrainLoader:
    return TrainLoader(
        dataset, **{"transform": AUGMENTATION, "total_batch_size": 2, "num_workers": 0, "seed": 1, **options}
    )


def take(loader, number: int) -> list[ImageBatch]:
    return list(islice(loader, number))


def assert_same(first: list[ImageBatch], second: list[ImageBatch]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.image_ids == other.image_ids and one.sizes == other.sizes
        assert one.pixels.equal(other.pixels) and one.mask.equal(other.mask)
        for target, same in zip(one.targets, other.targets, strict=True):
            assert target.labels.equal(same.labels) and target.boxes.equal(same.boxes)


@pytest.fixture
def processes(monkeypatch):
    """Pretend to be one of several processes."""

    def pretend(rank: int, number: int) -> None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: number)

    return pretend


def test_the_stream_is_the_same_with_workers_and_goes_on_where_it_was_left(dataset):
    whole = take(train_loader(dataset), 12)
    assert_same(take(train_loader(dataset, num_workers=2), 12), whole)
    interrupted = train_loader(dataset, num_workers=2)
    stream = iter(interrupted)
    assert_same([next(stream) for _ in range(5)], whole[:5])
    state = interrupted.state_dict()  # the workers are ahead by now; what counts is what was handed out
    assert state == {"batches": 5, "seed": 1, "total_batch_size": 2, "num_images": 7}
    for workers in (0, 2):
        resumed = train_loader(dataset, num_workers=workers, seed=99)
        resumed.load_state_dict(state)
        assert_same(take(resumed, 7), whole[5:])
        assert resumed.state_dict() == {**state, "batches": 12}


def test_the_seed_changes_order_and_augmentation(dataset):
    first, second = (take(train_loader(dataset, seed=seed), 8) for seed in (1, 2))
    assert [batch.image_ids for batch in first] != [batch.image_ids for batch in second]
    sizes = {}
    for batch in first + second:
        for image_id, size in zip(batch.image_ids, batch.sizes, strict=True):
            sizes.setdefault(image_id, set()).add(size)
    assert max(map(len, sizes.values())) > 2, "an image is augmented again each time"


def test_the_seed_changes_what_happens_to_one_image(coco_folder):
    folder = coco_folder([(40, 60)], [])
    single = CocoDetection(folder / "instances.json", folder / "images")
    first, second = (take(train_loader(single, seed=seed), 6) for seed in (1, 2))
    assert [batch.sizes for batch in first] != [batch.sizes for batch in second]


@pytest.mark.parametrize("workers", [0, 1])
def test_random_numbers_of_the_run_are_not_touched(dataset, workers):
    seed_all()
    expected = draws()
    seed_all()
    take(train_loader(dataset, num_workers=workers), 3)
    list(TestLoader(dataset, transform=None, num_workers=workers))
    assert draws() == expected


def test_processes_share_each_total_batch(dataset, processes):
    whole = take(train_loader(dataset, total_batch_size=4), 6)
    for rank in range(2):
        processes(rank, 2)
        for batch, part in zip(whole, take(train_loader(dataset, total_batch_size=4), 6), strict=True):
            mine = slice(2 * rank, 2 * rank + 2)
            assert part.image_ids == batch.image_ids[mine] and part.sizes == batch.sizes[mine]
            for mine_target, target in zip(part.targets, batch.targets[mine], strict=True):
                assert mine_target.boxes.equal(target.boxes)


def test_a_total_batch_that_cannot_be_shared_is_named(dataset, processes):
    processes(0, 3)
    with pytest.raises(
        InputError, match=r"total_batch_size=2 cannot be shared by 3 processes; expected a multiple of 3"
    ):
        train_loader(dataset)


def test_wide_and_other_images_are_not_mixed_and_all_are_seen_each_epoch(dataset):
    wide = {100 + number for number, (height, width) in enumerate(SIZES) if width > height}
    batches = [batch.image_ids for batch in take(train_loader(dataset, transform=None), 70)]
    assert all(len({image_id in wide for image_id in batch}) == 1 for batch in batches)
    counts = np.bincount(np.concatenate(batches) - 100)
    assert len(counts) == len(SIZES) and counts.max() - counts.min() <= 1, "twenty epochs, up to what still waits"
    mixed = [batch.image_ids for batch in take(train_loader(dataset, transform=None, aspect_ratio_grouping=False), 70)]
    assert any(len({image_id in wide for image_id in batch}) == 2 for batch in mixed)
    epochs = np.concatenate(mixed).reshape(-1, len(SIZES))
    assert all(sorted(epoch) == sorted(100 + i for i in range(len(SIZES))) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 15, "each epoch has its own order"


def test_a_dataset_smaller_than_a_batch_does_not_hang(coco_folder):
    folder = coco_folder([(40, 30)], [])
    single = CocoDetection(folder / "instances.json", folder / "images")
    batch = take(train_loader(single, total_batch_size=5), 1)[0]
    assert batch.image_ids == (100,) * 5 and all(len(target) == 0 for target in batch.targets)


def test_positions_count_the_draws_of_the_stream():
    draws = [draw for batch in islice(grouped_batches(np.zeros(3, bool), batch_size=3, seed=0), 4) for draw in batch]
    assert [position for _, position in draws] == list(range(12))


def test_resuming_with_another_dataset_or_batch_size_is_refused(dataset):
    state = train_loader(dataset).state_dict()
    for name, value in (("num_images", 8), ("total_batch_size", 16)):
        with pytest.raises(InputError, match=f"written with {name}={value}, now it is"):
            train_loader(dataset).load_state_dict({**state, name: value})


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_one_line_even_from_a_worker(dataset, workers):
    dataset.path(3).write_bytes(b"")
    for loader in (
        train_loader(dataset, num_workers=workers),
        TestLoader(dataset, transform=None, num_workers=workers),
    ):
        with pytest.raises(InputError) as caught:
            take(loader, 20)
        assert str(dataset.path(3)) in str(caught.value) and "\n" not in str(caught.value)
    assert "replace the file, or remove the image from the JSON" in str(caught.value)  # nothing skips in evaluation


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_each_image_once_over_all_processes(dataset, processes, workers):
    seen = []
    for rank in range(3):
        processes(rank, 3)
        loader = TestLoader(dataset, transform=Resize(48, 80), batch_size=2, num_workers=workers)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(min(size) <= 48 and max(size) <= 80 for batch in batches for size in batch.sizes)
        seen += [image_id for batch in batches for image_id in batch.image_ids]
        for batch in batches:
            expected = tuple(SIZES[image_id - 100] for image_id in batch.image_ids)
            assert batch.original_sizes == expected and len(batch.targets) == len(batch)
    assert sorted(seen) == [100 + number for number in range(len(SIZES))]
    processes(7, 8)
    assert len(TestLoader(dataset, transform=None)) == 0 and list(TestLoader(dataset, transform=None)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, r"seed=-1: expected .* at least 0; set train.seed"),
        ({"total_batch_size": 0}, "total_batch_size=0: expected"),
        ({"num_workers": "4"}, "num_workers='4': expected a whole number"),
    ],
)
def test_a_wrong_value_is_named(dataset, options, message):
    with pytest.raises(InputError, match=message):
        train_loader(dataset, **options)


INTERRUPTED = """
import signal, sys
from crossstage.data.coco import CocoDetection
from crossstage.data.loader import TrainLoader
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
dataset = CocoDetection(sys.argv[1] + "/instances.json", sys.argv[1] + "/images")
stream = iter(TrainLoader(dataset, transform=None, total_batch_size=2, num_workers=2))
for _ in range(8):
    next(stream)  # all workers are at work
interrupts = []
signal.signal(signal.SIGINT, lambda *_: interrupts.append(1))  # as a trainer that finishes its step first
print("started", flush=True)
while not interrupts:
    next(stream)
for _ in range(20):
    next(stream)
print("saved", flush=True)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for left-over processes in /proc")
def test_an_interrupt_from_the_keyboard_is_left_to_the_run_and_no_worker_stays(dataset):
    run = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(Path(dataset.json_file).parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout.readline() == "started\n"
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    output, errors = run.communicate(timeout=30)
    assert (output, errors, run.returncode) == ("saved\n", "", 0)
    deadline = time.monotonic() + 10
    while (left := group_members(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def group_members(group: int) -> list[str]:
    """Process ids of a group that are alive."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, process_group = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        if int(process_group) == group and state != "Z":
            members.append(status.parent.name)
    return members
