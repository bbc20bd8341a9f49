"""The HTTP/2 session without a network: what it makes of frames, and what violations and floods cost a peer."""

from __future__ import annotations

import struct
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from fuzz.http2 import run
from hpack import Encoder

from keyfront.edge.http.http2_session import (
    ACK,
    BUDGET,
    COMPRESSION_ERROR,
    CONNECTION_WINDOW,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    STREAM_WINDOW,
    STREAMS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    ConnectionFault,
    Session,
    Stream,
    frame,
)
from keyfront.edge.types.messages import Headers
from tests.rows import rows

REQUEST: Headers = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"d.test"),
    (b":path", b"/a"),
]
BLOCK = Encoder().encode(REQUEST, huffman=False)
START = PREFACE + frame(SETTINGS, 0, 0, b"")
WORD = struct.Struct(">I").pack


class Peer:
    """A session and what its sink was called with."""

    def __init__(self, *, start: bytes = START) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.streams: dict[int, Stream] = {}
        self.session = Session(self)
        self.session.receive(start)
        self.opening = self.session.taken()

    def repeated(self, id_: int, section: bytes, path: bytes) -> bool:
        return False

    def request(self, stream: Stream, headers: Headers, ended: bool, section: bytes) -> None:
        self.streams[stream.id] = stream
        self.calls.append(("request", stream.id, headers, ended))

    def body(self, stream: Stream, data: bytes) -> None:
        self.calls.append(("body", stream.id, data))

    def end(self, stream: Stream) -> None:
        self.calls.append(("end", stream.id))

    def gone(self, stream: Stream) -> None:
        self.calls.append(("gone", stream.id))

    def room(self) -> None:
        pass

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        """The frames sent since the last call: type, flags, stream, payload."""
        data, found = self.session.taken(), []
        while data:
            size = int.from_bytes(data[:3], "big")
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
            data = data[9 + size :]
        return found


def headers(stream: int, flags: int = END_STREAM | END_HEADERS, block: bytes = BLOCK) -> bytes:
    return frame(HEADERS, flags, stream, block)


@rows(
    ("sent", "code"),
    [
        (frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
        (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        (headers(2), PROTOCOL_ERROR),
        (headers(0), PROTOCOL_ERROR),
        (headers(3) + headers(1), STREAM_CLOSED),
        (headers(1, END_HEADERS | PADDED, b"\x09" + BLOCK[:4]), PROTOCOL_ERROR),
        (headers(1, END_HEADERS | WITH_PRIORITY, b"\0\0"), FRAME_SIZE_ERROR),
        (headers(1, END_HEADERS | WITH_PRIORITY, WORD(1) + b"\0" + BLOCK), PROTOCOL_ERROR),
        (headers(1, 0) + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
        (headers(1, 0) + frame(CONTINUATION, 0, 3, b""), PROTOCOL_ERROR),
        (frame(CONTINUATION, 0, 1, b""), PROTOCOL_ERROR),
        (frame(PUSH_PROMISE, 0, 1, bytes(4)), PROTOCOL_ERROR),
        (headers(1, block=b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
        (headers(1, block=b"\xbf"), COMPRESSION_ERROR),
        (headers(1, block=b"\x82D"), COMPRESSION_ERROR),  # cut off, which the decoder cannot stand
        (headers(1, block=b"\x0f\x8e"), COMPRESSION_ERROR),
        (headers(1, block=b"\x40\x81"), COMPRESSION_ERROR),
        (headers(1, block=b"\x40\x7f\xff\xff\xff\xff\xff\x01"), COMPRESSION_ERROR),
        (frame(SETTINGS, 0, 1, b""), PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
        (frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)), FLOW_CONTROL_ERROR),
        (frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 100)), PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, struct.pack(">HI", 2, 2)), PROTOCOL_ERROR),
        (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(4)), PROTOCOL_ERROR),
        (headers(1) + frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, WORD(0)), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, WORD(2**31 - 1)), FLOW_CONTROL_ERROR),
        (frame(WINDOW_UPDATE, 0, 1, WORD(1)), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
        (struct.pack(">BHBBI", 1, 0, DATA, 0, 1), FRAME_SIZE_ERROR),
    ],
)
def test_violations_end_the_connection_with_their_code(sent: bytes, code: int) -> None:
    peer = Peer()
    with pytest.raises(ConnectionFault) as raised:
        peer.session.receive(sent)
    assert raised.value.code == code
    peer.session.goaway(code)
    kind, _, _, payload = peer.sent()[-1]
    assert (kind, payload[4:]) == (GOAWAY, WORD(code))


@rows("start", [b"GET / HTTP/1.1\r\n", PREFACE[:-1] + b"x", b"\0" * 24])
def test_without_the_preface_nothing_is_read(start: bytes) -> None:
    with pytest.raises(ConnectionFault):
        Peer(start=start)


def test_frames_may_arrive_byte_by_byte() -> None:
    peer = Peer(start=b"")
    assert peer.session.in_head
    for byte in START + headers(1, END_HEADERS) + frame(DATA, END_STREAM, 1, b"body"):
        peer.session.receive(bytes([byte]))
    assert peer.calls == [("request", 1, REQUEST, False), ("body", 1, b"body"), ("end", 1)]
    assert not peer.session.in_head


def test_a_block_in_pieces_with_padding_priority_and_unknown_frames() -> None:
    peer = Peer()
    first = b"\x03" + WORD(0) + b"\0" + BLOCK[:5] + bytes(3)
    peer.session.receive(headers(1, PADDED | WITH_PRIORITY | END_STREAM, first))
    assert peer.session.in_head
    peer.session.receive(frame(CONTINUATION, END_HEADERS, 1, BLOCK[5:]))
    peer.session.receive(frame(0x10, 0, 0, b"x" * 100) + frame(PRIORITY, 0, 1, bytes(5)))
    assert peer.calls == [("request", 1, REQUEST, True)]


def test_what_is_answered() -> None:
    peer = Peer()
    peer.session.receive(
        frame(PING, 0, 0, b"12345678") + frame(PING, ACK, 0, bytes(8)) + frame(SETTINGS, 0, 0, b"")
    )
    assert peer.sent() == [(PING, ACK, 0, b"12345678"), (SETTINGS, ACK, 0, b"")]


@rows(
    "flood",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(SETTINGS, 0, 0, b""),
        frame(SETTINGS, ACK, 0, b""),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(WINDOW_UPDATE, 0, 0, WORD(1)),
        frame(0xEE, 0, 0, b""),
    ],
)
def test_frames_without_content_are_bounded(flood: bytes) -> None:
    peer = Peer()
    with pytest.raises(ConnectionFault) as raised:
        peer.session.receive(flood * (BUDGET + 1))
    assert raised.value.code == ENHANCE_YOUR_CALM
    assert len(peer.session.taken()) < 32 * BUDGET


def test_empty_data_is_bounded_too() -> None:
    peer = Peer()
    peer.session.receive(headers(1, END_HEADERS))
    with pytest.raises(ConnectionFault):
        peer.session.receive(frame(DATA, 0, 1, b"") * (BUDGET + 1))


def test_requests_that_are_reset_at_once_are_bounded() -> None:
    """CVE-2023-44487. While nobody has ended the work for a stream, it counts; and resets cost what requests earn."""
    peer = Peer()
    for number in range(STREAMS):
        peer.session.receive(headers(1 + 2 * number) + frame(RST_STREAM, 0, 1 + 2 * number, WORD(8)))
    assert len(peer.session.streams) == STREAMS
    peer.session.receive(headers(1 + 2 * STREAMS))
    assert peer.sent()[-1] == (RST_STREAM, 0, 1 + 2 * STREAMS, WORD(REFUSED_STREAM))
    assert ("request", 1 + 2 * STREAMS) not in [call[:2] for call in peer.calls]

    peer = Peer()
    with pytest.raises(ConnectionFault) as raised:
        for number in range(10 * BUDGET):
            id_ = 1 + 2 * number
            peer.session.receive(headers(id_) + frame(RST_STREAM, 0, id_, WORD(8)))
            peer.session.finished(peer.streams[id_])  # as if it had been quick
    assert raised.value.code == ENHANCE_YOUR_CALM


@rows(
    ("blocks", "size"),
    [(100, 0), (9, 0), (9, FRAME)],
)
def test_a_header_block_is_bounded_while_it_arrives(blocks: int, size: int) -> None:
    """CVE-2024-27316."""
    peer = Peer()
    peer.session.receive(headers(1, 0, b""))
    with pytest.raises(ConnectionFault) as raised:
        for _ in range(blocks):
            peer.session.receive(frame(CONTINUATION, 0, 1, b"x" * size))
    assert raised.value.code == ENHANCE_YOUR_CALM


def test_a_small_block_cannot_become_a_large_list() -> None:
    encoder = Encoder()
    encoder.header_table_size = 4096
    block = encoder.encode([*REQUEST, (b"x", b"y" * 3000)])
    block += encoder.encode([(b"x", b"y" * 3000)]) * 1000
    peer = Peer()
    with pytest.raises(ConnectionFault) as raised:
        peer.session.receive(headers(1, block=block))
    assert raised.value.code == ENHANCE_YOUR_CALM


def test_bodies_are_bounded_by_windows_until_they_are_consumed() -> None:
    peer = Peer()
    peer.session.receive(headers(1, END_HEADERS))
    full = frame(DATA, 0, 1, bytes(FRAME))
    peer.session.receive(full * (STREAM_WINDOW // FRAME))
    peer.session.consumed(peer.streams[1], FRAME)
    assert peer.sent() == [(WINDOW_UPDATE, 0, 0, WORD(FRAME)), (WINDOW_UPDATE, 0, 1, WORD(FRAME))]
    peer.session.receive(full)
    with pytest.raises(ConnectionFault) as raised:
        peer.session.receive(frame(DATA, 0, 1, b"x"))
    assert raised.value.code == FLOW_CONTROL_ERROR

    peer = Peer()
    streams = range(1, 1 + 2 * (CONNECTION_WINDOW // STREAM_WINDOW), 2)
    for id_ in streams:
        peer.session.receive(headers(id_, END_HEADERS))
        peer.session.receive(frame(DATA, 0, id_, bytes(FRAME)) * (STREAM_WINDOW // FRAME))
    peer.session.receive(headers(streams[-1] + 2, END_HEADERS))
    with pytest.raises(ConnectionFault):
        peer.session.receive(frame(DATA, 0, streams[-1] + 2, b"x"))


def test_the_rest_of_a_body_that_nobody_wants_frees_the_window() -> None:
    peer = Peer()
    peer.session.receive(headers(1, END_HEADERS) + frame(DATA, 0, 1, bytes(1000)))
    stream = peer.streams[1]
    peer.session.head(stream, 403, [], ended=True)
    peer.session.finished(stream)
    assert peer.session.streams == {}
    sent = peer.sent()
    assert [kind for kind, *_ in sent] == [HEADERS, RST_STREAM, WINDOW_UPDATE]
    assert sent[-1][3] == WORD(1000)
    peer.session.receive(frame(DATA, 0, 1, bytes(500)))  # it was on its way
    assert peer.sent() == [(WINDOW_UPDATE, 0, 0, WORD(500))]


@rows(("length", "sent"), [(3, b"xxxx"), (5, b"xxxx")])
def test_a_body_of_another_length_than_announced_is_no_body(length: int, sent: bytes) -> None:
    peer = Peer()
    peer.session.receive(headers(1, END_HEADERS))
    peer.streams[1].expected = length
    peer.session.receive(frame(DATA, END_STREAM, 1, sent))
    assert peer.sent()[-1] == (RST_STREAM, 0, 1, WORD(PROTOCOL_ERROR))
    assert peer.calls[-1] == ("gone", 1)
    assert ("end", 1) not in peer.calls


def test_trailers_end_a_body_and_nothing_else() -> None:
    peer = Peer()
    trailers = Encoder().encode([(b"x-checksum", b"1")], huffman=False)
    peer.session.receive(headers(1, END_HEADERS) + frame(DATA, 0, 1, b"x"))
    peer.session.receive(headers(1, END_HEADERS | END_STREAM, trailers))
    assert peer.calls[1:] == [("body", 1, b"x"), ("end", 1)]
    peer.session.receive(headers(3, END_HEADERS) + headers(3, END_HEADERS, trailers))
    assert peer.calls[-1] == ("gone", 3)


def test_responses_keep_within_both_windows() -> None:
    small = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 10))
    peer = Peer(start=PREFACE + small)
    peer.session.receive(headers(1) + headers(3))
    first, second = peer.streams[1], peer.streams[3]
    assert peer.session.room_of(first) == 10
    peer.session.data(first, b"0123456789", ended=False)
    assert (peer.session.room_of(first), peer.session.room_of(second)) == (0, 10)
    peer.session.receive(frame(WINDOW_UPDATE, 0, 1, WORD(100_000)))
    assert peer.session.room_of(first) == 65535 - 10
    peer.session.receive(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
    assert peer.session.room_of(second) == 0  # negative windows are possible (RFC 9113 §6.9.2)


def test_a_large_head_and_body_are_cut_into_frames() -> None:
    """As another implementation reads them."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
    client.increment_flow_control_window(1 << 20)
    client.send_headers(1, REQUEST, end_stream=True)
    peer = Peer(start=client.data_to_send())
    stream = peer.streams[1]
    large = [(b"x-%d" % number, bytes([65 + number % 26]) * 1000) for number in range(40)]
    peer.session.head(stream, 103, [(b"link", b"</a>")], ended=False)
    peer.session.head(stream, 200, large, ended=False)
    peer.session.data(stream, b"y" * 100_000, ended=False)
    peer.session.data(stream, b"", ended=True)
    client.clear_outbound_data_buffer()
    events = client.receive_data(peer.opening + peer.session.taken())
    kinds = [type(event).__name__ for event in events]
    assert "InformationalResponseReceived" in kinds
    (response,) = (event for event in events if isinstance(event, h2.events.ResponseReceived))
    assert list(response.headers)[1:] == large
    body = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    assert body == b"y" * 100_000
    assert kinds[-1] == "StreamEnded"
    assert peer.session.streams == {}


def test_no_more_streams_after_goaway() -> None:
    peer = Peer()
    peer.session.announce_goaway()
    peer.session.receive(headers(1))
    assert peer.calls[-1][:2] == ("request", 1)
    peer.session.goaway()
    peer.session.receive(headers(3))
    assert peer.sent()[-1] == (RST_STREAM, 0, 3, WORD(REFUSED_STREAM))


def test_trailers_of_a_stream_that_this_side_has_reset_are_ignored() -> None:
    peer = Peer()
    peer.session.receive(headers(1, END_HEADERS))
    stream = peer.streams[1]
    peer.session.head(stream, 403, [], ended=True)
    peer.session.finished(stream)
    peer.session.receive(headers(1, END_HEADERS | END_STREAM))
    assert len(peer.calls) == 1
    peer.session.receive(headers(3))
    assert peer.calls[-1][:2] == ("request", 3)


def test_the_fuzzer_finds_nothing_in_a_moment() -> None:
    """`python -m fuzz.http2` runs it for a minute."""
    assert run(200, None, 1, lambda _: None) == 200
