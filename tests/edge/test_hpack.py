"""Header blocks: what is found in them and written without a codec agrees with one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jh2 import _hazmat

from keyfront.edge.http.hpack import (
    Codec,
    DecodingError,
    OversizedError,
    changes,
    decode_path,
    literal_start,
    literals,
    split,
    string,
)
from keyfront.edge.types.messages import Headers
from tests.rows import rows

PATH = b"\x04\x87/abcdef"
FIELD = st.tuples(st.binary(min_size=1, max_size=12), st.binary(max_size=300))


def test_what_is_needed_of_the_codecs_private_module() -> None:
    """`jh2._hazmat` may change in any version, so pyproject.toml admits only versions that were tested: here at the one
    that is locked, by `tests/install` with `--long` at both ends."""
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (range_,) = [
        one for one in pyproject["project"]["optional-dependencies"]["server"] if one.startswith("jh2")
    ]
    assert "<5.1" in range_
    assert issubclass(_hazmat.HPACKError, Exception)
    assert issubclass(_hazmat.OversizedHeaderListError, Exception)
    encoder, decoder = _hazmat.Encoder(), _hazmat.Decoder(1000)
    listed = [(b":status", b"200", False), (b"a", b"b", True), (b"c", b"d", False)]
    assert decoder.decode(encoder.encode(listed), True) == listed
    assert decoder.decode(encoder.encode(listed, False), True) == listed
    assert encoder.encode([(b"a", b"?", True)], False) == b"\x10\x01a\x01?"  # the field is not in the table
    assert encoder.encode([(b"c", b"d", False)]) == b"\xbe"  # this one is
    encoder.header_table_size = 100
    assert encoder.encode([]) == b"\x3f\x45"
    assert encoder.encode([]) == b""


def fields(block: bytes, decoder: hpack.Decoder | None = None) -> Headers:
    return [(name, value) for name, value in (decoder or hpack.Decoder()).decode(block, raw=True)]


@rows(
    ("block", "changing"),
    [
        (b"", b""),
        (b"\x82\x86", b""),
        (b"\x82\x41\x01d\x86", b"\x41\x01d"),
        (b"\x40\x01a\x01b\x00\x01c\x01d\x10\x01e\x01f", b"\x40\x01a\x01b"),
        (b"\x20\x3f\xe1\x1f\x82", b"\x20\x3f\xe1\x1f"),
        (b"\xff\x00\x82", b""),
        (b"\x0f\x0e\x01x\x7f\x00\x01y", b"\x7f\x00\x01y"),
        (b"\x04\x7f\x00" + b"x" * 127 + b"\x41\x00", b"\x41\x00"),
    ],
)
def test_the_fields_that_change_the_table(block: bytes, changing: bytes) -> None:
    assert changes(block) == changing


@rows(
    "block",
    [
        b"\x82D",
        b"\x0f\x8e",
        b"\x40\x81",
        b"\x40\x01a",
        b"\x04\x05abcd",
        b"\xff",
        b"\x3f",
        b"\x04\x7f",
        b"\x04\x7f\xff",
        b"\xff\xff\xff\xff\xff\x01",
        b"\x40\x7f\xff\xff\xff\xff\xff\x01",
    ],
)
def test_a_block_that_is_cut_off(block: bytes) -> None:
    with pytest.raises(DecodingError):
        changes(block)
    with pytest.raises(DecodingError):
        Codec(1000).decode(block)


@rows(
    ("block", "rest", "path"),
    [
        (b"\x82\x87" + PATH + b"\xbe", b"\x82\x87\x04\xbe", PATH[1:]),
        (b"\x05\x02/a", b"\x05", b"\x02/a"),
        (b"\x82\x14\x02/a\x86", b"\x82\x14\x86", b"\x02/a"),
        (b"\x00\x84\xb9\x58\xd3\x3f\x02/a\x86", b"\x00\x84\xb9\x58\xd3\x3f\x86", b"\x02/a"),
        (b"\x10\x05:path\x02/a\x86", b"\x10\x05:path\x86", b"\x02/a"),
        (b"\x04\x7f\x01" + b"/" * 128 + b"\x82", b"\x04\x82", b"\x7f\x01" + b"/" * 128),
        (b"\x82\x84\x86", b"", b""),  # the path is in the static table
        (b"\x82\x44\x02/a", b"", b""),  # or goes into the dynamic one
        (b"\x01\x01d\x04\x02/a", b"", b""),  # or is not in the usual place
        (b"\x82\x04\x03/a", b"", b""),  # cut off
        (b"\x82\x04", b"", b""),
        (b"\x82\x04\x7f", b"", b""),
        (b"\x82\x04\x7f\xff\xff\xff\xff\xff\x01", b"", b""),
        (b"\x82\x04\x00\x86", b"", b""),
    ],
)
def test_the_path_is_cut_out(block: bytes, rest: bytes, path: bytes) -> None:
    assert split(block) == (rest, path)


@given(before=st.lists(FIELD, max_size=3), path=st.binary(min_size=1, max_size=300), huffman=st.booleans())
def test_a_block_is_what_remains_and_the_path(before: Headers, path: bytes, huffman: bool) -> None:
    encoder = hpack.Encoder()
    encoder.encode(before)
    others = [(b":method", b"GET"), (b":scheme", b"https")]
    block = encoder.encode([*others, (b":path", path, True), *before], huffman=huffman)
    rest, value = split(block)
    assert decode_path(value) == path
    assert len(rest) + len(value) == len(block)
    other = encoder.encode([*others, (b":path", path + b"x", True), *before], huffman=huffman)
    assert split(other)[0] == rest
    assert split(other)[1] != value


@rows("value", [b"\x84\xff\xff\xff\xff", b"\x82\xff\xff"])
def test_a_path_that_no_huffman_code_stands_for(value: bytes) -> None:
    with pytest.raises(hpack.HPACKError):
        hpack.Decoder().decode(b"\x04" + value)
    assert decode_path(value) is None


def test_a_path_that_is_too_long_to_decode() -> None:
    assert decode_path(literals([(b":path", b"/" * 9000)])[1:]) is None


@given(headers=st.lists(FIELD, max_size=6), value=st.binary(max_size=200))
def test_literals_need_no_table_and_leave_it_alone(headers: Headers, value: bytes) -> None:
    static = [(b":status", b"200"), (b"content-type", b"text/plain"), (b"accept-encoding", b"gzip, deflate")]
    block = literals([*static, *headers]) + literal_start(b"age") + string(value)
    decoder = hpack.Decoder()
    assert fields(block, decoder) == [*static, *headers, (b"age", value)]
    assert not decoder.header_table.dynamic_entries
    assert changes(block) == b""


def test_equal_states_are_equal_tables() -> None:
    encoder, codec = hpack.Encoder(), Codec(1000)
    first = codec.state
    block = encoder.encode([(b":path", b"/", True), (b"a", b"b")])
    assert codec.decode(block) == ([(b":path", b"/"), (b"a", b"b")], False)
    second = codec.state
    assert second != first
    block = encoder.encode([(b":path", b"/other", True), (b"a", b"b")])
    assert codec.decode(block) == ([(b":path", b"/other"), (b"a", b"b")], True)
    assert codec.state == second
    other = Codec(1000)
    other.decode(hpack.Encoder().encode([(b":path", b"/elsewhere", True), (b"a", b"b")]))
    assert other.state == second  # what differs has not changed the table
    other = Codec(1000, b"192.0.2.1")
    other.decode(hpack.Encoder().encode([(b"a", b"b")]))
    assert other.state != second


def test_a_list_that_is_too_large() -> None:
    with pytest.raises(OversizedError):
        Codec(100).decode(hpack.Encoder().encode([(b"a", b"b" * 200)]))


@rows(
    ("sizes", "written"),
    [
        ([4096], b"\x3f\xe1\x1f"),
        ([0], b"\x20"),
        ([0, 4096], b"\x20\x3f\xe1\x1f"),
        ([100, 50, 60], b"\x3f\x13\x3f\x1d"),
        ([50] * 1000, b"\x3f\x13"),
    ],
)
def test_changes_of_the_tables_size_are_announced_once(sizes: list[int], written: bytes) -> None:
    for at_once in (True, False):
        codec = Codec(1000)
        block = codec.encode([(b"a", b"b")])
        decoder = hpack.Decoder()
        decoder.decode(block)
        for each in [sizes] if at_once else [[size] for size in sizes]:
            codec.resize(each)
        decoder.max_allowed_table_size = sizes[-1]
        hit = codec.announced(literals([(b":status", b"200")]))
        assert hit == written + b"\x88"
        assert fields(hit, decoder) == [(b":status", b"200")]
        for _ in range(2):
            assert fields(codec.encode([(b"a", b"b"), (b"c", b"d")]), decoder) == [(b"a", b"b"), (b"c", b"d")]
