"""Speed of our parts against named baselines, on the CPU: medians of interleaved runs in one process, and ratios.
Where there is a GPU, `stage_interactor` also compares training steps on it.

    python -m benchmarks criterion
    python -m benchmarks all --rounds 15 --threads 1

Both sides of a comparison are checked to agree before they are timed. Exit status 1 if any pair does not; a target
that is missed is printed and is no error. Other work on the machine changes the medians, less so the ratios.
"""

from __future__ import annotations

import argparse
import importlib
import sys

import torch

from benchmarks.measure import Comparison, Setting, machine, print_table

NAMES = (
    "criterion",
    "csla",
    "hugging_face",
    "matching",
    "focal",
    "attention",
    "stage_interactor",
    "deqdet",
    "paq",
    "evaluation",
    "loader",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*NAMES, "all"))
    parser.add_argument("--rounds", type=int, default=15, help="interleaved runs of each side (default 15)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: shows that all runs, times mean nothing")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads: expected a number of at least 1")
    torch.set_num_threads(options.threads)
    print(machine())
    print(f"medians of {options.rounds} interleaved rounds{'; --quick: times mean nothing' if options.quick else ''}")
    rows: list[Comparison] = []
    for name in NAMES if options.name == "all" else (options.name,):
        rows += importlib.import_module(f"benchmarks.{name}").run(Setting(options.rounds, options.quick))
    print_table(rows, quick=options.quick)
    for row in rows:
        if not row.agrees:
            print(
                f"warning: {row.benchmark}, {row.case}: ours and {row.baseline} differ by {row.difference:.1e}, more "
                f"than {row.tolerance:.0e}; the ratio compares different things",
                file=sys.stderr,
            )
    return 0 if all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
