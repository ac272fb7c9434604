"""Numbers that differ from stage to stage."""

from collections.abc import Sequence


def of_stage(numbers: int | Sequence[int], stage: int) -> int:
    """The number of one stage.

    Args:
        numbers: one number for all stages, or one per stage; the last number also holds for all later stages.
        stage: index of the stage.

    Returns:
        The number.
    """
    return numbers if isinstance(numbers, int) else int(numbers[min(stage, len(numbers) - 1)])
