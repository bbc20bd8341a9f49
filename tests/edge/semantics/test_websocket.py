"""Where the frames of a WebSocket end, and its handshake's fields."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from keyfront.edge.semantics.websocket import GOING_AWAY, Frames, close_frame


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    size = len(payload)
    marks = 0x80 if masked else 0
    head = bytes([0x80 | opcode])
    if size < 126:
        head += bytes([marks | size])
    elif size < 65536:
        head += bytes([marks | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([marks | 127]) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


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
