"""A scripted origin: a real server over real sockets that follows a test's script, valid or not.

    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"hello"))
        origin.on("/b", [b"HTTP/1.1 200 OK\\r\\nContent-", RESET], answer(200, b"better"))

A script is a sequence of steps: bytes are sent unchanged, an `asyncio.Event` is awaited, an `Act` is performed, and a
coroutine function is called with the request and the wire. Each request for a path takes the path's next script; the
last one repeats. When a script ends, the connection waits for another request, so an unfinished answer simulates a
stuck origin. `requests` records every request; `faults` records what no client should send."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

import trustme

from keyfront.model.snapshot import Origin


class Act(Enum):
    """What a script can do besides sending and waiting."""

    CLOSE = auto()
    """Close in good order: FIN after what was sent."""
    RESET = auto()
    """Break off: RST."""
    READ_BODY = auto()
    """Read the request's body now. Without this and LEAVE_BODY it is read before the script begins."""
    LEAVE_BODY = auto()
    """Do not read the request's body, or, with READ_BODY after it, later."""


CLOSE, RESET, READ_BODY, LEAVE_BODY = Act.CLOSE, Act.RESET, Act.READ_BODY, Act.LEAVE_BODY


class ReceivedRequest:
    """A request as received. Header names are lowercase; `connection` numbers the connections from 0."""

    def __init__(
        self, method: str, target: str, version: str, headers: list[tuple[str, str]], connection: int
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.connection = connection
        self.body = b""
        self.body_failed = False

    def header(self, name: str) -> str | None:
        """The only header of that name, or None. Several are an error."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    def __repr__(self) -> str:
        return f"<{self.method} {self.target} on connection {self.connection}>"


class Wire:
    """The origin's end of a connection, for steps that are functions.

    `sent` counts bytes handed to the kernel; `blocked` is set once the client has stopped reading.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.sent = 0
        self.blocked = asyncio.Event()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        drained = asyncio.ensure_future(self.writer.drain())
        try:
            done, _ = await asyncio.wait([drained], timeout=0.1)
            if not done:
                self.blocked.set()
            await drained
        finally:
            drained.cancel()
        self.sent += len(data)

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Step = bytes | asyncio.Event | Act | Callable[[ReceivedRequest, Wire], Awaitable[None]]
Script = Sequence[Step]


def answer(
    status: int = 200,
    body: bytes = b"",
    headers: Iterable[tuple[str, str]] | dict[str, str] = (),
    *,
    length: int | None = None,
    chunks: Iterable[bytes] | None = None,
    close: bool = False,
    version: str = "1.1",
) -> list[Step]:
    """The script of an ordinary answer. `length` may be wrong; `chunks` are sent with chunked coding; `close`
    announces the close and closes."""
    lines = [f"HTTP/{version} {status} {_phrase(status)}"]
    lines += [
        f"{name}: {value}" for name, value in (headers.items() if isinstance(headers, dict) else headers)
    ]
    if chunks is not None:
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    elif status >= 200 and status not in (204, 304):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    if close:
        lines.append("Connection: close")
    script: list[Step] = ["\r\n".join([*lines, "", ""]).encode("latin-1") + body]
    if close:
        script.append(CLOSE)
    return script


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def trickle(data: bytes) -> list[Step]:
    """The same bytes one at a time, each in its own packet."""

    async def send(_: ReceivedRequest, wire: Wire) -> None:
        for index in range(len(data)):
            wire.writer.write(data[index : index + 1])
            await wire.writer.drain()
            await asyncio.sleep(0)

    return [send]


class ScriptedOrigin:
    """See the module docstring. `tls` makes it an https origin; `greeting` is a script that runs when a client
    connects."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", greeting: Script = ()
    ) -> None:
        self.tls = tls
        self.host = host
        self.port = 0
        self.greeting = greeting
        self.requests: list[ReceivedRequest] = []
        self.wires: list[Wire] = []
        self.faults: list[str] = []
        self.connections = 0
        self.closed = 0
        self._scripts: dict[str, list[Script]] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._news = asyncio.Condition()

    async def __aenter__(self) -> ScriptedOrigin:
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, ssl=self.tls, limit=1 << 20, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening and abort every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def on(self, path: str, *scripts: Script) -> None:
        """Set the scripts for requests for `path` (without query): for the first request, the second, …"""
        self._scripts[path] = [*scripts]

    def origin(self, **members: Any) -> Origin:
        """This origin as a behavior's configuration names it; `members` override its settings."""
        values: dict[str, Any] = {"id": "scripted", "domain_name": self.host}
        values |= {"http_port": self.port, "https_port": self.port}
        return Origin(**(values | members))

    async def received(self, count: int) -> ReceivedRequest:
        """Wait until `count` requests have arrived, and return the last one."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def connected(self, count: int) -> None:
        """Wait until `count` connections have been accepted."""
        async with self._news:
            await self._news.wait_for(lambda: self.connections >= count)

    async def disconnected(self, count: int) -> None:
        """Wait until `count` connections have ended."""
        async with self._news:
            await self._news.wait_for(lambda: self.closed >= count)

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number = self.connections
        self.connections += 1
        wire = Wire(reader, writer)
        self.wires.append(wire)
        await self._notify()
        try:
            if await self._run(self.greeting, ReceivedRequest("", "", "", [], number), wire):
                while (request := await self._read_head(reader, number)) is not None:
                    script = self._script(request)
                    if READ_BODY not in script and LEAVE_BODY not in script:
                        await self._read_body(reader, request)
                    self.requests.append(request)
                    await self._notify()
                    if not await self._run(script, request, wire):
                        break
                    if LEAVE_BODY in script and READ_BODY not in script:
                        while await reader.read(65536):  # bytes that arrive now are not a request
                            pass
        except (ConnectionError, ssl.SSLError):
            pass  # the client may do that
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()
            self.closed += 1
            await self._notify()

    def _script(self, request: ReceivedRequest) -> Script:
        scripts = self._scripts.get(request.target.partition("?")[0])
        if scripts is None:
            return answer(404, b"no script for this path")
        return scripts.pop(0) if len(scripts) > 1 else scripts[0]

    async def _run(self, script: Script, request: ReceivedRequest, wire: Wire) -> bool:
        """Perform the steps. Returns False if the connection is closed."""
        for step in script:
            if isinstance(step, bytes):
                await wire.send(step)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step is CLOSE:
                return False
            elif step is RESET:
                wire.reset()
                return False
            elif step is READ_BODY:
                await self._read_body(wire.reader, request)
            elif callable(step):
                await step(request, wire)
        return True

    async def _read_head(self, reader: asyncio.StreamReader, number: int) -> ReceivedRequest | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.faults.append(f"an unfinished head: {error.partial[:80]!r}")
            return None
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3:
            self.faults.append(f"a request line of {len(words)} words: {first!r}")
            return None
        headers = []
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip():
                self.faults.append(f"no header: {line!r}")
            headers.append((name.lower(), value.strip()))
        request = ReceivedRequest(words[0], words[1], words[2], headers, number)
        framing = [name for name, _ in headers if name in ("content-length", "transfer-encoding")]
        if len(framing) > 1:
            self.faults.append(f"framed twice: {framing}")
        return request

    async def _read_body(self, reader: asyncio.StreamReader, request: ReceivedRequest) -> None:
        length = request.header("content-length")
        try:
            if length is not None:
                request.body = await reader.readexactly(int(length))
            elif request.header("transfer-encoding") is not None:
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    request.body += await reader.readexactly(size)
                    assert await reader.readexactly(2) == b"\r\n"
                assert await reader.readexactly(2) == b"\r\n"
        except asyncio.IncompleteReadError as error:
            request.body_failed = True
            request.body += error.partial
            raise ConnectionResetError("the request broke off") from error


class Authority:
    """A certificate authority for one test. `ca_file` is its certificate, as PEM, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)

    def server(
        self, *names: str, expired: bool = False, highest: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """A server-side context with a certificate for `names` (hostnames or addresses)."""
        yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        certificate = self._ca.issue_cert(*names, not_after=yesterday if expired else None)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        if highest is not None:
            context.maximum_version = highest
        return context


@contextlib.contextmanager
def deaf_port(host: str = "127.0.0.1") -> Any:
    """A port at which connecting hangs: its backlog is full and nothing accepts."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind((host, 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def closed_port(host: str = "127.0.0.1") -> int:
    """A port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


async def body_of(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """A request body for the client under test."""
    for chunk in chunks:
        yield chunk
