"""What is wrong with this machine, for the status that the API reports: a full disk, logs that are not delivered."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from keyfront.edge.logs.delivery import read_status

FREE_SHARE, FREE_BYTES = 0.05, 1 << 30
"""The share of a file system, and the bytes, below which free space is a warning."""


def is_nearly_full(free: int, total: int) -> bool:
    """Whether that little free space (bytes) is a warning."""
    return free < min(FREE_SHARE * total, FREE_BYTES)


def machine_trouble(folder: Path) -> Iterable[str]:
    """What is wrong with the machine of a data folder, a sentence each."""
    try:
        system = os.statvfs(folder)
    except OSError as error:
        yield f"the data folder cannot be read: {error.strerror}"
        return
    free, total = system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
    if is_nearly_full(free, total):
        yield f"the disk of the data folder has {free / 1e9:.1f} GB free, of {total / 1e9:.0f} GB"
    delivery = read_status(folder)
    if delivery is not None and delivery.problem:
        yield f"{delivery.waiting_files} log files wait to be delivered: {delivery.problem}"
    if delivery is not None and delivery.dropped:
        yield f"{delivery.dropped} records for standard logs were dropped, because too many waited"
