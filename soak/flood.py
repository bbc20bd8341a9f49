"""Viewers that send far more header lines than any client needs. Each must be refused quickly, while the other viewers
are served as usual."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from soak.judge import Judge
from soak.truth import Truth
from soak.watch import Ledger

PATIENCE: Final = 10.0
"""Seconds within which a flood must be refused."""
EVERY: Final = 0.3
"""Mean seconds between two floods."""

FLOODS: Final = {
    "connection": b"Connection: x\r\n" * 1250,
    "x-forwarded-for": b"X-Forwarded-For: 10.0.0.1\r\n" * 200,
    "cookie": b"Cookie: a=b\r\n" * 1000,
    "accept-encoding": b"Accept-Encoding: br\r\n" * 500,
    "different names": b"".join(b"X-%d: \r\n" % n for n in range(1000)),
}


async def flood(
    port: int, truth: Truth, judge: Judge, ledger: Ledger, stop: asyncio.Event, seed: int
) -> None:
    """Send floods until `stop`."""
    rng = random.Random(f"flood {seed}")
    while not stop.is_set():
        await asyncio.sleep(rng.expovariate(1 / EVERY))
        kind = rng.choice(sorted(FLOODS))
        began = time.time()
        try:
            async with asyncio.timeout(PATIENCE):
                received = await _converse(port, FLOODS[kind])
        except TimeoutError:
            judge.violation("no answer", f"a flood of {kind} was not refused within {PATIENCE:g} s")
            continue
        except OSError as error:
            if not truth.hit_by_kill(began, time.time()):
                judge.violation("connection error", f"a flood of {kind}: {error!r}")
            continue
        head, _, body = received.partition(b"\r\n\r\n")
        if not head and truth.hit_by_kill(began, time.time()):
            continue
        if not head.startswith(b"HTTP/1.1 431 ") or b"\r\nConnection: close\r\n" not in head + b"\r\n":
            judge.violation("a flood was not refused", f"{kind}: {received[:400]!r}")
            continue
        judge.counts["floods refused"] += 1
        ledger.refused(head, len(body), began, time.time())


async def _converse(port: int, lines: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /flood HTTP/1.1\r\nHost: flood.test\r\n" + lines + b"\r\n")
        return await reader.read()
    finally:
        writer.close()
