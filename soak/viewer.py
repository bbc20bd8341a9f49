"""Viewers on raw sockets: persistent connections, pipelines, heads in two pieces, slow readers, and early
disconnects."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from keyfront.edge.net.tls import TlsTransport
from soak.judge import Ask, Judge, Seen
from soak.objects import AREAS, Item
from soak.tickets import FREE, Right, Ticket, TicketIssuer
from soak.truth import Switch

PATIENCE: Final = 20.0
"""Seconds without a byte of a response that count as a violation."""
PAUSE: Final = 0.02
"""Mean seconds between two batches of one viewer."""
MOST: Final = 200_000
"""Maximum number of batches of one viewer, however long the soak."""
_WEIGHTS: Final = {"free": 30, "url": 22, "cookie": 15, "turn": 13, "vary": 8, "q": 6, "pass": 6}

Answered = Callable[[Ask, Seen], None]


class Hosts:
    """The host names of the content: the distribution's own, an alias that is added and removed, and a second
    distribution that is created and deleted. `rights` maps the names that may be gone to their validity."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.rights: dict[str, Right] = {}

    def add(self, name: str, switch: Switch) -> None:
        self.rights[name] = Right(switches=(switch,))
        while len(self.rights) > 8:
            del self.rights[next(iter(self.rights))]


class Listener(NamedTuple):
    """A port of the edge: the signer of tickets for its scheme, and the TLS context for HTTPS."""

    port: int
    issuer: TicketIssuer
    tls: ssl.SSLContext | None = None


class Viewer:
    def __init__(
        self,
        number: int,
        seed: int,
        listener: Listener,
        hosts: Hosts,
        judge: Judge,
        answered: Answered,
    ) -> None:
        truth = judge.truth
        self.name = f"{number}{'' if listener.tls is None else ' (https)'}"
        self._tls = listener.tls
        self.slow = number % 8 == 7
        self._rng = random.Random(f"viewer {seed} {number}")
        self._port = listener.port
        self._hosts = hosts
        self._issuer = listener.issuer
        self._truth = truth
        self._judge = judge
        self._answered = answered
        self._areas = {name: [i for i in truth.items.values() if i.area.name == name] for name in AREAS}
        self._known: dict[tuple[str, str], tuple[str, str]] = {}  # name, variant -> ETag, Last-Modified
        self._last = ""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._asked = 0.0  # when this connection was opened, or the previous batch was sent: it worked then

    async def run(self, stop: asyncio.Event) -> None:
        rng = self._rng
        try:
            for _ in range(MOST):
                if stop.is_set():
                    return
                await self._batch()
                if rng.random() < 0.05:
                    self._hang_up()
                await asyncio.sleep(rng.expovariate(1 / PAUSE) if rng.random() < 0.98 else rng.random() * 2)
        finally:
            self._hang_up()

    # -- one batch -----------------------------------------------------------------------------------------------------

    async def _batch(self) -> None:
        rng, judge = self._rng, self._judge
        asks = [self._ask() for _ in range(rng.choice((1, 1, 1, 1, 1, 1, 2, 4, 8)))]
        if not await self._connected():
            return
        assert self._reader is not None and self._writer is not None  # noqa: PT018 - both or none
        ask: Ask | None = None
        seen: Seen | None = None
        leaves = rng.random() < 0.06
        try:
            if rng.random() < 0.03:
                asks[-1].headers.append(("Connection", "close"))
            data = b""
            for number, one in enumerate(asks, 1):
                one.sent = time.time()
                before = ", ".join(f"{a.method} {a.target.partition('?')[0]}" for a in asks[: number - 1])
                one.place = f"{number} of {len(asks)}{' after ' if before else ''}{before}; {self._past()}"
                data += one.raw()
            if rng.random() < 0.1:
                cut = rng.randrange(len(data))
                self._writer.write(data[:cut])
                await asyncio.sleep(rng.random() * 0.05)
                data = data[cut:]
            self._writer.write(data)
            judge.counts["asked"] += len(asks)
            began = time.time()
            await self._writer.drain()
            for ask in asks:
                seen = None
                async with asyncio.timeout(PATIENCE):
                    seen = await self._head()
                if leaves and seen.status == 200 and int(seen.get("content-length") or 0) > 50_000:
                    await self._some(ask, seen)
                    judge.left(ask, seen)
                    self._hang_up(abort=True)
                    return
                await self._body(ask, seen)
                seen.whole = True
                self._last = (
                    f"{seen.status} to {ask.method} {ask.target.partition('?')[0]} {seen.get('connection')}"
                )
                judge.answer(ask, seen)
                self._answered(ask, seen)
                self._remember(ask, seen)
                if seen.get("connection").lower() == "close":
                    if ask is not asks[-1]:
                        judge.counts["asked in vain, after a close"] += 1
                    self._hang_up()
                    return
            self._asked = began
        except TimeoutError:
            kind = "no answer" if seen is None else "no end"
            judge.violation(kind, f"nothing came for {PATIENCE:g} s", ask, seen)
            self._hang_up(abort=True)
        except (OSError, asyncio.IncompleteReadError, RuntimeError) as error:
            judge.broken(ask or asks[0], seen, self._asked, time.time(), repr(error)[:200])
            self._hang_up(abort=True)
        except (ValueError, asyncio.LimitOverrunError) as error:
            judge.violation("framing", f"the answer cannot be read: {error}", ask, seen)
            self._hang_up(abort=True)

    async def _connected(self) -> bool:
        if self._writer is not None:
            return True
        self._asked = time.time()
        self._last = ""
        try:
            async with asyncio.timeout(PATIENCE):
                self._reader, self._writer = await self._open()
        except (OSError, TimeoutError) as error:
            self._judge.broken(None, None, self._asked, time.time(), repr(error)[:200])
            await asyncio.sleep(0.05)
            return False
        return True

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, with TLS by the edge's own layer: when the peer closes, uvloop's layer discards what a
        slow viewer has not yet read, up to 256 KiB of a complete response (decision 0011)."""
        if self._tls is None:
            return await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 18)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 18)
        protocol = asyncio.StreamReaderProtocol(reader)
        secured = TlsTransport(self._tls, protocol, None, self._hosts.own)
        await loop.create_connection(lambda: secured, "127.0.0.1", self._port)
        try:
            await secured.handshake
        except BaseException:
            secured.abort()
            raise
        return reader, asyncio.StreamWriter(secured, protocol, reader, loop)

    def _past(self) -> str:
        """This connection's history, for a violation."""
        assert self._writer is not None
        name = self._writer.get_extra_info("sockname")  # None once the connection is gone
        return f"port {name[1] if name else 'gone'}, last answer before {self._last or 'none'}"

    def _hang_up(self, *, abort: bool = False) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError, RuntimeError):
                if abort:
                    self._writer.transport.abort()
                else:
                    self._writer.close()
        self._reader = self._writer = None

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _head(self) -> Seen:
        assert self._reader is not None
        while True:
            raw = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = raw[:-4].decode("latin-1").split("\r\n")
            version, status, *_ = first.split(" ", 2)
            if version != "HTTP/1.1":
                raise ValueError(f"no status line: {first[:100]!r}")
            headers: dict[str, str] = {}
            for line in lines:
                name, colon, value = line.partition(": ")
                if not colon or not name or name != name.strip():
                    raise ValueError(f"no header: {line[:100]!r}")
                name = name.lower()
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            if not status.startswith("1"):
                return Seen(int(status), headers, time.time())

    async def _body(self, ask: Ask, seen: Seen) -> None:
        """Read the whole body into `seen`, framed as in RFC 9112 §6.3. What arrived before a failure stays there."""
        assert self._reader is not None
        if ask.method == "HEAD" or seen.status in (204, 304):
            return
        parts: list[bytes] = []
        try:
            if seen.get("transfer-encoding") == "chunked":
                while True:
                    line = await self._read(self._reader.readuntil(b"\r\n"))
                    size = int(line, 16)
                    if size:
                        await self._exactly(size, parts)
                    if await self._read(self._reader.readexactly(2)) != b"\r\n":
                        raise ValueError("a chunk does not end where it should")
                    if not size:
                        return
            elif "content-length" in seen.headers:
                await self._exactly(int(seen.headers["content-length"]), parts)
            else:
                raise ValueError("neither Content-Length nor chunked")
        finally:
            seen.body = b"".join(parts)

    async def _exactly(self, size: int, parts: list[bytes]) -> None:
        assert self._reader is not None
        while size:
            if self.slow and size > 300_000:
                await asyncio.sleep(0.01)
            data = await self._read(self._reader.read(min(size, 1 << 18)))
            if not data:
                raise asyncio.IncompleteReadError(b"", size)
            parts.append(data)
            size -= len(data)

    async def _read(self, reading: Awaitable[bytes]) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await reading

    async def _some(self, ask: Ask, seen: Seen) -> None:
        if ask.method == "HEAD":
            return
        parts: list[bytes] = []
        size = int(seen.headers["content-length"])
        await self._exactly(self._rng.randrange(size), parts)
        seen.body = b"".join(parts)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _remember(self, ask: Ask, seen: Seen) -> None:
        if seen.status == 200 and seen.get("x-object") and (seen.get("etag") or seen.get("last-modified")):
            if len(self._known) > 300:
                del self._known[next(iter(self._known))]
            self._known[(ask.name, ask.variant)] = (seen.get("etag"), seen.get("last-modified"))

    def _ask(self) -> Ask:
        rng = self._rng
        area = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        items = self._areas[area]
        item = items[int(rng.random() ** 1.7 * len(items))]
        host, host_right = self._hosts.own, None
        ticket = Ticket(item.path, (), area, FREE)
        if area in ("free", "q", "vary") and self._hosts.rights and rng.random() < 0.15:
            host = rng.choice(list(self._hosts.rights))
            host_right = self._hosts.rights[host]
        query = f"page={rng.randrange(3)}" if item.area.query and rng.random() < 0.4 else ""
        name = f"{item.path}?{query}" if query else item.path
        if item.area.signed:
            ticket = self._issuer.ticket(rng, item.path, query)
        elif area == "free" and rng.random() < 0.2:
            # Parameters that are not in the key, including those of signatures.
            ticket = ticket._replace(target=item.path + rng.choice(("?", "?x=1", self._issuer.stray(rng))))
        else:
            ticket = ticket._replace(target=name)
        headers = [("User-Agent", "soak"), *ticket.headers]
        payload = None
        method = "GET"
        kind = ticket.kind
        if area == "pass" and rng.random() < 0.6:
            method = rng.choice(("POST", "PUT", "DELETE", "PATCH"))
            payload = rng.randbytes(rng.choice((0, 1, 100, 5000, 70_000, 300_000)))
            kind = "with a body"
        ask = Ask(
            method,
            ticket.target,
            host,
            item,
            kind,
            ticket.right,
            headers,
            name=name,
            payload=payload,
            host_right=host_right,
        )
        ask.viewer = self.name
        if item.area.varies:
            ask.variant = rng.choice(("-", "sweet", "sour"))
            if ask.variant != "-":
                headers.append(("X-Flavour", ask.variant))
        if payload is not None:
            ask.chunked = rng.random() < 0.4
            if payload and rng.random() < 0.2:
                headers.append(("Expect", "100-continue"))
            return ask
        self._refine(ask, item)
        if rng.random() < 0.08:
            ask.method = "HEAD"
            ask.kind = f"HEAD {ask.kind}"
        return ask

    def _refine(self, ask: Ask, item: Item) -> None:
        """Possibly add a range, a condition, or a coding."""
        rng, headers = self._rng, ask.headers
        tag, modified = self._known.get((ask.name, ask.variant), ("", ""))
        choice = rng.random()
        if choice < 0.15:
            ask.ranges = self._range(item.size)
            headers.append(("Range", ask.ranges))
            ask.kind = f"range {ask.kind}"
            if rng.random() < 0.4:
                # A validator of a response that this viewer has seen, or of none that exists.
                ask.if_range = tag if tag and rng.random() < 0.8 else '"nothing like it"'
                headers.append(("If-Range", ask.if_range))
        elif choice < 0.3 and (tag or modified):
            if tag and rng.random() < 0.7:
                ask.none_match = tag if rng.random() < 0.7 else f'"none", {tag}'
                headers.append(("If-None-Match", ask.none_match))
            elif modified:
                ask.modified_since = modified
                headers.append(("If-Modified-Since", modified))
            ask.kind = f"conditional {ask.kind}"
        elif item.area.coded and choice < 0.65:
            value = rng.choice(
                ("gzip", "br", "gzip, br", "gzip, deflate, br, zstd", "identity", "br;q=0, gzip")
            )
            ask.codings = frozenset({"gzip", "br"} & {c.strip() for c in value.split(",")})
            headers.append(("Accept-Encoding", value))

    def _range(self, size: int) -> str:
        rng = self._rng
        shape = rng.choice(("middle", "middle", "middle", "open", "tail", "first", "beyond", "two"))
        first = rng.randrange(size) if size else 0
        if shape == "middle":
            return f"bytes={first}-{first + rng.choice((0, 1, 100, 5000, 200_000))}"
        if shape == "open":
            return f"bytes={first}-"
        if shape == "tail":
            return f"bytes=-{rng.choice((1, 64, 1000))}"
        if shape == "first":
            return "bytes=0-0"
        if shape == "beyond":
            return f"bytes={size + 100 + rng.randrange(1000)}-"
        middle = size // 2
        return f"bytes=0-{max(0, middle // 2)},{middle + 1}-{middle + 50}"
