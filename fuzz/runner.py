"""What every fuzzer shares: the command line, the length of a run, and what a finding is.

    python -m fuzz.NAME [--seconds N] [--count N] [--seed N]

A run lasts `--seconds` (60), or until `--count` inputs are done. The same seed generates the same inputs; without
`--seed` it is random, and printed. The exit status is 1 after a finding.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator


class Finding(AssertionError):
    """A violated invariant."""


def check(true: object, message: str, *about: object) -> None:
    """Raise `Finding` unless `true`. `about` are values to show, each cut at 2,000 characters."""
    if not true:
        raise Finding(" ".join([message, *(repr(each)[:2000] for each in about)]))


def inputs(count: int | None, seconds: float | None) -> Iterator[int]:
    """The numbers of the inputs of one run, from 0: `count` of them, or as many as `seconds` allow."""
    end = None if seconds is None else time.monotonic() + seconds
    number = 0
    while (count is None or number < count) and (end is None or time.monotonic() < end):
        yield number
        number += 1


def main(description: str | None, run: Callable[[int | None, float | None, int], object]) -> None:
    """Parse the command line and run. `run` takes count, seconds, and seed, prints what it did, and raises at the
    first finding."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="the length of the run (60)")
    parser.add_argument("--count", type=int, help="the number of inputs, instead of --seconds")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(2**32), help="generates the same inputs again"
    )
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    try:
        run(arguments.count, None if arguments.count else arguments.seconds, arguments.seed)
    except AssertionError as finding:
        print(f"FINDING: {finding}")
        sys.exit(1)
