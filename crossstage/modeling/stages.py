"""Numbers that differ from stage to stage."""

from collections.abc import Sequence


def of_stage(numbers: int | Sequence[int], stage: int) -> int:
    """One number for all stages, or a number for each; the last one holds for all later stages."""
    return numbers if isinstance(numbers, int) else int(numbers[min(stage, len(numbers) - 1)])
