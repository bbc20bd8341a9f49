"""The request parser: turns bytes into requests, with llhttp (httptools) in strict mode and the rules that llhttp
leaves to its caller.

The parser reports to a `RequestSink` each request that it accepts, in order, or the name of the one refusal that ends
the connection. It decides what is a valid request. It does not know which time limits apply or when a request is
answered. A request with a body is reported when its head is complete, any other request when the whole message is.

llhttp calls this object's `on_...` methods, one call per header line. These calls make up most of the cost of parsing a
request, so the head is collected here in a single pass instead of being handed from object to object.
"""

from __future__ import annotations

import logging
from enum import IntEnum
from typing import Any, Final, NoReturn, Protocol

import httptools

from keyfront.edge.http.request_body import Body, FlowControl
from keyfront.edge.http.request_target import (
    MAX_DIGITS,
    MAX_HEAD,
    MAX_TARGET,
    NOTED,
    absolute_target,
    host_text,
    parse_host,
)
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.semantics.header_limits import MAX_LINES_OF_ONE, too_many_lines
from keyfront.edge.semantics.websocket import WEBSOCKET, upgrade_of
from keyfront.edge.serving.fast_path import Caller
from keyfront.edge.types.messages import Headers, Request

logger = logging.getLogger("keyfront.edge")

MAX_EARLY: Final = 64 * 1024
"""Bytes after a WebSocket handshake, before its response, above which the viewer is no longer read."""


class RequestSink(FlowControl, Protocol):
    """Receives the requests of one connection."""

    def accept(self, request: Request, keep_alive: bool, body: Body | None) -> None:
        """Accept the next request.

        :param keep_alive: false for the last request of the connection.
        :param body: the body that is still to arrive, if there is one; it is `request.body`.
        """

    def refuse(self, reason: str) -> None:
        """Handle a refusal: the viewer sent an unacceptable request, or the framing of the last request's body is
        invalid. No request follows.

        :param reason: the name of the refusal; `error_pages.refused` has the response.
        """


class Stage(IntEnum):
    """The parser's position in the stream of messages."""

    BETWEEN = 0
    """Between two messages."""
    BLANK_LINES = 1
    """Blank lines arrived before a request line (RFC 9112 §2.2): they count as part of the next head."""
    HEAD = 2
    BODY = 3
    SWITCHING = 4
    """A WebSocket handshake has no response yet: what follows it is buffered, not parsed."""
    ENDED = 5
    """The last request is complete, or one was refused: nothing more is parsed."""


BETWEEN: Final = Stage.BETWEEN
BLANK_LINES: Final = Stage.BLANK_LINES
HEAD: Final = Stage.HEAD
BODY: Final = Stage.BODY
SWITCHING: Final = Stage.SWITCHING
ENDED: Final = Stage.ENDED


class _Refused(Exception):
    """Stops llhttp after a refusal."""


class RequestParser:
    """Parses the requests of one connection.

    `stage` is the parser's position. `body` is the body that is arriving or that failed, else None. `head_since` is the
    loop's time in seconds at which the current head began to arrive; the connection resets it after a time in which the
    viewer had to wait for the edge. `early` is what arrived after a WebSocket handshake that has no response yet, else
    None.

    :param caller: the peer.
    :param scheme: the listener's scheme, which applies unless a trusted proxy names another.
    :param proxies: set if the peer is a trusted proxy.
    """

    __slots__ = (
        "_caller",
        "_head_bytes",
        "_headers",
        "_keep_alive",
        "_llhttp",
        "_now",
        "_proxies",
        "_request",
        "_scheme",
        "_sink",
        "_target",
        "_unparsed",
        "body",
        "early",
        "head_since",
        "stage",
    )

    def __init__(
        self, sink: RequestSink, caller: Caller, scheme: str, proxies: TrustedProxies | None
    ) -> None:
        self._sink = sink
        self._caller = caller
        self._scheme = scheme
        self._proxies = proxies
        self._llhttp: Any = httptools.HttpRequestParser(self)
        self._now = 0.0
        self._target = b""
        self._headers: Headers = []
        self._head_bytes = 0  # since the end of the last message
        self._keep_alive = True
        self._request: Request | None = None  # its head is complete, but the message is not
        self._unparsed = 0  # remaining bytes of a body that llhttp does not parse
        self.stage = BETWEEN
        self.body: Body | None = None
        self.early: bytearray | None = None
        self.head_since = 0.0

    def feed(self, data: bytes | memoryview, now: float) -> None:
        """Parse what the viewer sent.

        :param now: the loop's time, in seconds.
        """
        self._now = now
        if self.stage >= SWITCHING:
            self._keep_early(data)
            return
        self._head_bytes += len(data)
        body = self.body
        if self._unparsed:
            data = self._feed_unparsed(data)
            self._head_bytes = len(data)
        while True:
            try:
                self._llhttp.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # llhttp treats every upgrade as a protocol switch. An upgrade to WebSocket waits for its response. Any
                # other is ignored (RFC 9110 §7.8): the edge reads its body itself and parses what follows as HTTP.
                data = memoryview(data)[upgrade.args[0] :]
                if self.stage >= SWITCHING:
                    self._keep_early(data)
                    return
                self._llhttp = httptools.HttpRequestParser(self)
                if self._unparsed:
                    data = self._feed_unparsed(data)
                    if self.stage is ENDED:
                        return
            except httptools.HttpParserError as error:
                self._failed(error)
                return
            else:
                break
        stage = self.stage
        if stage is HEAD:
            if self._head_bytes > MAX_HEAD:
                self._refuse("too_large")
        elif stage is BODY:
            self._head_bytes = 0
            if body is not None and body is self.body:
                body.wire += len(data)
                if body.wire > 2 * MAX_HEAD + 16 * body.total:
                    self._refuse("too_large")  # endless chunk extensions or an endless trailer section
        elif self._head_bytes:  # data in which no message began or ended
            if self._head_bytes > MAX_HEAD:
                self._refuse("too_large")
            elif stage is BETWEEN:
                self.stage = BLANK_LINES
                self.head_since = now

    def _feed_unparsed(self, data: bytes | memoryview) -> memoryview:
        """Read the body of a request whose upgrade is ignored. Returns what follows it."""
        chunk = bytes(data[: self._unparsed])
        self._unparsed -= len(chunk)
        if self.body is not None and chunk:
            self.body.feed(chunk)
            if not self._unparsed:
                self.body.end()
                self.body = None
                self.stage = BETWEEN if self._keep_alive else ENDED
        return memoryview(data)[len(chunk) :]

    def _keep_early(self, data: bytes | memoryview) -> None:
        if self.early is not None:
            self.early += data
            if len(self.early) > MAX_EARLY:
                self._sink.pause_reading("early")

    def resume(self) -> bool:
        """Continue with HTTP after a WebSocket handshake that was not accepted. Returns False if the viewer has sent
        anything since. Such data was meant for a WebSocket, or for a server that takes it for one, so neither the data
        nor what follows may be parsed as a request."""
        if self.early:
            return False
        self.early = None
        self._llhttp = httptools.HttpRequestParser(self)
        self.stage = BETWEEN if self._keep_alive else ENDED
        return True

    def refused_request(self) -> Request:
        """What is known of the refused request, for its access record."""
        caller = self._caller
        return Request(
            "-",
            self._target[:MAX_TARGET].decode("latin-1") or "-",
            "",
            [],
            scheme=self._scheme,
            client_ip=caller.address,
            client_port=caller.port,
            tls=caller.tls,
            connection=caller.number,
        )

    def close(self) -> None:
        """Release the connection. llhttp references this object, and so does the connection: the cycle would keep them
        alive."""
        if self.body is not None:
            self.body.fail()
            self.body = None
        self._request = None
        del self._llhttp, self._sink

    def _refuse(self, reason: str) -> None:
        self.stage = ENDED
        self._sink.refuse(reason)

    def _failed(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if isinstance(cause, _Refused):
            return
        if isinstance(error, httptools.HttpParserCallbackError):
            logger.error("a request could not be handled", exc_info=cause)
        elif self.stage is ENDED:
            return  # anything after the last request is ignored
        self._refuse("bad_request")

    # -- llhttp's callbacks ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.stage is not BLANK_LINES:
            self.head_since = self._now
        self.stage = HEAD
        self._target = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.stage is HEAD:  # all others are trailers, which are dropped
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Turn the head into a request, or refuse it.

        :raises _Refused: if it is refused.
        """
        parser = self._llhttp
        headers = self._headers
        keep_alive = parser.should_keep_alive()
        raw_host: bytes | None = None
        cookies: list[bytes] = []
        length: int | None = None
        has_body = expects = bad = names_connection = names_upgrade = False
        method = parser.get_method().decode()
        size = len(method) + len(self._target) + len("  HTTP/1.1\r\n\r\n")
        for name, value in headers:
            size += len(name) + len(value) + 4
            if name not in NOTED:
                continue
            if name == b"host":
                bad = bad or raw_host is not None
                raw_host = value
            elif name == b"cookie":
                cookies.append(value)
            elif name == b"connection":
                names_connection = True
            elif name == b"upgrade":
                names_upgrade = True
            elif name == b"content-length":
                # llhttp accepts only digits, up to 64 bits, but any number of leading zeros.
                length = int(value) if len(value) <= MAX_DIGITS else -1
                bad = bad or length < 0
                has_body = length > 0
            elif name == b"transfer-encoding":
                # Others may frame anything but a plain `chunked` differently (RFC 9112 §6.1, §6.3).
                bad = bad or has_body or value.strip(b" \t").lower() != b"chunked"
                has_body = True
            else:
                expects = True
        # Only HTTP/1.1 keeps a connection open by default; asking the parser for the version is expensive.
        version = "1.1" if keep_alive and not names_connection else parser.get_http_version()
        target = self._target.decode("ascii")
        if size > MAX_HEAD or len(target) > MAX_TARGET:
            self._refuse_head("too_large")
        if len(headers) > MAX_LINES_OF_ONE and too_many_lines(headers):
            self._refuse_head("too_many_headers")
        if not target.startswith("/"):
            bad = bad or (raw_host is None and version == "1.1")  # required even where it is ignored
            raw_host, target = absolute_target(target, raw_host)
        host = parse_host.get(raw_host) or host_text(raw_host)
        upgrades = names_connection and parser.should_upgrade()
        if (
            bad
            or not host
            or "#" in target
            or (target == "*" and method != "OPTIONS")
            or version not in ("1.1", "1.0")
            or (has_body and length is None and (upgrades or version == "1.0"))
        ):
            self._refuse_head("bad_request")
        caller = self._caller
        scheme, client = self._scheme, caller.address
        if self._proxies is not None:
            client, scheme, headers = self._proxies.viewer(client, headers, scheme)
        if expects and any(n == b"expect" and v.strip(b" \t").lower() != b"100-continue" for n, v in headers):
            self._refuse_head("expectation_failed")
        body = Body(self._sink, awaited=expects and version == "1.1") if has_body else None
        if method == "CONNECT":
            keep_alive = False  # what follows would be meant for the other protocol
        elif upgrades and length is not None:
            self._unparsed = length
        upgrade = ""
        if names_upgrade:
            upgrade = upgrade_of(method, version, headers, named=upgrades, has_body=has_body)
            if upgrade == WEBSOCKET:
                self.early = bytearray()
        request = Request(
            method,
            target,
            host,
            headers,
            scheme,
            client,
            caller.port,
            version,
            b"; ".join(cookies).decode("latin-1") if cookies else "",
            body,
            length,
            size,
            caller.tls,
            upgrade,
            caller.number,
        )
        self._keep_alive = keep_alive
        self.stage = BODY
        if body is None:
            self._request = request
        else:
            self.body = body
            self._sink.accept(request, keep_alive, body)

    def _refuse_head(self, reason: str) -> NoReturn:
        self._refuse(reason)
        raise _Refused

    def on_body(self, chunk: bytes) -> None:
        if self.body is not None:
            self.body.feed(chunk)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        if self._unparsed:
            return  # the message ends with the body that llhttp does not parse
        self.stage = BETWEEN if self._keep_alive else ENDED
        request = self._request
        if request is not None:
            self._request = None
            if self.early is not None:
                self.stage = SWITCHING
            self._sink.accept(request, self._keep_alive, None)
        elif self.body is not None:
            self.body.end()
            self.body = None
