"""The agent's audit file: a line for each signature and each refusal."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

from keyfront.errors import CustodyUnavailable


class Audit:
    """Writes one line for each signature and each refusal, to a file or to a descriptor. The file is opened for each
    line, so that it can be rotated at any time."""

    def __init__(self, path: str = "", descriptor: int = 2) -> None:
        self._path = path
        self._descriptor = descriptor

    def write(self, now: float, **fields: object) -> None:
        """Write a line with those `fields` that are not None.

        :param now: epoch seconds.
        :raises CustodyUnavailable: if it cannot be written.
        """
        time = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        given = {name: value for name, value in fields.items() if value is not None}
        data = json.dumps({"time": time, **given}).encode() + b"\n"
        try:
            if not self._path:
                written = os.write(self._descriptor, data)
            else:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    written = os.write(descriptor, data)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise CustodyUnavailable(f"the signature could not be recorded: {error.strerror}") from error
        if written != len(data):
            raise CustodyUnavailable("the signature could not be recorded: the disk is full")
