"""The content of a snapshot as it travels: pieces, differences, bounds."""

from __future__ import annotations

import hashlib
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfront.errors import SnapshotRefused
from keyfront.fleet.remote import content
from keyfront.fleet.remote.content import Copy
from keyfront.model.snapshot import PublicKey, ResponseHeadersPolicy, Snapshot
from tests.fleet.snapshots import snapshot

PIECES = st.lists(st.sampled_from([b"a", b"bb", b"ccc", b"dddd", b"\x00" * 300, b"e" * 70_000]), max_size=12)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 70])
def test_pieces_are_the_payload(size: int) -> None:
    one = snapshot(1 << 40, created=1.5, size=size)
    assert b"".join(content.pieces(one)) == one.to_bytes()[content.SEAL :]
    assert content.digest(content.pieces(one)) == hashlib.sha256(one.to_bytes()[content.SEAL :]).digest()


def test_pieces_of_more_than_65535_resources() -> None:
    one = Snapshot(1, 0.0, public_keys=tuple(PublicKey(f"K{n}", "pem") for n in range(1 << 16)))
    assert b"".join(content.pieces(one)) == one.to_bytes()[content.SEAL :]


def test_pieces_of_what_ends_with_a_resource() -> None:
    one = Snapshot(
        3, 0.0, response_headers_policies=(ResponseHeadersPolicy("r"),), region="eu", reserved=("a", "b")
    )
    assert b"".join(content.pieces(one)) == one.to_bytes()[content.SEAL :]


def test_only_what_has_changed_is_encoded_again() -> None:
    encoder = content.Encoder()
    old = snapshot(1, size=50)
    before = encoder.pieces(old)
    some = [msgspec.structs.replace(one) for one in old.distributions]  # equal, and other objects
    some[7] = msgspec.structs.replace(some[7], enabled=False)
    some[9:9] = [msgspec.structs.replace(some[9], id="EMORE")]
    del some[20]
    for new in (msgspec.structs.replace(old, number=2, distributions=tuple(some)), old):
        made = encoder.pieces(new)
        assert b"".join(made) == new.to_bytes()[content.SEAL :]
        kept = {id(piece) for piece in before}
        # Two distributions, and what lies between the members that are sequences.
        assert sum(id(piece) not in kept for piece in made) <= 2 + 5
        before = [*before, *made]


@given(PIECES, PIECES)
def test_a_difference_makes_the_new_payload(old: list[bytes], new: list[bytes]) -> None:
    body = content.pack_difference(content.difference(old, new))
    base, wanted = b"".join(old), b"".join(new)
    assert content.apply(memoryview(base), body, len(wanted)) == wanted


@given(PIECES)
def test_the_whole_comes_back(parts: list[bytes]) -> None:
    wanted = b"".join(parts)
    assert content.unpack_whole(content.pack_whole(parts), len(wanted)) == wanted


def test_a_difference_of_one_distribution_is_small() -> None:
    old = snapshot(1, size=1000)
    some = list(old.distributions)
    some[500] = msgspec.structs.replace(some[500], enabled=False)
    new = msgspec.structs.replace(old, number=2, distributions=tuple(some))
    operations = content.difference(content.pieces(old), content.pieces(new))
    assert len(operations) == 4  # the head, what is before, the distribution, what is after
    assert len(content.pack_difference(operations)) < 1000
    assert len(new.to_bytes()) > 500_000


def packed(value: object) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(value))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "size"),
        (b"garbage", "decompressed"),
        (packed([b"1234"])[:-3], "size"),
        (packed([b"1234"]) + b"more", "size"),
        (packed({"no": "list"}), "cannot be read"),
        (packed([[0, 5]]), "not there"),
        (packed([[-1, 3]]), "not there"),
        (packed([[3, -2]]), "not there"),
        (packed([[0, 4], b"x"]), "more than"),
        (packed([[0, 3]]), "less than"),
        (packed([b""] * 3), "less than"),
        (zlib.compress(bytes(1 << 24)), "size"),  # a bomb
    ],
)
def test_a_bad_difference_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(SnapshotRefused, match=reason):
        content.apply(memoryview(b"base"), body, 4)


@pytest.mark.parametrize(
    "body", [b"", b"x", zlib.compress(b"123"), zlib.compress(b"12345"), zlib.compress(bytes(1 << 24))]
)
def test_a_bad_whole_is_refused(body: bytes) -> None:
    with pytest.raises(SnapshotRefused):
        content.unpack_whole(body, 4)


def test_copies_of_neighbors_are_one() -> None:
    assert content.difference([b"a", b"b", b"c"], [b"a", b"b", b"x", b"c"]) == [Copy(0, 2), b"x", Copy(2, 1)]
