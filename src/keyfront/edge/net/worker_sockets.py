"""The listening sockets of one worker: its own, and temporarily those of workers that do not respond.

The supervisor creates one SO_REUSEPORT socket per worker and port, and keeps all of them open, so the kernel never
refuses a connection or drops a backlog because a worker ended. Normally each worker accepts only on its own socket, and
the kernel distributes the connections. When a worker has sent no heartbeat for AWAY seconds, or has exited, the other
workers also accept on its sockets until its heartbeat resumes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence

import msgspec

from keyfront.fleet.heartbeat import BEAT, Board, Trouble

logger = logging.getLogger("keyfront.edge")


class Inherited(msgspec.Struct, frozen=True):
    """File descriptors that a worker inherits from its supervisor. `slot` is its index on the heartbeat board, which
    has `slots` entries, and in each list of listening sockets: `http`, `tls` and `shield` have at least one per worker.
    `workers` is their number; any worker accepts on the sockets after that. `cache` is the memory that workers share
    (`segment`), in which the worker has the same index; -1 if there is none. `counters` is the memory of all workers'
    counters (`fleet/counter_table.py`), -1 if each has its own; the worker has the slot `counter_slot` there."""

    board: int
    slots: int
    slot: int
    workers: int
    http: tuple[int, ...]
    tls: tuple[int, ...] = ()
    shield: tuple[int, ...] = ()
    cache: int = -1
    counters: int = -1
    counter_slot: int = 0

    @property
    def fds(self) -> tuple[int, ...]:
        """All inherited descriptors, first that of the board."""
        memory = [fd for fd in (self.cache, self.counters) if fd >= 0]
        return tuple(dict.fromkeys((self.board, *memory, *self.http, *self.tls, *self.shield)))


def listening(host: str, port: int) -> socket.socket:
    """A listening socket that shares `host:port` with others like it (SO_REUSEPORT).

    :raises OSError: if it cannot listen there.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.bind((host, port))
        made.listen(backlog())
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def backlog() -> int:
    """The maximum number of connections that may wait to be accepted on one socket."""
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            return min(4096, int(file.read()))
    except (OSError, ValueError):
        return 128


class _Port:
    """One port: the protocol factory for its connections, and the listening sockets of all workers."""

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol], fds: Sequence[int]) -> None:
        self.factory = factory
        self.fds = fds
        self.open: dict[int, asyncio.Server] = {}


class Ports:
    """The ports that a worker accepts connections on, and its heartbeat.

    :param inherited: None for a worker without a supervisor: it has only its own sockets (`listen`) and no heartbeat.
    :param trouble: returns what the worker currently cannot do.
    """

    def __init__(
        self, inherited: Inherited | None = None, trouble: Callable[[], Trouble] = lambda: Trouble(0)
    ) -> None:
        self._inherited = inherited
        self._trouble = trouble
        self._board = None if inherited is None else Board(inherited.board, inherited.slots)
        self._slot = 0 if inherited is None else inherited.slot
        self._workers = 1 if inherited is None else inherited.workers
        self._ports: list[_Port] = []
        self._beating: asyncio.Task[None] | None = None
        self._warned = False

    async def listen(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        fds: Sequence[int],
        address: tuple[str, int],
    ) -> None:
        """Accept connections on the worker's own socket, with `factory` as the protocol factory.

        :param fds: the sockets of all workers for this port; if empty, listen on `address`.
        :raises OSError: if listening fails.
        """
        port = _Port(factory, fds)
        self._ports.append(port)
        if fds:
            await self._open(port, self._slot)
        else:
            loop = asyncio.get_running_loop()
            port.open[0] = await loop.create_server(factory, sock=listening(*address), backlog=backlog())

    async def _open(self, port: _Port, slot: int) -> None:
        # A duplicate descriptor: closing the server must not close the inherited one.
        sock = socket.socket(fileno=os.dup(port.fds[slot]))
        try:
            sock.setblocking(False)
            port.open[slot] = await asyncio.get_running_loop().create_server(
                port.factory, sock=sock, backlog=backlog()
            )
        except BaseException:
            sock.close()
            raise

    def start(self) -> None:
        """The worker is ready: start the heartbeat, and cover for workers that do not respond."""
        if self._board is not None:
            self.beat()
            self._board.accept(self._slot, True)
            self._beating = asyncio.create_task(self._go_on(self._board))

    def beat(self) -> None:
        """Send a heartbeat. Long tasks that block the event loop call this while they make progress."""
        if self._board is not None:
            self._board.beat(self._slot, time.monotonic())

    async def _go_on(self, board: Board) -> None:
        while True:
            self.beat()
            board.set_trouble(self._slot, self._trouble())
            try:
                await self._cover(board)
                self._warned = False
            except OSError as error:  # out of file descriptors, for example: the next round tries again
                if not self._warned:
                    self._warned = True
                    logger.warning("cannot accept the connections of another worker: %s", error)
            await asyncio.sleep(BEAT)

    async def _cover(self, board: Board) -> None:
        """Open the sockets of workers that do not respond, and close those of workers that respond again."""
        now, stopping = time.monotonic(), board.stopping
        takes = [stopping or board.accepts(slot, now) for slot in range(self._workers)]
        for port in self._ports:
            for slot in range(len(port.fds)):
                if slot == self._slot:
                    continue
                if stopping or (slot < len(takes) and takes[slot]):
                    if slot in port.open:
                        port.open.pop(slot).close()
                elif slot not in port.open:
                    await self._open(port, slot)

    @property
    def leaving(self) -> bool:
        """Whether the whole installation is about to stop."""
        return self._board is not None and self._board.leaving

    def close(self) -> None:
        """Stop accepting connections. Connections waiting on this worker's sockets are left to the other workers, if
        there are any. The heartbeat continues."""
        if self._board is not None:
            self._board.accept(self._slot, False)
        for port in self._ports:
            for server in port.open.values():
                server.close()
        self._ports.clear()
        if self._inherited is not None:
            for fd in self._inherited.fds[1:]:
                os.close(fd)

    async def end(self) -> None:
        """Stop the heartbeat. This is the last step of a worker's shutdown."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
