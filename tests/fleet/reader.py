"""A read-only edge: `python reader.py FOLDER LAST`. Polls until it has snapshot LAST, then prints how many it saw and
how many it refused."""

from __future__ import annotations

import sys
import time

from keyfront.errors import SnapshotRefused
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.snapshot import Snapshot


def main(folder: str, last: int) -> None:
    feed = FileFeed(folder)
    current: Snapshot | None = None
    seen = refused = 0
    deadline = time.monotonic() + 60
    while (current is None or current.number < last) and time.monotonic() < deadline:
        try:
            found = feed.poll(current)
        except SnapshotRefused:
            refused += 1
            continue
        if found is not None:
            current = found
            seen += 1
    sys.stdout.write(f"{seen} {refused} {current.number if current else 0}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
