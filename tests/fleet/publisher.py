"""Publishes snapshot after snapshot until it is killed: `python publisher.py FOLDER`. Prints each number that is
durable."""

from __future__ import annotations

import sys

from keyfront.fleet.file_feed import FileFeed
from tests.fleet.snapshots import snapshot


def main(folder: str) -> None:
    feed = FileFeed(folder)
    number = feed.number()
    while True:
        number += 1
        feed.publish(snapshot(number, size=50))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
