"""Fuzzer of WebSockets: no handshake of a viewer and no response of an origin bypasses the signature check.

    python -m fuzz.websocket [--seconds N] [--count N] [--seed N]

A conversation is one connection of a viewer without a signature: requests and handshakes, valid and invalid, with all
methods, with bodies, and with requests and frames hidden behind them, cut into packets at random. The origin is
careless: it treats all bytes that it gets as requests, including bodies, responds to all of them, and sends false 101s.
It speaks WebSocket only for a handshake that it really accepts (`/open/echo…`): it then echoes every byte. Invariants:

- nothing raises, neither in the event loop nor in the edge (no 500, nothing logged);
- the origin never gets a request for restricted content, and never sees a request hidden behind a handshake;
- no viewer ever gets the secret, and no restricted content is in the cache;
- there is a 101 only if the origin accepted this exact handshake, and then every byte is echoed;
- every connection ends, all WebSocket slots are released, and each handshake leaves one record.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import random
import re
import time
from collections.abc import Callable

import uvloop
from fuzz.runner import Finding, inputs, main

from keyfront.edge.http.timeouts import Limits
from keyfront.edge.semantics.websocket import accept_value
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, KeyGroup, Origin, PublicKey, Select, Snapshot
from tests.sites import ALICE, site
from tests.viewer import EdgeHarness

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
SECRET = b"the-secret-of-the-harness"
PATIENCE = 30.0
"""Seconds after which a conversation that has not ended is a finding."""
AT_ONCE = 40
LIMITS = Limits(head=3.0, idle=1.0, body=3.0, write=3.0, drain=1.0, websocket_idle=3.0)
_HEAD = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r\n(.*?)\r\n\r\n", re.DOTALL)


class CarelessOrigin:
    """Responds to anything in its input that looks like a request, including in bodies; `asked` has the targets."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.asked: set[bytes] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        try:
            while True:
                while found := _HEAD.search(data):
                    data = data[found.end() :]
                    method, target, lines = found.groups()
                    self.asked.add(target)
                    if await self._answer(reader, writer, method, target, lines.lower(), data):
                        return
                more = await reader.read(65536)
                if not more:
                    return
                data += more
        except (OSError, RuntimeError):
            pass
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: bytes,
        target: bytes,
        lines: bytes,
        behind: bytes,
    ) -> bool:
        """Respond to one request. Returns True if the connection is over."""
        key = re.search(rb"sec-websocket-key: (\S+)", lines)
        asks = b"upgrade: websocket" in lines
        if target.startswith(b"/open/echo") and asks:
            raw = re.search(
                rb"x-key: (\S+)", lines
            )  # the key in its original case, because `lines` is in lower case
            assert raw is not None
            writer.write(self._switched(base64.b16decode(raw[1].upper())))
            writer.write(behind)
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            return True
        if target.startswith(b"/open/lie"):
            lies = (
                self._switched(b"AAAAAAAAAAAAAAAAAAAAAA=="),
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
                b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
                self._switched(key[1] if key else b"x").replace(b"HTTP/1.1", b"HTTP/1.0"),
                self._switched(b"x")[:-2] + b"Content-Length: 0\r\n\r\n",
            )
            writer.write(self.chance.choice(lies))
            writer.write(
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 23\r\n\r\n" + SECRET
            )
            await writer.drain()
            return self.chance.random() < 0.3
        body = SECRET if target.startswith(b"/private") else b"open to everybody"
        if self.chance.random() < 0.3:
            await asyncio.sleep(self.chance.random() * 0.02)
        writer.write(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        if method != b"HEAD":
            writer.write(body)
        await writer.drain()
        return False

    def _switched(self, key: bytes) -> bytes:
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_value(key)
        )


def guarded(port: int) -> Snapshot:
    """A snapshot in which `/open/*` is public and the rest is restricted."""
    common = {"allowed_methods": ALL, "forward_headers": Select("all")}
    return site(
        Origin("o", "127.0.0.1", http_port=port, read_timeout=2.0),
        Behavior("/open/*", "o", **common),  # type: ignore[arg-type]
        Behavior("*", "o", restricted=True, trusted_key_groups=("g",), **common),  # type: ignore[arg-type]
        public_keys=(PublicKey(ALICE.key_pair_id, ALICE.public_key.pem),),
        key_groups=(KeyGroup("g", "g", (ALICE.key_pair_id,)),),
    )


HIDDEN = b"GET /private/hidden HTTP/1.1\r\nHost: d.test\r\n\r\n"
IN_BODY = b"GET /private-in-body HTTP/1.1\r\nHost: d.test\r\n\r\n"
"""This origin treats it as a request, and no viewer may ever get the response."""


def handshake(chance: random.Random, target: str) -> bytes:
    """A handshake, usually a valid one."""
    key = base64.b64encode(chance.randbytes(16)).decode()
    fields = [
        ["Upgrade", chance.choice(("websocket", "WebSocket", "websocket", "h2c", "websocket, h2c", "x"))],
        [
            "Connection",
            chance.choice(("Upgrade", "keep-alive, Upgrade", "upgrade", "close, Upgrade", "keep-alive")),
        ],
        ["Sec-WebSocket-Key", chance.choice((key, key, key, key[:-1], "x", ""))],
        ["Sec-WebSocket-Version", chance.choice(("13", "13", "13", "8", "13, 13"))],
        ["X-Key", base64.b16encode(key.encode()).decode()],
    ]
    if chance.random() < 0.5:
        fields[0][1], fields[1][1], fields[2][1], fields[3][1] = "websocket", "Upgrade", key, "13"
    if chance.random() < 0.15:
        del fields[chance.randrange(4)]
    if chance.random() < 0.1:
        fields.append(list(chance.choice(fields[:4])))
    chance.shuffle(fields)
    method = chance.choice(("GET",) * 8 + ALL)
    body = b""
    if chance.random() < 0.2:
        body = chance.choice((IN_BODY, IN_BODY, b"abc"))
        if chance.random() < 0.5:
            fields.append(["Content-Length", str(len(body))])
        else:
            fields.append(["Transfer-Encoding", "chunked"])
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    version = "1.0" if chance.random() < 0.05 else "1.1"
    lines = [f"{method} {target} HTTP/{version}", "Host: d.test", *(f"{n}: {v}" for n, v in fields), "", ""]
    return "\r\n".join(lines).encode() + body


def conversation(chance: random.Random, number: int) -> bytes:
    said = b""
    for turn in range(chance.choice((1, 1, 2, 4))):
        place = chance.choice(
            (
                "/open/echo",
                "/open/echo",
                "/open/echo",
                "/open/lie",
                "/open/page",
                "/private/x",
                "/private/echo",
            )
        )
        target = f"{place}-{number}-{turn}"
        if chance.random() < 0.25:
            said += f"GET {target} HTTP/1.1\r\nHost: d.test\r\n\r\n".encode()
        else:
            said += handshake(chance, target)
        if chance.random() < 0.4:
            said += chance.choice((HIDDEN, HIDDEN * 3, b"\x81\x85abcd" + b"x" * 5, chance.randbytes(40)))
    return said


class Fuzz:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.done = 0
        self.switched = 0
        self.failures: list[str] = []

    async def run(self, count: int | None, seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.failures.append(f"in the event loop: {context}"))
        listening = _Listening(self.failures)
        logging.getLogger("keyfront").addHandler(listening)
        origin = CarelessOrigin(random.Random(self.seed))
        server = await asyncio.start_server(origin, "127.0.0.1", 0, limit=1 << 20)
        port = server.sockets[0].getsockname()[1]
        settings = EdgeSettings(memory=1 << 20, max_object=1 << 17, websockets=64)
        try:
            async with EdgeHarness(guarded(port), limits=LIMITS, settings=settings) as harness:
                for _ in inputs(None if count is None else -(-count // AT_ONCE), seconds):
                    batch = range(self.done, self.done + AT_ONCE)
                    outcomes = await asyncio.gather(
                        *(self._one(harness, number) for number in batch), return_exceptions=True
                    )
                    for number, outcome in zip(batch, outcomes, strict=True):
                        if outcome is not None:
                            self.failures.append(f"conversation {number} of seed {self.seed}: {outcome!r}")
                    self.done += AT_ONCE
                    if self.failures:
                        break
                await self._rest(harness)
                private = [target for target in origin.asked if target.startswith(b"/private/")]
                if private:
                    self.failures.append(f"the origin was asked for {private[:3]}, seed {self.seed}")
        finally:
            logging.getLogger("keyfront").removeHandler(listening)
            server.close()

    async def _rest(self, harness: EdgeHarness) -> None:
        """Check that nothing is left when all viewers are gone: no connection and no occupied slot."""
        ends = time.monotonic() + PATIENCE
        while harness.listener.connections or harness.edge.websockets.taken:
            if time.monotonic() > ends:
                self.failures.append(
                    f"left behind: {harness.listener.connections}, {harness.edge.websockets.taken} places"
                )
                return
            await asyncio.sleep(0.02)
        opened = sum(record["status"] == 101 for record in harness.records)
        if opened != harness.edge.websockets.opened:
            self.failures.append(f"{harness.edge.websockets.opened} WebSockets left {opened} records")

    async def _one(self, harness: EdgeHarness, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        said = conversation(chance, number)
        reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
        heard = b""
        try:
            async with asyncio.timeout(PATIENCE):
                at = 0
                try:
                    while at < len(said):
                        size = chance.choice((1, 3, 20, 200, len(said)))
                        writer.write(said[at : at + size])
                        await writer.drain()
                        at += size
                        await asyncio.sleep(0)
                    if chance.random() < 0.5:
                        writer.write_eof()
                    elif chance.random() < 0.2:
                        writer.transport.abort()
                        return
                except OSError:
                    pass
                with contextlib.suppress(OSError):
                    while data := await reader.read(65536):
                        heard += data
        except TimeoutError:
            raise Finding(f"no end: {said!r}, heard {heard!r}") from None
        finally:
            writer.close()
        self._judge(said, heard)

    def _judge(self, said: bytes, heard: bytes) -> None:
        head, switched, tail = heard.partition(b"HTTP/1.1 101 ")
        if SECRET in head or (SECRET in tail and SECRET not in said):
            raise Finding(f"the secret: {said!r}, heard {heard!r}")
        if b"HTTP/1.1 500" in head:
            raise Finding(f"500: {said!r}, heard {heard!r}")
        if not switched:
            return
        self.switched += 1
        # The accept value identifies the handshake; everything sent after it must be echoed.
        fields, _, back = tail.partition(b"\r\n\r\n")
        accept = re.search(rb"Sec-WebSocket-Accept: (\S+)", fields)
        if accept is None:
            raise Finding(f"a 101 without an accept: {said!r}, heard {heard!r}")
        for found in _HEAD.finditer(said):
            key = re.search(rb"Sec-WebSocket-Key: (\S+)", found[3])
            if key is not None and accept_value(key[1]) == accept[1]:
                behind = said[found.end() :]
                if not found[2].startswith(b"/open/echo") or found[1] != b"GET":
                    raise Finding(f"switched by {found[1]!r} {found[2]!r}: {said!r}")
                if not back.startswith(behind):
                    raise Finding(f"sent {behind!r} over it, got {back!r} back")
                return
        raise Finding(f"a 101 for no handshake of this viewer: {said!r}, heard {heard!r}")


class _Listening(logging.Handler):
    def __init__(self, failures: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._failures = failures

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # Refusing false 101s, and disconnecting a viewer that goes silent within a head, are expected.
        expected = ("was refused (OriginInvalidResponseError)", "the limit slow_head was reached")
        if not any(words in text for words in expected):
            self._failures.append(f"logged: {text}")


def run(
    count: int | None, seconds: float | None, seed: int, tell: Callable[[str], None] = print
) -> tuple[int, int]:
    """Run at least `count` conversations, or run for `seconds`. Returns the number of conversations and of WebSockets.

    :raises Finding: with all failures of the first batch that has one.
    """
    fuzz = Fuzz(seed)
    uvloop.run(fuzz.run(count, seconds))
    if fuzz.failures:
        raise Finding("\n".join(fuzz.failures[:20]))
    tell(f"seed {seed}: {fuzz.done} conversations, {fuzz.switched} WebSockets, no finding")
    return fuzz.done, fuzz.switched


if __name__ == "__main__":
    main(__doc__, run)
