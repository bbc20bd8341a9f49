"""Where the frames of a WebSocket end, and its handshake's fields."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from keyfront.edge.semantics.websocket import (
    ACCEPT,
    GOING_AWAY,
    KEY,
    VERSION,
    WEBSOCKET,
    Frames,
    accept_value,
    acceptance_fault,
    close_frame,
    forwarded,
    handshake_fault,
    handshake_key,
    upgrade_of,
)
from keyfront.edge.types.messages import Headers
from tests.edge.frames import frame
from tests.rows import rows


class TestFrames:
    @settings(max_examples=100, deadline=None)
    @given(
        sizes=st.lists(st.sampled_from([0, 1, 2, 125, 126, 127, 300, 65535, 65536, 70000]), max_size=6),
        masked=st.booleans(),
        seed=st.integers(0, 1 << 30),
    )
    def test_it_knows_where_frames_end_however_they_are_cut(
        self, sizes: list[int], masked: bool, seed: int
    ) -> None:
        chance = random.Random(seed)
        data = b""
        ends = {0}
        for size in sizes:
            data += frame(chance.choice((0, 1, 2, 9)), bytes(size), masked=masked)
            ends.add(len(data))
        frames = Frames()
        position = 0
        while position < len(data):
            step = chance.choice((1, 2, 3, 10, 100, 5000, 100_000))
            frames.feed(data[position : position + step])
            position = min(len(data), position + step)
            assert frames.between == (position in ends)
        assert not frames.closed

    def test_nothing_follows_a_close_frame(self) -> None:
        frames = Frames()
        frames.feed(frame(1, b"hello", masked=False) + close_frame(1000, b""))
        assert frames.closed
        assert not frames.between

    def test_a_length_that_a_peer_chose_costs_nothing(self) -> None:
        frames = Frames()
        frames.feed(b"\x82\x7f" + b"\xff" * 8 + b"x")
        frames.feed(b"y" * 1000)
        assert not frames.between

    def test_a_flood_of_tiny_frames_is_not_followed(self) -> None:
        frames = Frames()
        frames.feed(b"\x82\x00" * 50_000)
        assert not frames.between
        frames.feed(frame(1, b"hello", masked=False))
        assert not frames.between

    def test_a_masked_close_frame_is_what_a_client_sends(self) -> None:
        plain, masked = close_frame(GOING_AWAY, b"x"), close_frame(GOING_AWAY, b"x", b"abcd")
        assert plain == b"\x88\x03\x03\xe9x"
        assert masked[:6] == b"\x88\x83abcd"
        assert bytes(c ^ b"abcd"[i % 4] for i, c in enumerate(masked[6:])) == plain[2:]


# -- the opening handshake ---------------------------------------------------------------------------------------

SAMPLE_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
OFFER: Headers = [(b"upgrade", b"websocket"), (KEY, SAMPLE_KEY), (VERSION, b"13")]


def test_the_rfcs_own_example() -> None:
    assert accept_value(SAMPLE_KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@rows(
    ("headers", "changed", "expected"),
    [
        (OFFER, {}, WEBSOCKET),
        ([(b"upgrade", b"h2c, WebSocket"), *OFFER[1:]], {}, WEBSOCKET),
        ([], {}, ""),
        ([(b"upgrade", b" , ")], {}, ""),
        ([(b"upgrade", b"h2c")], {}, "passed over: upgrade to h2c"),
        ([(b"upgrade", b"h2c\x7f\xff")], {}, "passed over: upgrade to h2c??"),
        (
            [(b"upgrade", b"x" * 100)],
            {},
            "passed over: upgrade to " + "x" * 80,
        ),
        (
            OFFER,
            {"named": False},
            "passed over: upgrade to websocket (Connection does not name Upgrade)",
        ),
        (OFFER, {"method": "POST"}, "passed over: upgrade to websocket (POST is not GET)"),
        (OFFER, {"version": "1.0"}, "passed over: upgrade to websocket (HTTP/1.0)"),
        (OFFER, {"has_body": True}, "passed over: upgrade to websocket (with a body)"),
        (
            [OFFER[0], OFFER[2]],
            {},
            "passed over: upgrade to websocket (without Sec-WebSocket-Key)",
        ),
        (OFFER[:2], {}, "passed over: upgrade to websocket (without Sec-WebSocket-Version)"),
    ],
)
def test_what_a_request_with_upgrade_asks_for(
    headers: Headers, changed: dict[str, Any], expected: str
) -> None:
    terms: dict[str, Any] = {"method": "GET", "version": "1.1", "named": True, "has_body": False}
    terms |= changed
    assert upgrade_of(terms.pop("method"), terms.pop("version"), headers, **terms) == expected


@rows(
    ("headers", "fault"),
    [
        (OFFER, ""),
        ([(KEY, b" " + SAMPLE_KEY + b"\t"), (VERSION, b" 13 ")], ""),
        ([OFFER[2]], "websocket_key"),
        ([OFFER[1], *OFFER[1:]], "websocket_key"),
        ([(KEY, SAMPLE_KEY[:-4]), OFFER[2]], "websocket_key"),
        ([(KEY, b"!" + SAMPLE_KEY[1:]), OFFER[2]], "websocket_key"),
        ([(KEY, b"=" + SAMPLE_KEY[1:]), OFFER[2]], "websocket_key"),
        ([(KEY, b"A" * 24), OFFER[2]], "websocket_key"),
        ([OFFER[1]], "websocket_version"),
        ([OFFER[1], (VERSION, b"8")], "websocket_version"),
        ([*OFFER[1:], OFFER[2]], "websocket_version"),
    ],
)
def test_faults_of_a_handshake(headers: Headers, fault: str) -> None:
    assert handshake_fault(headers) == fault
    if not fault:
        assert handshake_key(headers) == SAMPLE_KEY


@rows(("headers", "expected"), [(OFFER, True), (OFFER[:2], False), ([OFFER[2]], False), ([], False)])
def test_whether_an_origin_gets_a_handshake(headers: Headers, expected: bool) -> None:
    assert forwarded(headers) is expected


ACCEPTED: Headers = [
    (b"upgrade", b"WebSocket"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"date", b"today"),
    (ACCEPT, b" s3pPLMBiTxaQ9kYGzzhZRbK+xOo= "),
]


@rows(
    ("headers", "fault"),
    [
        (ACCEPTED, ""),
        ([*ACCEPTED, (b"content-length", b"0")], "101 with content-length"),
        ([*ACCEPTED, (b"transfer-encoding", b"chunked")], "101 with transfer-encoding"),
        (ACCEPTED[1:], "101 for another protocol than websocket"),
        ([(b"upgrade", b"websocket, h2c"), *ACCEPTED[1:]], "101 for another protocol than websocket"),
        ([ACCEPTED[0], *ACCEPTED[2:]], "101 without Connection: Upgrade"),
        (ACCEPTED[:3], "101 whose Sec-WebSocket-Accept does not answer the viewer's Sec-WebSocket-Key"),
        (
            [*ACCEPTED, ACCEPTED[3]],
            "101 whose Sec-WebSocket-Accept does not answer the viewer's Sec-WebSocket-Key",
        ),
    ],
)
def test_faults_of_an_acceptance(headers: Headers, fault: str) -> None:
    assert acceptance_fault(headers, accept_value(SAMPLE_KEY)) == fault
