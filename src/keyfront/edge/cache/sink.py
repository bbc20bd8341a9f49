"""Where a fill writes what it stores."""

from __future__ import annotations

from typing import Protocol

from keyfront.edge.cache.open_file import OpenFile


class Sink(Protocol):
    """A slice on its way into a tier. `written` bytes of it can be read back, from `file` at `offset`, before it is
    `done` or has `failed`; `backlog` bytes wait for the disk."""

    offset: int
    lasting: bool
    """What is done stays for a while, whatever else comes."""

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
