"""The server's side of one HTTP/2 connection (RFC 9113), without input and output: bytes in, events and bytes out.

`Session` parses frames, keeps the state of streams, flow control, and header compression, and calls its sink for each
request, chunk of a body, and end of a stream. It never waits. What it has to send collects in `output`.

A peer costs what it sends, at most times a constant:

- A header block is bounded in bytes, also while it arrives in CONTINUATION frames, and so is their number.
- The peer may open `STREAMS` streams at once. A stream counts until its response has ended here, even after the peer
  has reset it: opening and resetting streams in a loop gains nothing (CVE-2023-44487).
- Frames that carry nothing (SETTINGS, PING, PRIORITY, WINDOW_UPDATE, RST_STREAM, empty DATA, unknown types) draw on a
  budget, which requests and bytes of bodies refill. A peer that exhausts it is disconnected.
- What must be sent in reply to such frames is bounded by that budget too, whether or not the peer reads it.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final, Protocol

from keyfront.edge.http.hpack import Codec, DecodingError, OversizedError, split
from keyfront.edge.types.messages import Headers

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAMS: Final = 128
"""Streams that a peer may have open at once."""
FRAME: Final = 16384
"""Largest payload of a frame in either direction, in bytes: the minimum that every peer accepts (RFC 9113 §4.2)."""
BLOCK: Final = 64 * 1024
"""Largest header block in bytes, before and after decompression. A request may have 20,480; the rest tells a peer that
exceeds this a little from one that floods."""
CONTINUATIONS: Final = 8
"""Most CONTINUATION frames of one header block."""
BUDGET: Final = 1000
"""Frames that carry nothing which a peer may send ahead of its requests."""
REFILL: Final = 20
"""Such frames for which each request, and each 16 KiB of a body, pays."""
WINDOW: Final = 65535
"""The initial flow-control window in bytes (RFC 9113 §6.9.2)."""
STREAM_WINDOW: Final = 256 * 1024
CONNECTION_WINDOW: Final = 1024 * 1024
"""Bytes of request bodies that may wait for the origin: of one stream, and of all streams of a connection."""
LARGEST: Final = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = range(5, 9)
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11

_HEADER_TABLE_SIZE, _ENABLE_PUSH, _CONCURRENT, _INITIAL_WINDOW, _FRAME_SIZE, _LIST_SIZE = range(1, 7)

_FRAME_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_WORD = struct.Struct(">I")


class ConnectionFault(Exception):
    """The peer violates the protocol, or floods: the connection must end. `code` is an HTTP/2 error code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Stream:
    """One request and its response.

    `window` is how many bytes of the response may be sent; `receiving`, whether more of the request is to come;
    `received`, the bytes of its body so far. `sending` is false once the response has ended.
    """

    __slots__ = ("expected", "id", "received", "receiving", "reset", "sending", "unacknowledged", "window")

    def __init__(self, id_: int, window: int) -> None:
        self.id = id_
        self.window = window
        self.receiving = True
        self.received = 0
        self.expected = -1  # the announced length of the body
        self.sending = True
        self.reset = False  # by either side
        self.unacknowledged = 0  # bytes of the body that were passed on, and for which no window was returned


class Sink(Protocol):
    """What a session calls while it parses."""

    def repeated(self, id_: int, section: bytes, path: bytes) -> bool:
        """A request without a body. `section` stands for its header list without the path, `path` is the path as it is
        encoded (`hpack.split`). Returns whether the sink knows both, and has called `open`. Otherwise the request is
        decoded."""

    def request(self, stream: Stream, headers: Headers, ended: bool, section: bytes) -> None:
        """A request. `ended`: it has no body. Later requests may be `repeated` with the same `section`, for any path,
        unless it is empty."""

    def body(self, stream: Stream, data: bytes) -> None:
        """A chunk of a request's body."""

    def end(self, stream: Stream) -> None:
        """The end of a request's body."""

    def gone(self, stream: Stream) -> None:
        """The peer has reset the stream: no response is wanted any more."""

    def room(self) -> None:
        """More of the responses may be sent."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _FRAME_HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


class Session:
    """One connection's state. `output` are the pieces to send, with `pending` bytes of bodies: see `taken`.

    :param about: what else, besides the header blocks, decides what a `section` stands for.
    """

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_stream",
        "_budget",
        "_buffer",
        "_codec",
        "_continuations",
        "_last_peer",
        "_peer_frame",
        "_peer_window",
        "_received",
        "_refilled",
        "_reset",
        "_sink",
        "_started",
        "closing",
        "output",
        "pending",
        "streams",
        "window",
    )

    def __init__(self, sink: Sink, about: bytes = b"") -> None:
        self._sink = sink
        self._buffer = bytearray()
        self._started = False
        self._codec = Codec(BLOCK, about)
        self._block: bytearray | None = None  # a header block that is not complete
        self._block_stream = 0
        self._block_flags = 0
        self._continuations = 0
        self._last_peer = 0  # the highest stream of the peer
        self._peer_window = WINDOW  # for new streams, in the direction of the peer
        self._peer_frame = FRAME
        self._budget = BUDGET
        self._refilled = 0  # bytes of bodies that have not paid for anything yet
        self._received = 0  # bytes of bodies for which no window of the connection was returned
        self.window = WINDOW
        self.streams: dict[int, Stream] = {}
        self._reset: deque[int] = deque(maxlen=STREAMS)  # streams that this side has reset lately
        self.closing = False
        self.pending = 0
        settings = b"".join(
            _SETTING.pack(name, value)
            for name, value in (
                (_CONCURRENT, STREAMS),
                (_INITIAL_WINDOW, STREAM_WINDOW),
                (_LIST_SIZE, BLOCK),
                (_HEADER_TABLE_SIZE, 4096),
            )
        )
        self.output: list[bytes] = [
            frame(SETTINGS, 0, 0, settings),
            frame(WINDOW_UPDATE, 0, 0, _WORD.pack(CONNECTION_WINDOW - WINDOW)),
        ]

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """:raises ConnectionFault: if the connection must end. `goaway` says why to the peer."""
        buffer = self._buffer
        if buffer:
            buffer += data
            if self._started and (len(buffer) < 9 or len(buffer) - 9 < _length(buffer) <= FRAME):
                return
            data = bytes(buffer)
            buffer.clear()
        at = 0
        if not self._started:
            if not data.startswith(PREFACE):
                if not PREFACE.startswith(data):
                    raise ConnectionFault(PROTOCOL_ERROR, "no preface")
                buffer += data
                return
            at = len(PREFACE)
            self._started = True
        size = len(data)
        while size - at >= 9:
            high, low, kind, flags, stream = _FRAME_HEAD.unpack_from(data, at)
            end = at + 9 + (high << 8 | low)
            if end - at - 9 > FRAME:
                raise ConnectionFault(FRAME_SIZE_ERROR, "a frame is too large")
            if end > size:
                break
            self._frame(kind, flags, stream & LARGEST, data[at + 9 : end])
            at = end
        if at < size:
            buffer += data[at:]

    def _frame(self, kind: int, flags: int, id_: int, payload: bytes) -> None:
        if self._block is not None:
            if kind != CONTINUATION or id_ != self._block_stream:
                raise ConnectionFault(PROTOCOL_ERROR, "a header block is interrupted")
            self._continue(flags, payload)
        elif kind == HEADERS:
            self._headers(flags, id_, payload)
        elif kind == DATA:
            self._data(flags, id_, payload)
        else:
            self._spend()
            if kind == WINDOW_UPDATE:
                self._window_update(id_, payload)
            elif kind == RST_STREAM:
                self._rst_stream(id_, payload)
            elif kind == SETTINGS:
                self._settings(flags, id_, payload)
            elif kind == PING:
                if id_ or len(payload) != 8:
                    raise ConnectionFault(PROTOCOL_ERROR if id_ else FRAME_SIZE_ERROR, "PING")
                if not flags & ACK:
                    self.output.append(frame(PING, ACK, 0, payload))
            elif kind == GOAWAY:
                if id_:
                    raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY on a stream")
                self.closing = True
            elif kind == PRIORITY:
                if not id_ or len(payload) != 5:
                    raise ConnectionFault(FRAME_SIZE_ERROR if id_ else PROTOCOL_ERROR, "PRIORITY")
            elif kind in (PUSH_PROMISE, CONTINUATION):
                raise ConnectionFault(PROTOCOL_ERROR, "a frame that no client may send here")

    def _spend(self) -> None:
        self._budget -= 1
        if self._budget < 0:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames without content")

    def _earn(self) -> None:
        self._budget = min(BUDGET, self._budget + REFILL)

    def _headers(self, flags: int, id_: int, payload: bytes) -> None:
        if not id_ & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "a request on a stream of the server's")
        payload = _unpadded(flags, payload)
        if flags & WITH_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS")
            if _WORD.unpack_from(payload)[0] & LARGEST == id_:
                raise ConnectionFault(PROTOCOL_ERROR, "a stream depends on itself")
            payload = payload[5:]
        self._block_stream, self._block_flags = id_, flags
        if flags & END_HEADERS:
            self._block_complete(payload)
        else:
            self._block, self._continuations = bytearray(payload), 0

    def _continue(self, flags: int, payload: bytes) -> None:
        assert self._block is not None  # noqa: S101 - the caller has checked it
        self._block += payload
        self._continuations += 1
        if len(self._block) > BLOCK or self._continuations > CONTINUATIONS:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), None
            self._block_complete(block)

    def _block_complete(self, block: bytes) -> None:
        id_, ended = self._block_stream, bool(self._block_flags & END_STREAM)
        codec, section = self._codec, b""
        if ended and id_ > self._last_peer and not self.closing and len(self.streams) < STREAMS:
            rest, path = split(block)
            if path:
                section = codec.state + rest
                if self._sink.repeated(id_, section, path):
                    return
        try:
            headers, unchanged = codec.decode(block)
        except OversizedError as error:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header list is too large") from error
        except DecodingError as error:
            raise ConnectionFault(
                COMPRESSION_ERROR, f"a header block cannot be decompressed: {error}"
            ) from error
        if not unchanged:
            section = b""
        stream = self.streams.get(id_)
        if stream is not None:
            self._trailers(stream, ended)
            return
        if id_ in self._reset:
            self._spend()  # trailers that were on their way when the stream was reset (RFC 9113 §5.1)
            return
        if id_ <= self._last_peer:
            raise ConnectionFault(STREAM_CLOSED, "HEADERS on a closed stream")
        if self.closing or len(self.streams) >= STREAMS:
            self._last_peer = id_
            self._spend()
            self.output.append(frame(RST_STREAM, 0, id_, _WORD.pack(REFUSED_STREAM)))
            return
        stream = self.open(id_, receiving=not ended)
        self._sink.request(stream, headers, ended, section)

    def open(self, id_: int, *, receiving: bool = False) -> Stream:
        """Begin a stream for a request."""
        self._last_peer = id_
        self._earn()
        stream = self.streams[id_] = Stream(id_, self._peer_window)
        stream.receiving = receiving
        return stream

    def _trailers(self, stream: Stream, ended: bool) -> None:
        """Trailers are dropped; they must end the request."""
        if stream.reset:
            self._spend()
        elif not stream.receiving or not ended:
            self._spend()
            self.reset(stream, STREAM_CLOSED if not stream.receiving else PROTOCOL_ERROR)
            self._sink.gone(stream)
        else:
            self._body_ended(stream)

    def _data(self, flags: int, id_: int, payload: bytes) -> None:
        if not id_ or id_ > self._last_peer:
            raise ConnectionFault(PROTOCOL_ERROR, "DATA on an idle stream")
        size = len(payload)
        self._received += size
        if self._received > CONNECTION_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data than the window of the connection")
        data = _unpadded(flags, payload)
        if data:
            self._refilled += len(data)
            while self._refilled >= FRAME:
                self._refilled -= FRAME
                self._earn()
        if not data and not flags & END_STREAM:
            self._spend()
        stream = self.streams.get(id_)
        if stream is None or stream.reset or not stream.receiving:
            self._return(None, size)  # it was on its way when the stream was reset
            if stream is not None and not stream.reset and not stream.receiving:
                self._spend()
                self.reset(stream, STREAM_CLOSED)
                self._sink.gone(stream)
            return
        stream.unacknowledged += size
        if stream.unacknowledged > STREAM_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data than the window of the stream")
        stream.received += len(data)
        if 0 <= stream.expected < stream.received:
            self._wrong_length(stream)
            return
        if data:
            self._sink.body(stream, data)
        if size > len(data):
            self._return(stream, size - len(data))
        if flags & END_STREAM:
            self._body_ended(stream)

    def _body_ended(self, stream: Stream) -> None:
        stream.receiving = False
        if stream.expected >= 0 and stream.received != stream.expected:
            self._wrong_length(stream)
            return
        self._sink.end(stream)
        self._forget(stream)

    def _wrong_length(self, stream: Stream) -> None:
        """The body differs from its Content-Length (RFC 9113 §8.1.1)."""
        self._spend()
        self.reset(stream, PROTOCOL_ERROR)
        self._sink.gone(stream)

    def consumed(self, stream: Stream, size: int) -> None:
        """So many bytes of the stream's body have been passed on: the peer may send as many more."""
        self._return(stream, size)

    def _return(self, stream: Stream | None, size: int) -> None:
        self._received -= size
        if size:
            self.output.append(frame(WINDOW_UPDATE, 0, 0, _WORD.pack(size)))
        if stream is not None:
            stream.unacknowledged -= size
            if size and stream.receiving and not stream.reset:
                self.output.append(frame(WINDOW_UPDATE, 0, stream.id, _WORD.pack(size)))

    def _window_update(self, id_: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE")
        increment = _WORD.unpack(payload)[0] & LARGEST
        if increment >= 1024:  # a peer that reads a large response must send many; small ones are a nuisance
            self._budget += 1
        if not id_:
            if not increment:
                raise ConnectionFault(PROTOCOL_ERROR, "an increment of 0")
            self.window += increment
            if self.window > LARGEST:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the window is too large")
            self._sink.room()
            return
        if id_ > self._last_peer:
            raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
        stream = self.streams.get(id_)
        if stream is None or stream.reset:
            return
        stream.window += increment
        if not increment or stream.window > LARGEST:
            self.reset(stream, FLOW_CONTROL_ERROR if increment else PROTOCOL_ERROR)
            self._sink.gone(stream)
            return
        self._sink.room()

    def _rst_stream(self, id_: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM")
        if not id_ or id_ > self._last_peer:
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        stream = self.streams.get(id_)
        if stream is not None and not stream.reset:
            self._budget -= REFILL  # what its request has earned
            stream.reset = True
            stream.receiving = False
            self._sink.gone(stream)

    def _settings(self, flags: int, id_: int, payload: bytes) -> None:
        if id_:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS")
            return
        if len(payload) % 6 or len(payload) > 6 * 64:
            raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS")
        table_sizes: list[int] = []
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW:
                if value > LARGEST:
                    raise ConnectionFault(FLOW_CONTROL_ERROR, "the window is too large")
                change = value - self._peer_window
                self._peer_window = value
                for stream in self.streams.values():
                    stream.window += change
                    if stream.window > LARGEST:
                        raise ConnectionFault(FLOW_CONTROL_ERROR, "the window is too large")
            elif name == _FRAME_SIZE:
                if not FRAME <= value < 1 << 24:
                    raise ConnectionFault(PROTOCOL_ERROR, "a frame size out of range")
            elif name == _ENABLE_PUSH:
                if value > 1:
                    raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH")
            elif name == _HEADER_TABLE_SIZE:
                table_sizes.append(min(value, 4096))
        if table_sizes:
            self._codec.resize(table_sizes)
        self.output.append(frame(SETTINGS, ACK, 0, b""))
        self._sink.room()

    def taken(self) -> bytes:
        """What is to be sent, which the caller now sends."""
        data = b"".join(self.output)
        self.output.clear()
        self.pending = 0
        return data

    # -- sending -------------------------------------------------------------------------------------------------------

    def room_of(self, stream: Stream) -> int:
        """Bytes of its response that may be sent now."""
        return max(min(self.window, stream.window), 0)

    def head(self, stream: Stream, status: int, headers: Headers, *, ended: bool) -> int:
        """Send the head of a response. Returns its size in bytes."""
        block = self._codec.encode([(b":status", b"%d" % status), *headers])
        self._head(stream.id, block, ended=ended)
        if ended:
            self._sent(stream)
        return 9 + len(block)

    def respond(self, stream: Stream, block: bytes, body: bytes) -> None:
        """Send a whole response.

        :param block: the head, encoded with `hpack.literals`.
        :param body: not more than `room_of` the stream.
        """
        self._head(stream.id, self._codec.announced(block), ended=not body)
        if body:
            self.data(stream, body, ended=True)
        else:
            self._sent(stream)

    def _head(self, id_: int, block: bytes, *, ended: bool) -> None:
        size, flags = len(block), END_STREAM if ended else 0
        if size <= FRAME:
            self.output += (
                _FRAME_HEAD.pack(size >> 8, size & 0xFF, HEADERS, flags | END_HEADERS, id_),
                block,
            )
            return
        self.output.append(frame(HEADERS, flags, id_, block[:FRAME]))
        for at in range(FRAME, size, FRAME):
            last = END_HEADERS if at + FRAME >= size else 0
            self.output.append(frame(CONTINUATION, last, id_, block[at : at + FRAME]))

    def data(self, stream: Stream, data: bytes, *, ended: bool) -> None:
        """Send part of a body, no more than `room_of`."""
        self.window -= len(data)
        stream.window -= len(data)
        self.pending += len(data)
        self._budget = min(BUDGET, self._budget + (len(data) >> 10))
        self._pieces(stream.id, data, ended=ended)
        if ended:
            if not data:
                self.output.append(frame(DATA, END_STREAM, stream.id, b""))
            self._sent(stream)

    def _pieces(self, id_: int, data: bytes, *, ended: bool) -> None:
        for at in range(0, len(data), FRAME):
            last = END_STREAM if ended and at + FRAME >= len(data) else 0
            self.output.append(frame(DATA, last, id_, data[at : at + FRAME]))

    def _sent(self, stream: Stream) -> None:
        stream.sending = False
        self._forget(stream)

    def finished(self, stream: Stream) -> None:
        """The response is over, whether or not it was complete: nobody works for this stream any more."""
        if stream.receiving and not stream.reset:
            # The rest of the request is not wanted (RFC 9113 §8.1).
            self.reset(stream, CANCEL if stream.sending else NO_ERROR)
        elif stream.sending and not stream.reset:
            self.reset(stream, INTERNAL_ERROR)
        self._received -= stream.unacknowledged
        if stream.unacknowledged:
            self.output.append(frame(WINDOW_UPDATE, 0, 0, _WORD.pack(stream.unacknowledged)))
            stream.unacknowledged = 0
        self.streams.pop(stream.id, None)

    def _forget(self, stream: Stream) -> None:
        if not stream.sending and not stream.receiving and not stream.unacknowledged:
            self.streams.pop(stream.id, None)

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream before its response is complete."""
        if not stream.reset:
            stream.reset = True
            stream.receiving = False
            self._reset.append(stream.id)
            self.output.append(frame(RST_STREAM, 0, stream.id, _WORD.pack(code)))

    @property
    def in_head(self) -> bool:
        """Whether the peer has begun to send something that is not complete, other than part of a body."""
        buffer = self._buffer
        partial = len(buffer) > 3 and buffer[3] != DATA if len(buffer) > 3 else bool(buffer)
        return not self._started or self._block is not None or partial

    def announce_goaway(self) -> None:
        """Announce that the connection will end: requests that are on their way are still accepted."""
        self.output.append(frame(GOAWAY, 0, 0, _WORD.pack(LARGEST) + _WORD.pack(NO_ERROR)))

    def release(self) -> None:
        """The connection is lost. The sink refers to this object, so the cycle would keep both alive."""
        del self._sink

    def goaway(self, code: int = NO_ERROR) -> None:
        """Accept no more streams."""
        self.closing = True
        self.output.append(frame(GOAWAY, 0, 0, _WORD.pack(self._last_peer) + _WORD.pack(code)))


def _length(frame_head: bytearray) -> int:
    return frame_head[0] << 16 | frame_head[1] << 8 | frame_head[2]


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]
