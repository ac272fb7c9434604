"""What makes the campaign's runs easier to disturb: a slow evaluation, a clock that jumps, little memory."""

import os
import random
import resource
import time
from typing import Any

import torch

from crossstage.evaluation import CocoEvaluator
from crossstage.structures import ImageBatch


class SlowEvaluator(CocoEvaluator):
    """Creates the file `evaluating` in its folder while it computes, and takes its time."""

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The scores, after 0.2 s."""
        marker = self.output_dir / "evaluating"
        marker.touch()
        time.sleep(0.2)
        results = super().evaluate()
        marker.unlink(missing_ok=True)
        return results


if os.environ.get("FAULTS_CLOCK") == "jumps":  # as after a correction of the system's clock
    wall_clock = time.time
    time.time = lambda: wall_clock() + random.Random().choice([-86400, 0, 86400])

if os.environ.get("FAULTS_MEMORY") == os.environ.get("LOCAL_RANK", "0"):  # this process needs more in every step
    limit = 8 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    kept: list[torch.Tensor] = []
    move = ImageBatch.to

    def hoarding_to(batch: ImageBatch, *where: Any, **options: Any) -> ImageBatch:
        """Move a batch, and keep 512 MiB for ever."""
        kept.append(torch.zeros(2**27))
        return move(batch, *where, **options)

    ImageBatch.to = hoarding_to  # type: ignore[method-assign]
