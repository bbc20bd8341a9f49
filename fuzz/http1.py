"""Fuzzer of HTTP/1: for any bytes in any packets, the server never fails or desynchronizes, and it always terminates.

    python -m fuzz.http1 [--seconds N] [--count N] [--seed N]

A conversation is a pipeline of requests on its own connection, over TLS in a third of the cases and corrupted in half
of them, cut into packets at random. The viewer that sends it may read late, half-close, go silent, or disconnect.
Everything is real: sockets, the edge, and an origin that checks the requests it gets. Every response names its request.
Invariants:

- nothing raises, neither in the event loop nor in the edge (no 500, nothing logged);
- responses are well-formed, and an uncorrupted pipeline gets exactly its own responses, in order;
- the responses to a corrupted pipeline belong to requests that are in the sent bytes, in that order, and a second HTTP
  parser (h11) finds the same requests with the same bodies, as far as it gets;
- nothing follows a response that announces that it is the last, and the connection ends, whatever the viewer does;
- the origin gets only plain requests with a single framing, and none that was hidden in a body.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import socket
import ssl
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import h11
import trustme
import uvloop
from fuzz.runner import Finding, check, inputs, main

from keyfront.edge.http.timeouts import Limits
from keyfront.edge.net.tls import TlsTransport
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, Origin
from tests.sites import site
from tests.viewer import EdgeHarness

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
AT_ONCE = 32
"""Number of concurrent conversations."""
PATIENCE = 60.0
"""Seconds after which a conversation that has not ended is a finding."""
LIMITS = Limits(head=5.0, idle=3.0, body=5.0, write=5.0, drain=5.0)


# -- the origin ----------------------------------------------------------------------------------------------------

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(
    rb"(GET|HEAD|OPTIONS|PUT|POST|PATCH|DELETE) (/[!-~]*) HTTP/1\.1\r\n((?:"
    + _TOKEN
    + rb": [^\r\n\0]*\r\n)+)\r\n"
)


def document(method: bytes, target: bytes, body: bytes) -> bytes:
    """The origin's document for a request, of a size that depends on its target. It names its request."""
    line = b"%b %b %d %08x\n" % (method, target, len(body), zlib.crc32(body))
    size = zlib.crc32(target) % 7
    return line * (1, 1, 1, 3, 40, 400, 3000)[size]


class StrictOrigin:
    """Answers every well-formed request with its `document`, framed one way or another; `faults` has the others."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.faults: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, RuntimeError, asyncio.IncompleteReadError):
            pass  # the edge may disconnect because its viewer did
        except asyncio.CancelledError:
            writer.transport.abort()
        except Exception as error:
            self.faults.append(f"{error!r}")
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            check(not error.partial, "half a head at the origin", error.partial)
            return False
        found = _HEAD.fullmatch(head)
        check(found, "no plain request at the origin", head)
        assert found is not None
        method, target, lines = found.groups()
        fields = [line.split(b": ", 1) for line in lines.lower().split(b"\r\n")[:-1]]
        names = [name for name, _ in fields]
        values: dict[bytes, bytes] = dict(fields)
        framing = [name for name in names if name in (b"content-length", b"transfer-encoding")]
        check(len(framing) < 2, "framed twice at the origin", head)
        for name in (b"host", b"via", b"x-forwarded-for", b"x-amz-cf-id", b"connection"):
            check(names.count(name) == 1, "not once at the origin: " + name.decode(), head)
        check(
            not {b"upgrade", b"te", b"trailer", b"expect", b"keep-alive", b"http2-settings"}.intersection(
                names
            ),
            "a field of the connection at the origin",
            head,
        )
        check(b"smuggled" not in target, "smuggled", head)
        last = b"close" if framing and values.get(b"content-length") != b"0" else b"keep-alive"
        check(values[b"connection"] == last, "an origin's connection is to be used again after a body", head)
        early = b"early" in target
        body = b"" if early else await self._body(reader, framing, values)
        if self.chance.random() < 0.3:
            await asyncio.sleep(self.chance.random() * 0.02)
        data = document(method, target, body)
        close = await self._answer(writer, method, target, data, way=self.chance.randrange(3 if early else 4))
        if early:
            await self._body(reader, framing, values)
        return not close and last != b"close"

    async def _body(
        self, reader: asyncio.StreamReader, framing: list[bytes], values: dict[bytes, bytes]
    ) -> bytes:
        if framing == [b"content-length"]:
            return await reader.readexactly(int(values[b"content-length"]))
        body = b""
        if framing:
            check(values[b"transfer-encoding"] == b"chunked", "a coding at the origin", values)
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += await reader.readexactly(size)
                check(await reader.readexactly(2) == b"\r\n", "a chunk at the origin", body)
            check(await reader.readexactly(2) == b"\r\n", "a trailer at the origin", body)
        return body

    async def _answer(
        self, writer: asyncio.StreamWriter, method: bytes, target: bytes, data: bytes, *, way: int
    ) -> bool:
        cached = b"max-age=60" if b"cached" in target else b"no-store"
        head = b"HTTP/1.1 200 OK\r\nCache-Control: %b\r\nX-For: %b\r\n" % (cached, target)
        if method == b"HEAD" or way < 2:
            writer.write(head + b"Content-Length: %d\r\n\r\n" % len(data))
            if method != b"HEAD":
                writer.write(data)
        elif way == 2:
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
            while data:
                size = self.chance.randint(1, len(data))
                writer.write(b"%x\r\n%b\r\n" % (size, data[:size]))
                data = data[size:]
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")
        else:
            writer.write(head + b"Connection: close\r\n\r\n" + data)
        await writer.drain()
        return way == 3 and method != b"HEAD"


# -- what viewers send ---------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """One request as intended."""

    method: str
    target: str
    body: bytes
    data: bytes


HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: d.test\r\n\r\n"
"""Placed in bodies that are not corrupted: it must never be treated as a request."""
LURKING = b"GET /lurking HTTP/1.1\r\nHost: d.test\r\n\r\n"
"""Placed in bodies where a changed byte may turn it into a request."""


def request(chance: random.Random, number: int, *, last: bool, heads: bool) -> Said:
    """A valid request of some kind, with a unique target (or one that is cached and shared)."""
    kind = chance.choice(("plain", "plain", "cached", "cached", "sized", "chunked", "early"))
    methods = {"plain": ["GET", "GET", "OPTIONS", "DELETE"], "cached": ["GET"]}.get(
        kind, ["POST", "PUT", "PATCH", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "GET"]
    )
    if heads:
        methods = [*methods, "HEAD"]
    method = chance.choice(methods)
    target = f"/cached-{chance.randrange(12)}" if kind == "cached" else f"/{kind}-{number}"
    if chance.random() < 0.3:
        target += chance.choice(("/a%20b", "/..;x/y", "/%2e%2e%2Fz", "/" + "l" * chance.randrange(900)))
    version = "1.0" if last and chance.random() < 0.1 and kind != "chunked" else "1.1"
    shown = f"http://d.test:80{target}" if chance.random() < 0.1 else target
    lines = [
        f"{method} {shown} HTTP/{version}",
        chance.choice(("Host: d.test", "host:d.test:8080", "HOST:\td.test ")),
    ]
    fields = [
        "User-Agent: fuzz", "Accept: */*", "Cookie: a=b; c=d", "X-Long: " + "y" * chance.randrange(3000), "X:",
        "Connection: keep-alive", "Connection: x-gone, keep-alive\r\nX-Gone: yes", "Range: x=1", "X-Empty: \t ",
        "Connection: Upgrade\r\nUpgrade: h2c", "Via: 1.0 before", "X-Forwarded-For: 192.0.2.1", "TE: trailers",
        "Transfer_Encoding: chunked", "Content_Length: 7",
    ]  # fmt: skip
    lines += chance.sample(fields, chance.randrange(5))
    if last and chance.random() < 0.4:
        lines.append("Connection: close")
    body = b""
    rest = b""
    if kind in ("sized", "chunked", "early"):
        body = ((HIDDEN if heads else LURKING) * chance.randrange(30))[chance.randrange(5) :]
        if chance.random() < 0.1:
            body += bytes(chance.randrange(256) for _ in range(300)) * chance.randrange(300)
        if chance.random() < 0.2:
            lines.append("Expect: 100-continue")
        if kind == "chunked":
            lines = [line for line in lines if "Upgrade" not in line]
            lines.append("Transfer-Encoding: " + chance.choice(("chunked", "Chunked", "chunked ")))
            rest = chunks(chance, body)
        else:
            lines.append(f"Content-Length: {chance.choice(('', '000'))}{len(body)}")
            rest = body
    head = "\r\n".join([*lines, "", ""]).encode()
    if chance.random() < 0.1:
        head = b"\r\n" * chance.randrange(4) + head
    return Said(method, target, body, head + rest)


def refused(said: Said) -> bool:
    """True if the request has a body where none is allowed."""
    return said.method in ("GET", "HEAD") and bool(said.body or said.target.startswith("/chunked"))


def chunks(chance: random.Random, body: bytes) -> bytes:
    data = b""
    while body:
        size = chance.choice((1, 2, 17, len(body)))
        extension = chance.choice((b"", b"", b";a", b';a="b;c"'))
        data += b"%b%x%b\r\n%b\r\n" % (chance.choice((b"", b"0")), len(body[:size]), extension, body[:size])
        body = body[size:]
    return data + b"0\r\n" + chance.choice((b"", b"", b"X-Trailer: y\r\nHost: evil.test\r\n")) + b"\r\n"


_PIECES = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b"\0", b" ", b"\t", b":", b";", b",", b"/", b"#", b"%", b"\xff",
    b"-1", b"0", b"00", b"0\r\n\r\n", b"1", b"ffffffffffffffff", b"99999999999999999999", b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n", b"Content-Length:", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: chunked, identity\r\n", b"chunked", b"Connection: close\r\n", b"Connection: Upgrade\r\n",
    b"Upgrade: websocket\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n",
    b"Expect: x\r\n",
    b"Host: evil.test\r\n", b"Host: d.test\r\n", b"GET ", b"CONNECT d.test:443 HTTP/1.1\r\n", b"POST /p HTTP/1.1\r\n",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"http://d.test/x", b"http://evil.test", b"PRI * HTTP/2.0\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", LURKING, b"A" * 9000, b"X: y\r\n" * 900, b"Range: bytes=0-1\r\n",
    b"If-None-Match: *\r\n", b"OPTIONS * HTTP/1.1\r\n",
)  # fmt: skip


def spoil(chance: random.Random, data: bytes) -> bytes:
    """Make one to four small changes, mostly in heads."""
    for _ in range(chance.randint(1, 4)):
        where = chance.randrange(len(data) + 1)
        if chance.random() < 0.6:
            # Changes at the end of a line, or in the middle of a name, are the most effective.
            marks = [found.start() for found in re.finditer(rb"\r\n|: |;|\b", data[:6000])]
            where = chance.choice(marks) if marks else where
        length = chance.choice((0, 0, 1, 1, 2, 4, 16, 200))
        kind = chance.randrange(6)
        if kind == 0:
            new = chance.choice(_PIECES)
        elif kind == 1:
            new = bytes([chance.randrange(256)])
        elif kind == 2:
            new = data[where : where + length] * 2
        elif kind == 3:
            start = chance.randrange(len(data) + 1)
            new = data[start : start + chance.choice((4, 40, 400))]
        elif kind == 4:
            new = data[where : where + length][::-1]
        else:
            new = b""
        data = data[:where] + new + data[where + length :]
    return data


def packets(chance: random.Random, data: bytes) -> list[bytes]:
    """The bytes split into packets: one, a few, or many tiny ones."""
    way = chance.randrange(4)
    if way == 0:
        return [data]
    if way == 1 and len(data) < 1500:
        return [data[i : i + 1] for i in range(len(data))]
    cuts = sorted({0, *(chance.randrange(len(data) + 1) for _ in range(chance.randrange(12)))})
    return [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True) if a < b]


# -- what viewers receive ------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    fields: dict[bytes, bytes]
    body: bytes
    whole: bool
    last: bool

    @property
    def subject(self) -> bytes | None:
        """The target of the request, if the response came from the origin or the cache."""
        return self.fields.get(b"x-for")


_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]*")
_FIELD = re.compile(rb"(" + _TOKEN + rb"): ([^\r\n\0]*)")


def answers(data: bytes, methods: list[str] | None) -> list[Answer]:
    """All responses that a viewer received; the last one may be incomplete (`whole`). Any other flaw is a finding."""
    found: list[Answer] = []
    finals = 0
    while data:
        check(not found or not found[-1].last, "something follows the last answer", data)
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            check(b"HTTP/1.1 "[: len(data)] == data[:9], "no answer", data)
            found.append(Answer(0, {}, b"", whole=False, last=True))
            return found
        first, *lines = head.split(b"\r\n")
        line = _LINE.fullmatch(first)
        check(line, "no status line", first, data)
        assert line is not None
        status = int(line[1])
        fields: dict[bytes, bytes] = {}
        for text in lines:
            field = _FIELD.fullmatch(text)
            check(field, "no field", text)
            assert field is not None
            name = field[1].lower()
            check(name not in fields, "a field twice", head)
            fields[name] = field[2]
        check(status != 500, "500", head)
        if status < 200:
            check(status == 100 and not fields, "informational", head)
            data = rest
            continue
        check(b"connection" in fields and b"x-amz-cf-id" in fields, "not as the edge answers", head)
        check(not {b"content-length", b"transfer-encoding"} <= fields.keys(), "framed twice", head)
        method = methods[finals] if methods is not None and finals < len(methods) else "GET"
        finals += 1
        last = fields[b"connection"] == b"close"
        body, data, whole = b"", rest, True
        if method == "HEAD" or status in (204, 304):
            pass
        elif b"content-length" in fields:
            size = int(fields[b"content-length"])
            body, data, whole = rest[:size], rest[size:], len(rest) >= size
        elif b"transfer-encoding" in fields:
            body, data, whole = dechunked(rest)
        else:
            check(last, "unframed, and not the last", head)
            body, data = rest, b""
        found.append(Answer(status, fields, body, whole, last or not whole))
    return found


def dechunked(data: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while True:
        line, end, rest = data.partition(b"\r\n")
        if not end:
            return body, b"", False
        size = int(line, 16)
        if len(rest) < size + 2:
            return body + rest[:size], b"", False
        check(rest[size : size + 2] == b"\r\n", "a chunk's end", rest[size : size + 9])
        if not size:
            return body, rest[2:], True
        body += rest[:size]
        data = rest[size + 2 :]


# -- a second parser -----------------------------------------------------------------------------------------------


def second_reading(data: bytes) -> list[tuple[bytes, bytes, bytes | None]]:
    """Method, target, and body (None: unfinished) of each request that h11 finds."""
    found: list[tuple[bytes, bytes, bytes | None]] = []
    try:
        while data:
            # A new parser for each request, because it would stop at an upgrade. h11 rejects line ends before a request
            # and
            # blanks within its first line; llhttp accepts them, as RFC 9112 §2.2 and §3 allow.
            reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            reader.receive_data(re.sub(rb"\A[\r\n]*([A-Z]+) +([!-~]+) +HTTP", rb"\1 \2 HTTP", data))
            request = reader.next_event()
            if not isinstance(request, h11.Request):
                return found
            found.append((request.method, request.target, None))
            body = b""
            while isinstance(event := reader.next_event(), h11.Data):
                body += bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                return found
            found[-1] = (request.method, request.target, body)
            data = reader.trailing_data[0]
    except h11.RemoteProtocolError:
        pass
    return found


# -- the viewer's end of a connection ----------------------------------------------------------------------------------


class Wire(Protocol):
    async def send(self, data: bytes) -> None: ...

    async def receive(self, size: int) -> bytes: ...

    async def half_close(self) -> None: ...


class Plain:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def receive(self, size: int) -> bytes:
        return await self._loop.sock_recv(self._sock, size)

    async def half_close(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)


class Secure:
    """TLS in memory, so that records can be cut anywhere and each direction can be closed separately."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, chance: random.Random) -> None:
        self._wire = Plain(sock)
        self._chance = chance
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="d.test")

    async def _flush(self) -> None:
        data = self._outgoing.read()
        while data:
            size = len(data) if self._chance.random() < 0.8 else self._chance.randint(1, len(data))
            await self._wire.send(data[:size])
            data = data[size:]

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._wire.receive(65536))
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        while data:
            data = data[self._tls.write(data) :]
        await self._flush()

    async def receive(self, size: int) -> bytes:
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                more = await self._wire.receive(65536)
                if not more:
                    return b""
                self._incoming.write(more)

    async def half_close(self) -> None:
        # `unwrap` also waits for the peer's close_notify, and would discard unread data.
        if not self._incoming.pending and not self._tls.pending() and self._chance.random() < 0.7:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
            await self._flush()
            if self._chance.random() < 0.5:
                return
        await self._wire.half_close()


# -- a conversation ------------------------------------------------------------------------------------------------


class Talk(NamedTuple):
    """What a viewer sent and heard, and its address."""

    sent: bytes
    heard: bytes
    address: str


def viewer_address(number: int) -> str:
    """The loopback address of a conversation's viewer. Each has its own, so that no record of an earlier connection is
    taken for one of this conversation: ports are reused at once, and a viewer that disconnects leaves a record late."""
    return f"127.{1 + number // 62500 % 250}.{number // 250 % 250}.{1 + number % 250}"


class Fuzz:
    """Conversations with one edge."""

    def __init__(self, seed: int, tell: Callable[[str], None]) -> None:
        self.seed = seed
        self.tell = tell
        self.done = 0
        self.heard = 0
        self.failures: list[str] = []
        self.tls_port = 0
        self.context = ssl.create_default_context()

    async def run(self, count: int | None, seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.failures.append(f"in the event loop: {context}"))
        log = _Listening(self.failures)
        logging.getLogger("keyfront").addHandler(log)
        logging.getLogger("asyncio").addHandler(log)
        origin = StrictOrigin(random.Random(self.seed))
        server = await asyncio.start_server(origin, "127.0.0.1", 0, limit=1 << 20)
        port = server.sockets[0].getsockname()[1]
        behavior = Behavior("*", "o", allowed_methods=ALL, legacy=True)
        snapshot = site(Origin("o", "127.0.0.1", http_port=port), behavior)
        settings = EdgeSettings(memory=1 << 20, max_object=1 << 17)
        try:
            async with EdgeHarness(snapshot, limits=LIMITS, settings=settings) as harness:
                secure = await loop.create_server(self._secured(harness), "127.0.0.1", 0)
                self.tls_port = secure.sockets[0].getsockname()[1]
                waiting: set[asyncio.Task[None]] = set()
                for number in inputs(count, seconds):
                    waiting.add(asyncio.create_task(self._conversation(harness, number)))
                    self.done += 1
                    if len(waiting) >= AT_ONCE:
                        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if self.failures or origin.faults:
                        break
                if waiting:
                    await asyncio.wait(waiting)
                for _ in range(200):
                    if not harness.listener.connections:
                        break
                    await asyncio.sleep(0.05)
                if harness.listener.connections:
                    self.failures.append(f"{len(harness.listener.connections)} connections do not end")
                secure.close()
        finally:
            server.close()
            logging.getLogger("keyfront").removeHandler(log)
            logging.getLogger("asyncio").removeHandler(log)
        for failure in [*self.failures, *origin.faults]:
            raise Finding(f"seed {self.seed}: {failure}")

    def _secured(self, harness: EdgeHarness) -> Callable[[], TlsTransport]:
        """A factory of TLS connections to the same edge."""
        authority = trustme.CA()
        authority.configure_trust(self.context)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("d.test").configure_cert(server)
        return lambda: TlsTransport(server, harness.listener(), LIMITS.head)

    async def _conversation(self, harness: EdgeHarness, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        spoilt = chance.random() < 0.5
        many = chance.choice((1, 1, 2, 3, 8, 40))
        said = [request(chance, number * 100 + n, last=n == many - 1, heads=not spoilt) for n in range(many)]
        data = b"".join(each.data for each in said)
        if spoilt:
            data = spoil(chance, data)
        sent = data
        ending = chance.choice(("half-close", "half-close", "half-close", "silence", "break"))
        try:
            async with asyncio.timeout(PATIENCE):
                talk = await self._talk(harness, chance, data, ending, viewer_address(number))
            sent = talk.sent
            self._judge(harness, said, talk, ending, spoilt=spoilt)
        except TimeoutError:
            self._report(number, f"no end ({ending})", data)
        except Finding as finding:
            self._report(number, f"{finding} ({ending})", sent)
        except Exception as error:
            self._report(number, f"{error!r} ({ending})", sent)

    def _report(self, number: int, what: str, data: bytes) -> None:
        self.failures.append(f"conversation {number}: {what}\n{data[:4000]!r}")

    async def _talk(
        self, harness: EdgeHarness, chance: random.Random, data: bytes, ending: str, address: str
    ) -> Talk:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            late = chance.random() < 0.1
            if late:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            secure = chance.random() < 0.3
            sock.bind((address, 0))
            await loop.sock_connect(sock, ("127.0.0.1", self.tls_port if secure else harness.port))
            wire: Wire = Plain(sock)
            if secure:
                wire = secured = Secure(sock, self.context, chance)
                await secured.shake_hands()
            hearing = asyncio.create_task(self._hear(wire, chance, late=late))
            sent = b""
            try:
                for packet in packets(chance, data):
                    await wire.send(packet)
                    sent += packet
                    if chance.random() < 0.5:
                        await asyncio.sleep(0)
                    if ending == "break" and chance.random() < 0.1:
                        break
                if ending == "half-close":
                    await wire.half_close()
            except (OSError, ssl.SSLError):
                sent = data  # refused halfway: later bytes were ignored
            if ending == "break":
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return Talk(sent, b"", address)
            return Talk(sent, await hearing, address)

    async def _hear(self, wire: Wire, chance: random.Random, *, late: bool) -> bytes:
        heard = b""
        try:
            while piece := await wire.receive(chance.choice((100, 65536)) if late else 65536):
                heard += piece
                if late:
                    await asyncio.sleep(0.0005)
        except (ConnectionError, ssl.SSLError):
            pass
        return heard

    def _judge(
        self,
        harness: EdgeHarness,
        said: list[Said],
        talk: Talk,
        ending: str,
        *,
        spoilt: bool,
    ) -> None:
        records = [r for r in harness.records if r["client_ip"] == talk.address]
        harness.records[:] = [r for r in harness.records if r["client_ip"] != talk.address]
        if ending == "break":
            return
        found = answers(talk.heard, None if spoilt else [each.method for each in said])
        self.heard += len(found)
        if not spoilt:
            # On a busy machine, a viewer that sends byte by byte is too slow, and is refused as such.
            if not any(record.get("reason", "").startswith("slow_") for record in records):
                self._exactly(said, found, records)
            return
        self._in_order(talk.sent, found)
        self._as_read_by_another(talk.sent, records, found)

    def _exactly(self, said: list[Said], found: list[Answer], records: list[dict[str, Any]]) -> None:
        for each, got in zip(said, found, strict=False):
            if refused(each):
                check(got.status == 403, f"answered with {got.status}, with a body", each[:2], got.fields)
                continue
            check(got.status == 200, f"answered with {got.status}", each[:2], got.fields)
            check(got.subject == each.target.encode(), "out of step", each[:2], got.fields)
            if each.method == "HEAD":
                continue
            early = "early" in each.target
            expected = document(each.method.encode(), each.target.encode(), b"" if early else each.body)
            check(got.whole, "cut short", each[:2], got.fields, len(got.body), len(expected))
            check(got.body == expected, "another body", each[:2], got.body[:200], expected[:200])
        if len(found) < len(said):
            # Only a response sent before the body was read may end a connection that was meant to continue.
            at = said[len(found) - 1] if found else None
            check(
                at is not None and found[-1].last and ("early" in at.target or refused(at)),
                "unanswered",
                f"{len(found)} of {len(said)}",
                found[-1:],
                records[-2:],
            )
        check(len(found) <= len(said), "one answer too many", len(said), len(found))

    def _in_order(self, sent: bytes, found: list[Answer]) -> None:
        at = 0
        for got in found:
            if got.subject is None:
                continue
            where = sent.find(got.subject, at)
            if where < 0 and got.subject.startswith(b"/?"):
                where = sent.find(got.subject[1:], at)  # http://d.test?query
            check(where >= 0 or got.subject == b"/", "an answer to nothing that was asked", got.subject)
            at = max(at, where + 1)
        for got in found[:-1]:
            check(got.status not in (400, 413, 417), "the connection went on", got)

    def _as_read_by_another(self, sent: bytes, records: list[dict[str, Any]], found: list[Answer]) -> None:
        other = second_reading(sent)
        taken = [
            r for r in records if r.get("reason") not in ("bad_request", "too_large", "expectation_failed")
        ]
        for number, (record, (method, target, body)) in enumerate(zip(taken, other, strict=False)):
            shown = record["path"] + ("?" + record["query"] if record["query"] else "")
            check(
                record["method"].encode() == method and shown.strip("?").encode() in target + b"/",
                "another reading",
                record,
                (method, target),
            )
            if body is not None and len(found) == len(records) and found[number].whole:
                origins = found[number].body.partition(b"\n")[0].split(b" ")
                if found[number].subject and method in (b"POST", b"PUT", b"PATCH") and b"early" not in target:
                    seen = [b"%d" % len(body), b"%08x" % zlib.crc32(body)]
                    check(origins[2:] == seen, "another body", record, origins, seen)
        check(len(taken) <= len(other), "more than another finds", taken[len(other) :], other[-1:])


class _Listening(logging.Handler):
    def __init__(self, failures: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._failures = failures

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("the limit "):
            return  # viewers here are slow on purpose, and the machine may be slow
        self._failures.append("logged: " + logging.Formatter().format(record))


def run(
    count: int | None, seconds: float | None, seed: int, tell: Callable[[str], None] = print
) -> tuple[int, int]:
    """Run `count` conversations, or as many as `seconds` allow. Returns their number and the number of responses.

    :raises Finding: at the first one.
    """
    fuzz = Fuzz(seed, tell)
    unraised: list[str] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda what: unraised.append(repr(what))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(fuzz.run(count, seconds))
    finally:
        sys.unraisablehook = before
    check(not unraised, "unraised", unraised)
    tell(f"seed {seed}: {fuzz.done} conversations, {fuzz.heard} answers, no finding")
    return fuzz.done, fuzz.heard


if __name__ == "__main__":
    main(__doc__, run)
