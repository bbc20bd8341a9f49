"""The spool of standard logs: the file to which workers append the records of requests that another process delivers
(`delivery`).

It holds signatures and, where a distribution's log contains them, cookies, so only its owner may read it. Its size is
limited: while it is full, records are lost and counted, and no request fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from keyfront.edge.logs.append_file import AppendFile, LineWriter

FOLDER: Final = "logs/delivery"
"""The folder, in the data folder, of everything that waits to be delivered."""
CURRENT: Final = "current.jsonl"


class SpoolSettings(msgspec.Struct, frozen=True):
    """`everything` means that the records of all distributions are delivered, and not only of those with a standard
    log. `most` is the number of bytes that the file may have."""

    everything: bool = False
    most: int = 1 << 30


class Spool:
    """The spool of one worker.

    :param data: the data folder.
    """

    def __init__(self, data: Path, settings: SpoolSettings) -> None:
        self.everything = settings.everything
        self._folder = data / FOLDER
        file = AppendFile(self._folder / CURRENT, 0o600, most=settings.most)
        self.writer = LineWriter(file, "the spool of standard logs")
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Add a record: a line of JSON with its line break."""
        self._lines.append(line)

    def flush(self) -> None:
        """Write what was added. Called together with the access log's flush."""
        if self._lines:
            lines, self._lines = self._lines, []
            if not self._folder.exists():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.writer.write("".join(lines).encode(), len(lines))

    def close(self) -> None:
        self.flush()
        self.writer.close()
