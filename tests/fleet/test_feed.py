"""Which snapshots an edge accepts."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfront.errors import SnapshotRefused
from keyfront.fleet.feed import Feed, accept
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.snapshot import EMPTY, MAGIC, Behavior, Invalidation, KeyGroup, OriginGroup, Snapshot
from tests.fleet.snapshots import snapshot
from tests.rows import rows

WHOLE = snapshot(3)
DATA = WHOLE.to_bytes()


def test_the_first_is_accepted() -> None:
    assert accept(None, DATA) == WHOLE


def test_a_newer_one_is_accepted() -> None:
    assert accept(WHOLE, snapshot(4).to_bytes()).number == 4
    assert accept(WHOLE, snapshot(400).to_bytes()).number == 400


def test_the_same_one_changes_nothing() -> None:
    assert accept(WHOLE, DATA) is WHOLE


def test_an_older_one_is_refused() -> None:
    with pytest.raises(SnapshotRefused, match="older"):
        accept(WHOLE, snapshot(2).to_bytes())


def test_another_one_of_the_same_number_is_refused() -> None:
    with pytest.raises(SnapshotRefused, match="a different snapshot 3"):
        accept(WHOLE, snapshot(3, created=1.0).to_bytes())


def test_an_empty_one_is_a_snapshot() -> None:
    assert accept(None, EMPTY.to_bytes()) == EMPTY


def test_torn_at_every_byte() -> None:
    for length in range(len(DATA)):
        with pytest.raises(SnapshotRefused):
            accept(None, DATA[:length])


def test_every_bit_flipped() -> None:
    for bit in range(len(DATA) * 8):
        spoilt = bytearray(DATA)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SnapshotRefused):
            accept(None, bytes(spoilt))


def test_with_a_tail() -> None:
    with pytest.raises(SnapshotRefused):
        accept(None, DATA + b"\0")


@given(st.binary(max_size=200))
def test_foreign(data: bytes) -> None:
    for start in (b"", MAGIC, MAGIC + hashlib.sha256(data).digest()):
        with pytest.raises(SnapshotRefused):
            accept(None, start + data)


def sealed(payload: object) -> bytes:
    data = msgspec.msgpack.encode(payload)
    return MAGIC + hashlib.sha256(data).digest() + data


RAW = msgspec.to_builtins(WHOLE)

WRONG_TYPES: list[tuple[str, object]] = [
    ("nothing", None),
    ("a list", [RAW]),
    ("no number", {"created": 0.0}),
    ("a number that is text", RAW | {"number": "3"}),
    ("a key without a pem", RAW | {"public_keys": [{"id": "K1"}]}),
    (
        "a mode that does not exist",
        RAW | {"distributions": [RAW["distributions"][0] | {"geo": {"kind": "greylist"}}]},
    ),
]


@rows(("what", "payload"), WRONG_TYPES, ids=[what for what, _ in WRONG_TYPES])
def test_sealed_but_no_snapshot(what: str, payload: object) -> None:
    with pytest.raises(SnapshotRefused):
        accept(None, sealed(payload))


def test_members_of_a_later_keyfront_are_overlooked() -> None:
    assert accept(None, sealed(RAW | {"later": 1})) == WHOLE


ONE = WHOLE.distributions[0]


def with_(**members: object) -> Snapshot:
    return msgspec.structs.replace(WHOLE, distributions=(msgspec.structs.replace(ONE, **members),))


NONSENSE: list[tuple[str, Snapshot]] = [
    ("no behavior", with_(behaviors=())),
    ("no origin", with_(origins=())),
    ("a behavior that leads nowhere", with_(behaviors=(Behavior("*", "absent"),))),
    ("half an origin group", with_(origin_groups=(OriginGroup("both", ("app", "absent"), (500,)),))),
    (
        "the second of two origin groups",
        with_(
            origin_groups=(
                OriginGroup("whole", ("app", "app"), (500,)),
                OriginGroup("both", ("app", "absent"), (500,)),
            )
        ),
    ),
    ("keys without a signature", with_(behaviors=(Behavior("*", "app", trusted_key_groups=("g",)),))),
    ("an invalidation from the future", with_(invalidations=(Invalidation(4, ("/*",)),))),
    ("a group without its key", msgspec.structs.replace(WHOLE, public_keys=())),
]


@rows(("what", "spoilt"), NONSENSE, ids=[what for what, _ in NONSENSE])
def test_whole_but_without_sense(what: str, spoilt: Snapshot) -> None:
    with pytest.raises(SnapshotRefused, match="is inconsistent"):
        accept(None, spoilt.to_bytes())


def test_a_group_that_is_missing_makes_sense() -> None:
    """Its behavior refuses every request; that is no reason to refuse all other changes."""
    lonely = msgspec.structs.replace(WHOLE, public_keys=(), key_groups=(KeyGroup("other", "other", ()),))
    assert accept(None, lonely.to_bytes()) == lonely


def test_the_file_is_a_feed() -> None:
    feed: Feed = FileFeed("unused")
    assert feed
