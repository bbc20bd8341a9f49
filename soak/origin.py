"""The origin: asyncio streams on a real socket, conforming to RFC 9110 except for injected faults. The `X-Object` field
of every response identifies it: target, version, variant, and coding."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
import socket
import struct
import time
from email.utils import formatdate, parsedate_to_datetime
from typing import Final

from soak.frames import PATH, echo
from soak.objects import Item, body, packed
from soak.truth import Truth

SPOILING: Final = (
    "status-500",
    "status-503",
    "reset-before-head",
    "cut-head",
    "huge-head",
    "stuck-head",
    "reset-body",
    "short-body",
    "stuck-body",
    "bad-chunk",
    "lying-length",
)
"""Faults that may be visible to a viewer."""
HARMLESS: Final = ("slow-head", "slow-body", "chatter", "hangup", "hints")
"""Oddities that must be invisible to viewers. `chatter`: bytes after the end of the response; `hangup`: the connection
is closed after the response without notice; `hints`: a 103 before the response."""
CHATTER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-Object: chatter\r\n\r\nmalicious"
LIES: Final = (4611686018427387904, (1 << 63) - 1)
"""The lengths that `lying-length` claims for a body of a few bytes: longer than any object, so no cache stores it."""
STUCK: Final = 6.0
"""Seconds for which the origin stalls; the edge's timeout is shorter."""
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")

Fields = dict[str, str]


class SoakOrigin:
    def __init__(self, truth: Truth, seed: int) -> None:
        self.truth = truth
        self.port = 0
        self.requests = 0
        self._rng = random.Random(f"origin {seed}")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=1 << 17, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """Stop listening, and abort every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            _reset(writer)

    async def stop(self) -> None:
        await self.die()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        return len(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, RuntimeError):
            pass  # closed by the edge or by a fault
        except asyncio.CancelledError:
            _reset(writer)  # the soak is over
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request. Returns False if the connection is over."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.truth.leaks.append(f"the origin got an unfinished head: {error.partial[:200]!r}")
            return False
        except asyncio.LimitOverrunError:
            self.truth.leaks.append("the origin got a head without an end")
            return False
        self.requests += 1
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        fields: Fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            if name.lower() in fields:
                self.truth.leaks.append(f"the origin got {name} twice: {head!r}")
            fields[name.lower()] = value.strip()
        self._suspect(head, version, target, fields)
        path, _, query = target.partition("?")
        if "upgrade" in fields:
            return await self._websocket(reader, writer, target, fields)
        sent = await _read_body(reader, fields)
        item = self.truth.items.get(path)
        if item is None:
            self.truth.leaks.append(f"the origin was asked for {target!r}, which no viewer asks for")
            writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
            return True
        if query and not item.area.query:
            self.truth.leaks.append(f"the origin got a query string that is not forwarded: {target!r}")
        return await self._answer(writer, item, method, target, fields, sent)

    async def _websocket(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, fields: Fields
    ) -> bool:
        if fields["upgrade"] != "websocket" or not target.rpartition("/")[2].startswith(PATH):
            self.truth.leaks.append(f"the origin got an upgrade that no viewer asks for: {target!r} {fields}")
            return False
        try:
            await echo(reader, writer, target, fields.get("sec-websocket-key", ""))
        except ValueError as error:
            self.truth.leaks.append(f"the origin got a WebSocket that cannot be read: {error}")
        return False

    def _suspect(self, head: bytes, version: str, target: str, fields: Fields) -> None:
        """Report anything that an edge must never send."""
        leaks = self.truth.leaks
        if version != "HTTP/1.1" or not target.startswith("/"):
            leaks.append(f"the origin got a wrong request line: {head[:200]!r}")
        for word in ("Signature", "Policy=", "Key-Pair-Id", "Expires="):
            if word in target or word in fields.get("cookie", ""):
                leaks.append(f"a credential reached the origin: {head[:600]!r}")
                break
        if "content-length" in fields and "transfer-encoding" in fields:
            leaks.append(f"the origin got a request framed twice: {head!r}")

    # -- responses ---------------------------------------------------------------------------------------------------

    async def _answer(
        self, writer: asyncio.StreamWriter, item: Item, method: str, target: str, fields: Fields, sent: bytes
    ) -> bool:
        truth = self.truth
        fault = truth.fault(item.path)
        if fault in ("reset-before-head", "stuck-head", "cut-head", "huge-head") or fault.startswith(
            "status-"
        ):
            return await self._before_head(writer, item, fault)
        if fault == "slow-head":
            await asyncio.sleep(1.0)
        elif fault == "hints":
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n")
        if method not in ("GET", "HEAD"):
            echo = f"{method} {target} {len(sent)} {hashlib.sha256(sent).hexdigest()}".encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(echo), echo)
            )
            return self._goes_on(writer, fault)

        version = truth.version(item.path)
        variant = fields.get("x-flavour", "-") if item.area.varies else "-"
        coding = "gzip" if item.packed and "gzip" in fields.get("accept-encoding", "") else "identity"
        whole = body(target, version, variant, item.size_of(version))
        if coding == "gzip":
            whole = packed(whole)
        tag = item.tag(version, variant, coding)
        modified = formatdate(int(truth.born(item.path, version)), usegmt=True) if item.dated else None
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Server", "soak"),
            ("Content-Type", "text/plain"),
            ("Cache-Control", item.cache_control),
            ("X-Object", f"{target}|{version}|{variant}|{coding}"),
            ("Set-Cookie", "taste=origin; Path=/"),
        ]
        if coding != "identity":
            headers.append(("Content-Encoding", coding))
        if item.packed:
            headers.append(("Vary", "Accept-Encoding"))
        elif item.area.varies:
            headers.append(("Vary", "X-Flavour"))
        if tag is not None:
            headers.append(("ETag", tag))
        if modified is not None:
            headers.append(("Last-Modified", modified))
        if item.ranges:
            headers.append(("Accept-Ranges", "bytes"))

        status, part = item.status, whole
        if status == 200:
            if _unmodified(fields, tag, modified):
                headers = [h for h in headers if h[0] not in ("Content-Type", "Content-Encoding")]
                writer.write(_head(304, headers))
                return self._goes_on(writer, fault)
            cut = _part(item, fields, tag, modified, len(whole)) if method == "GET" else None
            if cut is not None:
                first, last = cut
                if first > last:
                    headers = [h for h in headers if h[0] != "Content-Encoding"]
                    headers.append(("Content-Range", f"bytes */{len(whole)}"))
                    status, part = 416, b""
                else:
                    headers.append(("Content-Range", f"bytes {first}-{last}/{len(whole)}"))
                    status, part = 206, whole[first : last + 1]
        return await self._send(writer, item, fault, status, headers, part, method == "HEAD")

    async def _before_head(self, writer: asyncio.StreamWriter, item: Item, fault: str) -> bool:
        self.truth.note_fault(item.path)
        if fault.startswith("status-"):
            status = int(fault[7:])
            text = error_body(item.path, status)
            writer.write(
                _head(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))]) + text
            )
            await writer.drain()
            return True
        if fault == "cut-head":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            await writer.drain()
        elif fault == "huge-head":
            writer.write(b"HTTP/1.1 200 OK\r\n" + b"X-Much: %b\r\n" % (b"m" * 900) * 30 + b"\r\n")
            await writer.drain()
        elif fault == "stuck-head":
            await asyncio.sleep(STUCK)
            self.truth.note_fault(item.path)
        _reset(writer)
        return False

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        item: Item,
        fault: str,
        status: int,
        headers: list[tuple[str, str]],
        data: bytes,
        bodiless: bool,
    ) -> bool:
        framing = item.framing
        if framing == "length" or status == 416:
            headers.append(("Content-Length", str(len(data))))
            framing = "length"
        elif framing == "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
        elif not bodiless:
            headers.append(("Connection", "close"))
        if fault == "lying-length" and framing == "length" and status == 200 and not bodiless:
            self.truth.note_fault(item.path)
            headers[-1] = ("Content-Length", str(self._rng.choice(LIES)))
            writer.write(_head(status, headers) + data[: len(data) // 2])
            await writer.drain()
            self.truth.note_fault(item.path)
            return False
        head = _head(status, headers)
        if fault == "chatter" and framing == "length" and len(data) < 4096:
            # In one write with the response: bytes that arrive after the next request was sent cannot be distinguished
            # from
            # the response to it.
            writer.write(head + (b"" if bodiless else data) + CHATTER)
            await writer.drain()
            return True
        writer.write(head)
        if bodiless:
            return self._goes_on(writer, fault)
        spoilt = fault in ("reset-body", "short-body", "stuck-body", "bad-chunk") and len(data) > 1
        if spoilt and not (framing == "close" and fault in ("short-body", "bad-chunk")):
            # Without a length, an early end looks like the end, so only a reset is a fault there.
            self.truth.note_fault(item.path)
            half = data[: max(1, len(data) // 2)]
            writer.write(b"%x\r\n%b\r\n" % (len(half), half) if framing == "chunked" else half)
            await writer.drain()
            if fault == "stuck-body":
                await asyncio.sleep(STUCK)
            elif fault == "bad-chunk" and framing == "chunked":
                writer.write(b"this is no size\r\n")
                await writer.drain()
            self.truth.note_fault(item.path)
            if fault == "short-body":
                return False
            _reset(writer)
            return False
        pieces = [data]
        if fault == "slow-body" and len(data) > 10:
            third = len(data) // 3
            pieces = [data[:third], data[third : 2 * third], data[2 * third :]]
        elif framing == "chunked" and len(data) > 3000:
            step = self._rng.choice((1000, 8192, 70_000))
            pieces = [data[at : at + step] for at in range(0, len(data), step)]
        for number, piece in enumerate(pieces):
            if number and fault == "slow-body":
                await asyncio.sleep(0.4)
            if framing != "chunked":
                writer.write(piece)
            elif piece:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if framing == "chunked":
            writer.write(b"0\r\n\r\n")
        if framing == "close":
            return False
        return self._goes_on(writer, fault)

    def _goes_on(self, writer: asyncio.StreamWriter, fault: str) -> bool:
        if fault == "hangup":
            self.truth.hangups.append(time.time())
            return False
        return True


def error_body(path: str, status: int) -> bytes:
    """The origin's body for a 500 or 503."""
    return f"the origin fails {path} with {status}\n".encode() * 3


def _head(status: int, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} Soaked", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # uvloop raises them if it is already closed
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


async def _read_body(reader: asyncio.StreamReader, fields: Fields) -> bytes:
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    data = b""
    if "transfer-encoding" in fields:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            data += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    return data


def _unmodified(fields: Fields, tag: str | None, modified: str | None) -> bool:
    if "if-none-match" in fields:
        asked = [one.strip().removeprefix("W/") for one in fields["if-none-match"].split(",")]
        return tag is not None and tag.removeprefix("W/") in asked
    since = fields.get("if-modified-since")
    if since is None or modified is None:
        return False
    return parsedate_to_datetime(modified) <= parsedate_to_datetime(since)


def _part(
    item: Item, fields: Fields, tag: str | None, modified: str | None, size: int
) -> tuple[int, int] | None:
    """The first and last byte to send; first > last if there are none; None for the whole body."""
    found = _RANGE.fullmatch(fields.get("range", ""))
    if found is None or not item.ranges:
        return None
    condition = fields.get("if-range")
    if condition is not None and (condition.startswith("W/") or condition not in (tag, modified)):
        return None
    low, high = found.groups()
    if not low and not high:
        return None
    if not low:
        return (max(0, size - int(high)), size - 1) if size else None
    first = int(low)
    last = min(int(high), size - 1) if high else size - 1
    if first >= size:
        return (1, 0)
    return (first, last) if first <= last else None
