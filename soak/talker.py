"""WebSocket viewers: each opens a WebSocket, sends numbered messages, and expects each one back, complete and in order.

The origin first sends the requested target, then echoes every message unchanged. So lost, duplicated, or reordered
bytes, and bytes of another viewer, are detected.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
import time
from typing import Final

from keyfront.edge.semantics.websocket import accept_value
from soak.frames import BINARY, CLOSE, PATH, frame, read_frame
from soak.judge import Ask, Judge, Seen
from soak.objects import AREAS, Item
from soak.tickets import FREE, Ticket, TicketIssuer
from soak.viewer import Answered

PATIENCE: Final = 20.0
"""Seconds without a byte that count as a violation."""
MOST: Final = 100_000
"""Maximum number of WebSockets of one talker."""
SIZES: Final = (0, 1, 125, 126, 1000, 65_535, 65_536, 200_000)


class Talker:
    """A viewer that opens WebSockets, one after another; every other one needs a signature."""

    def __init__(
        self,
        number: int,
        seed: int,
        port: int,
        host: str,
        issuer: TicketIssuer,
        judge: Judge,
        answered: Answered,
    ) -> None:
        self.number = number
        self._rng = random.Random(f"talker {seed} {number}")
        self._port = port
        self._host = host
        self._issuer = issuer
        self._truth = judge.truth
        self._judge = judge
        self._answered = answered

    async def run(self, stop: asyncio.Event) -> None:
        for turn in range(MOST):
            if stop.is_set():
                return
            await self._one(turn, stop)
            await asyncio.sleep(self._rng.random() * 0.2)

    async def _one(self, turn: int, stop: asyncio.Event) -> None:
        ask = self._ask(turn)
        used = ask.sent = time.time()
        seen: Seen | None = None
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 18)
                writer.write(ask.raw())
                self._judge.counts["asked"] += 1
                seen = await self._head(reader)
            if seen.status == 101:
                self._judge.opened(ask, seen)
                await self._talk(ask, seen, reader, writer, stop)
            else:
                async with asyncio.timeout(PATIENCE):
                    seen.body = await reader.readexactly(int(seen.get("content-length") or 0))
                seen.whole = True
                self._judge.opened(ask, seen)
            self._judge.counts["answers"] += 1
            self._answered(ask, seen)
        except TimeoutError:
            self._judge.violation("no answer", f"WebSocket: nothing came for {PATIENCE:g} s", ask, seen)
        except (OSError, asyncio.IncompleteReadError) as error:
            self._judge.talk_broken(ask, seen, used, time.time(), repr(error)[:200])
        except (ValueError, asyncio.LimitOverrunError) as error:
            self._judge.violation("websocket", f"what came cannot be read: {error}", ask, seen)
        finally:
            if writer is not None:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.close()

    def _ask(self, turn: int) -> Ask:
        signed = self._rng.random() < 0.5
        area = "url" if signed else "pass"
        path = f"/{area}/{PATH}{self.number}-{turn % 8}"
        ticket = self._issuer.ticket(self._rng, path) if signed else Ticket(path, (), "pass", FREE)
        key = base64.b64encode(self._rng.randbytes(16)).decode()
        headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
            *ticket.headers,
        ]
        item = Item(path, AREAS[area], 0, "length", "no-store", 0, 0, False, "none", False, False, False, 200)
        ask = Ask("GET", ticket.target, self._host, item, f"WebSocket {ticket.kind}", ticket.right, headers)
        ask.name = path
        ask.viewer = f"talker {self.number}"
        ask.variant = accept_value(key.encode()).decode()
        return ask

    async def _head(self, reader: asyncio.StreamReader) -> Seen:
        raw = await reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        fields = [line.partition(": ") for line in lines]
        return Seen(int(first.split(" ")[1]), {name.lower(): value for name, _, value in fields}, time.time())

    async def _talk(
        self,
        ask: Ask,
        seen: Seen,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stop: asyncio.Event,
    ) -> None:
        rng, judge = self._rng, self._judge
        if seen.get("sec-websocket-accept") != ask.variant:
            judge.violation("websocket", "the accept is not this handshake's", ask, seen)
        received = 0
        async with asyncio.timeout(PATIENCE):
            _, name, size = await read_frame(reader)
        received += size
        if name != ask.name.encode():
            judge.violation("websocket", f"talks to {name[:100]!r}", ask, seen)
        for burst in range(rng.choice((1, 3, 10))):
            if stop.is_set():
                break
            messages = [
                b"%s %d/%d " % (ask.name.encode(), burst, number) + rng.randbytes(rng.choice(SIZES))
                for number in range(rng.choice((1, 1, 5, 20)))
            ]
            sending = asyncio.ensure_future(self._send(writer, messages))
            try:
                for message in messages:
                    async with asyncio.timeout(PATIENCE):
                        _, got, size = await read_frame(reader)
                    received += size
                    judge.counts["WebSocket messages"] += 1
                    if got != message:
                        digests = [hashlib.sha256(each).hexdigest()[:12] for each in (message, got)]
                        judge.violation(
                            "websocket", f"sent {message[:60]!r}, got {got[:60]!r} {digests}", ask, seen
                        )
                await sending
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), rng.random())
        writer.write(frame(CLOSE, b"\x03\xe8", masked=True))
        async with asyncio.timeout(PATIENCE):
            opcode, payload, size = await read_frame(reader)
            received += size
            if (opcode, payload) != (CLOSE, b"\x03\xe8") or await reader.read(1):
                judge.violation(
                    "websocket", f"does not end as it should: {opcode} {payload[:50]!r}", ask, seen
                )
        seen.whole = True
        seen.body = bytes(received)  # the access record counts them
        seen.answered = time.time()

    async def _send(self, writer: asyncio.StreamWriter, messages: list[bytes]) -> None:
        for message in messages:
            writer.write(frame(BINARY, message, masked=True))
            await writer.drain()
