"""What makes the campaign's runs easier to disturb: a slow evaluation, and a clock that jumps."""

import os
import random
import time

from crossstage.evaluation import CocoEvaluator


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
