"""The values that pass through an edge, and nothing else: no rule, no socket.

Header lists are as ASGI has them: pairs of bytes, names lower-case, in the order received, repeats kept.
Text that comes from a viewer's request line is latin-1 text, so that every byte sent is one character kept.
Times are epoch seconds.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyfront.edge.quick import Ready
    from keyfront.edge.response_headers import ResponseHeaders
    from keyfront.edge.routing import Route
    from keyfront.edge.shield import Told
    from keyfront.edge.tunnel import Upstream
    from keyfront.signing.verify import Grant

Header = tuple[bytes, bytes]
Headers = list[Header]

READ: Final = 256 * 1024
"""Bytes that are read from a file in one go where the kernel cannot send it."""


class OpenFile:
    """A file that is open for reading: `fd` until the last who holds this lets go of it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class FileRange:
    """A piece of a body that lies in a file: `length` bytes from `offset`. A shell lets the kernel send it where it
    can (sendfile(2)); to iterate over it reads it, and raises OSError if the file cannot be read or is shorter."""

    __slots__ = ("file", "length", "offset")

    def __init__(self, file: OpenFile, offset: int, length: int) -> None:
        self.file = file
        self.offset = offset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def cut(self, first: int, length: int) -> FileRange:
        """`length` bytes of it, from its own byte number `first`."""
        return FileRange(self.file, self.offset + first, min(length, self.length - first))

    def __iter__(self) -> Iterator[bytes]:
        offset, left = self.offset, self.length
        while left:
            chunk = os.pread(self.file.fd, min(left, READ), offset)
            if not chunk:
                raise OSError("a stored body is shorter than its head says")
            offset += len(chunk)
            left -= len(chunk)
            yield chunk


Piece = bytes | FileRange
Body = bytes | AsyncIterator[Piece]


class Request:
    """A viewer's request, its head complete.

    `target` is the raw origin-form target as sent; `host` the Host header's value as sent, with its port if it
    names one. `body` is None if the request has none, else an async iterator over its chunks; `length` is the
    body's Content-Length, or None if chunked or absent. `client_ip` is the viewer's address (behind a trusted
    proxy: the one that the proxy names), `scheme` the viewer's. `tls` is the protocol and the cipher of the connection,
    in OpenSSL's names, or None if it has none. `upgrade` is `websocket.WEBSOCKET` for an opening handshake, a text for
    the log for an upgrade that is passed over, else empty (`websocket.upgrade_of`).
    """

    __slots__ = (
        "body",
        "client_ip",
        "client_port",
        "cookie",
        "headers",
        "host",
        "length",
        "method",
        "scheme",
        "target",
        "tls",
        "upgrade",
        "version",
        "wire_bytes",
    )

    def __init__(
        self,
        method: str,
        target: str,
        host: str,
        headers: Headers,
        scheme: str = "http",
        client_ip: str = "127.0.0.1",
        client_port: int = 0,
        version: str = "1.1",
        cookie: str = "",
        body: AsyncIterator[bytes] | None = None,
        length: int | None = None,
        wire_bytes: int = 0,
        tls: tuple[str, str] | None = None,
        upgrade: str = "",
    ) -> None:
        self.method = method
        self.target = target
        self.host = host
        self.headers = headers
        self.scheme = scheme
        self.client_ip = client_ip
        self.client_port = client_port
        self.version = version
        self.cookie = cookie
        self.body = body
        self.length = length
        self.wire_bytes = wire_bytes
        self.tls = tls
        self.upgrade = upgrade

    def header(self, name: bytes) -> bytes | None:
        """The first header of that lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Reply:
    """An answer ready for a shell to write. `headers` lacks only framing and the edge's own identity headers.

    `body` is bytes, or an async iterator of pieces with `length` its size in bytes if that is known.
    `x_cache` is the word before " from cloudfront", `detail` CloudFront's x-edge-detailed-result-type,
    `reason` a denial's or refusal's name for the log. `upstream` is the origin's side of a WebSocket, with status 101
    only: who gets the reply opens a tunnel to it or ends it.
    """

    __slots__ = ("body", "detail", "headers", "length", "reason", "status", "upstream", "x_cache")

    def __init__(
        self,
        status: int,
        headers: Headers,
        body: Body = b"",
        *,
        length: int | None = None,
        x_cache: str = "Error",
        detail: str = "",
        reason: str = "",
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.length = length if length is not None or not isinstance(body, bytes) else len(body)
        self.x_cache = x_cache
        self.detail = detail or x_cache
        self.reason = reason
        self.upstream: Upstream | None = None


class Plan:
    """Where a request leads, whoever sent it: shared by all requests alike, never changed.

    `key` is the cache key before the headers, cookies and parameters that the behavior selects are added to it
    (None: pass through), `target` the path and query to ask the origin for (OriginPath still to be put before it,
    signing parameters gone), `query` the viewer's own query string. `grant` is what the credentials in this very
    URL allow, if it carries any; it is judged again at each use. `ready` and what comes with it are the quick way's own
    (`quick`): how long the path is, and until when (epoch seconds) there is no grant
    to be judged.
    """

    __slots__ = ("grant", "key", "path_length", "query", "ready", "route", "target", "until")

    def __init__(self, route: Route, key: str | None, target: str, query: str, grant: Grant | None) -> None:
        self.route = route
        self.key = key
        self.target = target
        self.query = query
        self.grant = grant
        self.ready: Ready | None = None
        self.path_length = 0
        self.until = 0.0


class Meta:
    """All that is known of a stored response except its body; made by `freshness.admit`, never changed.

    `headers` are end-to-end headers as the viewer may see them, without Age, Via, X-Cache and the like; `date` is the
    response's Date as epoch seconds. A response is fresh until `fresh_until`; it may be served stale while being
    revalidated until `swr_until`, and on an origin's error until `sie_until` (infinity where CloudFront serves
    stale without being asked to). `initial_age` seconds had passed when it was stored at `stored_at`.
    `vary` names the request headers (as forwarded, lower-case) whose values are `vary_values`.
    `revalidate_always` marks what is stored but must be asked for anew at each use; `conditional` says whether the
    origin may be asked with conditions made from `etag` and `last_modified`. These are the origin's own; `coding` is
    what the edge has made of the body since (`compress`: empty, `identity`, `gzip`, `br`).
    `snapshot` is the number of the snapshot that the edge obeyed when it asked the origin: later snapshots'
    invalidations end the response, whichever tier it is kept in (`Routing.ended`). 0 is before them all. `tags` are the
    cache tags that the origin gave it, in lower case (`invalidation.cache_tags`).
    """

    __slots__ = (
        "coding",
        "conditional",
        "date",
        "etag",
        "fresh_until",
        "headers",
        "initial_age",
        "last_modified",
        "length",
        "reason",
        "revalidate_always",
        "sie_until",
        "snapshot",
        "status",
        "stored_at",
        "swr_until",
        "tags",
        "vary",
        "vary_values",
    )

    def __init__(
        self,
        status: int,
        headers: tuple[Header, ...],
        *,
        stored_at: float,
        fresh_until: float,
        date: float,
        initial_age: float = 0.0,
        length: int | None = None,
        etag: bytes | None = None,
        last_modified: bytes | None = None,
        swr_until: float = 0.0,
        sie_until: float = 0.0,
        revalidate_always: bool = False,
        conditional: bool = False,
        vary: tuple[bytes, ...] = (),
        vary_values: tuple[bytes, ...] = (),
        reason: str = "",
        coding: bytes = b"",
        snapshot: int = 0,
        tags: tuple[str, ...] = (),
    ) -> None:
        self.status = status
        self.headers = headers
        self.stored_at = stored_at
        self.fresh_until = fresh_until
        self.date = date
        self.initial_age = initial_age
        self.length = length
        self.etag = etag
        self.last_modified = last_modified
        self.swr_until = swr_until
        self.sie_until = sie_until
        self.revalidate_always = revalidate_always
        self.conditional = conditional
        self.vary = vary
        self.vary_values = vary_values
        self.reason = reason
        self.coding = coding
        self.snapshot = snapshot
        self.tags = tags


ROUNDING: Final = 0.001
"""Seconds that every age is longer, so that the rounding of a difference of two times cannot take a second from it."""


def born(meta: Meta) -> float:
    """When the origin made the response, in epoch seconds, as Age counts it (RFC 9111 §4.2.3)."""
    return meta.stored_at - meta.initial_age - ROUNDING


class Slices:
    """How a body too large to be held whole is stored: cut into pieces of `size` bytes, the last one shorter, each
    stored for itself or not.

    `total` is the body's length, None while a body of unknown length still comes. `generation` tells this body's slices
    from those of any other that was or will be stored under `key`. `validator` is what the origin's answers are held
    to when a missing slice is asked for: a strong entity tag, or a Last-Modified that counts as strong (RFC 9110
    §8.8.2.2); with None, or if the origin does not do ranges (`ranged`), slices that are lost stay lost.
    """

    __slots__ = ("generation", "key", "ranged", "size", "total", "validator")

    def __init__(
        self, key: str, total: int | None, size: int, generation: str, validator: bytes | None, ranged: bool
    ) -> None:
        self.key = key
        self.total = total
        self.size = size
        self.generation = generation
        self.validator = validator
        self.ranged = ranged

    def name(self, index: int) -> str:
        """The key of one slice. No other key ends like this: see `forward.key_suffix`."""
        return f"{self.key}\ns{self.generation}:{index}"

    def length(self, index: int) -> int:
        """Bytes of one slice."""
        return self.size if self.total is None else min(self.size, self.total - index * self.size)


class Stored:
    """A response in the cache: its `meta` and its whole `body`, or, if that is too large, how it is sliced.

    `head` is the ready-made start of its bytes on an HTTP/1.1 connection, filled by the shell that first serves it, and
    `policed` the last one that a response headers policy made of it, with that policy and what it saw of the request;
    `used` is set at every hit and cleared when eviction passes by; `size` is what it is charged for, in bytes. Until
    `quick_until` (epoch seconds) it may go out as it is to whoever asks for its key without conditions: never, if it
    varies or is no 200. The origin was asked for it at `asked`, and it was stored at `written`: nanoseconds of the
    machine's monotonic clock, by which all workers order what they store and remove (`removals`).
    """

    __slots__ = (
        "asked",
        "body",
        "born",
        "head",
        "key",
        "meta",
        "policed",
        "quick_until",
        "size",
        "slices",
        "used",
        "written",
    )

    def __init__(self, key: str, meta: Meta, body: bytes, slices: Slices | None = None) -> None:
        self.key = key
        self.meta = meta
        self.body = body
        self.slices = slices
        self.asked = self.written = 0
        self.head: bytes = b""
        self.policed: tuple[ResponseHeaders, bytes, bytes] | None = None
        self.born = born(meta)
        self.quick_until = meta.fresh_until if meta.status == 200 and not meta.vary else 0.0
        self.used = False
        # The key stands in several tables, and the headers once more in `head`.
        self.size = (
            len(body)
            + 2 * len(key)
            + sum([2 * (len(name) + len(value)) + 170 for name, value in meta.headers])
            + sum([len(value) + 100 for value in meta.vary_values])
            + sum([len(tag) + 60 for tag in meta.tags])
            + 1000
        )

    @property
    def length(self) -> int | None:
        """Bytes of the whole body; None while one of unknown length still comes."""
        return len(self.body) if self.slices is None else self.slices.total

    def renewed(self, meta: Meta) -> Stored:
        """The same body under another meta."""
        return Stored(self.key, meta, self.body, self.slices)


class OriginReply:
    """An origin's final answer, its head complete: `body` yields chunks as they arrive (with back-pressure) and
    raises OriginFailure if the origin breaks off. `aclose()` gives the connection up, or back if the body is read.

    `length` is Content-Length if the body is framed by it; `sized` is False for a body that ends with the
    connection, which may therefore be cut short without notice (CloudFront stores it all the same, §5.9).
    `whole` is the entire body if it came with the head, as small ones do: take it and leave `body` alone, no
    `aclose()` is needed then. It is None if the body is still on its way. `told` is what an Origin Shield says of it,
    if it came from there. `upstream` is the connection of a WebSocket that the origin has accepted with its 101.
    """

    __slots__ = (
        "body",
        "connect_time",
        "headers",
        "length",
        "reason",
        "sized",
        "status",
        "told",
        "upstream",
        "whole",
    )

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers,
        body: AsyncIterator[bytes],
        *,
        length: int | None = None,
        sized: bool = True,
        connect_time: float = 0.0,
        whole: bytes | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body
        self.length = length
        self.sized = sized
        self.connect_time = connect_time
        self.whole = whole
        self.told: Told | None = None
        self.upstream: Upstream | None = None

    async def aclose(self) -> None:
        close = getattr(self.body, "aclose", None)
        if close is not None:
            await close()
