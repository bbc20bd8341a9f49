"""The interface through which a fill writes a slice to a tier."""

from __future__ import annotations

from typing import Protocol

from keyfront.edge.cache.open_file import OpenFile


class Sink(Protocol):
    """A slice being written to a tier. `written` bytes of it can be read back, from `file` at `offset`, even before it
    is `done` or has `failed`; `backlog` bytes are waiting for the disk."""

    offset: int
    lasting: bool
    """Whether a finished slice stays stored for a while, whatever else is written."""

    @property
    def file(self) -> OpenFile | None: ...
    @property
    def written(self) -> int: ...
    @property
    def backlog(self) -> int: ...
    @property
    def done(self) -> bool: ...
    @property
    def failed(self) -> bool: ...
    def feed(self, chunk: bytes) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> None: ...
    async def progress(self) -> None: ...
