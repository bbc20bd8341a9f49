"""Slow viewers: trickled blank lines, trickled heads and uploads, a TLS handshake that never begins, and a viewer that
requests a large object and never reads. The edge must disconnect each of them, and an upload that never ends must not
reach the origin."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from typing import Final

from soak.judge import Judge
from soak.objects import Item
from soak.truth import Truth

OPTIONS: Final = (
    "--head-timeout",
    "4",
    "--upload-timeout",
    "4",
    "--download-timeout",
    "6",
    "--min-rate",
    "500",
)
"""Options for the edge with timeouts that expire within a short soak."""
PATIENCE: Final = 40.0
"""Seconds within which a slow viewer must be disconnected, however busy the machine is."""
DRIP: Final = 0.2
"""Seconds between two trickled pieces."""


class Slow:
    """One slow viewer after another, of each kind in turn."""

    def __init__(
        self, number: int, seed: int, ports: tuple[int, int], host: str, truth: Truth, judge: Judge
    ) -> None:
        self._rng = random.Random(f"slow {seed} {number}")
        self._turn = number
        self._port, self._tls_port = ports
        self._host = host
        self._judge = judge
        self._truth = truth
        items = [item for item in truth.items.values() if item.status == 200]
        self._large: Item = max(
            (item for item in items if item.area.name == "free"), key=lambda item: item.size
        )
        self._upload: Item = next(item for item in items if item.area.name == "pass")

    async def run(self, stop: asyncio.Event) -> None:
        kinds = (self._blank, self._head, self._body, self._handshake, self._deaf)
        while not stop.is_set():
            kind = kinds[self._turn % len(kinds)]
            self._turn += 1
            began, began_at = time.monotonic(), time.time()
            with contextlib.suppress(OSError):
                async with asyncio.timeout(PATIENCE):
                    ended = await kind(stop)
                    self._count(kind.__name__.strip("_"), ended)
                continue
            # A killed worker's unsent data ends with an orderly close, which a viewer that never reads does not see.
            unseen = kind == self._deaf and any(killed >= began_at for killed in self._truth.kills)
            if time.monotonic() - began >= PATIENCE and not stop.is_set() and not unseen:
                self._judge.violation("a slow viewer was not let go", f"{kind.__name__} for {PATIENCE:g} s")
            await asyncio.sleep(0.1)

    def _count(self, kind: str, ended: bool) -> None:
        self._judge.counts[f"slow viewers let go: {kind}" if ended else "slow viewers at the end"] += 1

    async def _blank(self, stop: asyncio.Event) -> bool:
        return await self._drips(self._port, b"", b"\r\n", stop)

    async def _head(self, stop: asyncio.Event) -> bool:
        began = f"GET {self._large.path} HTTP/1.1\r\nHost: {self._host}\r\n".encode()
        return await self._drips(self._port, began, b"X: y\r\n", stop)

    async def _body(self, stop: asyncio.Event) -> bool:
        began = f"POST {self._upload.path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: 60000\r\n\r\n"
        self._judge.counts["asked"] += 1
        return await self._drips(self._port, began.encode(), b"x", stop)

    async def _handshake(self, stop: asyncio.Event) -> bool:
        return await self._drips(self._tls_port, b"\x16", b"", stop)

    async def _deaf(self, stop: asyncio.Event) -> bool:
        began = f"GET {self._large.path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n" * 40
        self._judge.counts["asked"] += 40
        return await self._drips(self._port, began.encode(), b"", stop, reads=False)

    async def _drips(
        self, port: int, began: bytes, drip: bytes, stop: asyncio.Event, *, reads: bool = True
    ) -> bool:
        """Send `began`, then trickle `drip` until the edge ends the connection (True) or the soak ends (False)."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            try:
                await loop.sock_sendall(sock, began)
                while not stop.is_set():
                    await asyncio.sleep(DRIP * (0.5 + self._rng.random()))
                    if drip:
                        await loop.sock_sendall(sock, drip)
                    if reads:
                        with contextlib.suppress(BlockingIOError):
                            if not sock.recv(65536):
                                return True
                    elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        return True
            except (ConnectionResetError, BrokenPipeError):
                return True
            return False
        finally:
            sock.close()
