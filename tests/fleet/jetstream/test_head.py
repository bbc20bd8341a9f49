"""What a head contains, and which ones an edge does not follow."""

from __future__ import annotations

import hashlib
import random

import msgspec
import pytest

from keyfront.errors import SettingsError, SnapshotRefused
from keyfront.fleet.jetstream import head, joining
from keyfront.fleet.jetstream.head import Base, Head
from keyfront.fleet.jetstream.joining import Guest, Host
from keyfront.fleet.remote import authority, content
from keyfront.fleet.remote.authority import Authority
from keyfront.fleet.remote.manifest import Manifest, Signed
from keyfront.model.snapshot import MAGIC
from tests.rows import rows

RNG = random.Random(1)
NOISE = [RNG.randbytes(1000) for _ in range(400)]
ROOM = 1 << 18


def payload(*changes: int) -> list[bytes]:
    """The pieces of a payload that differs from the others in these places."""
    return [b"changed" + piece if n in changes else piece for n, piece in enumerate(NOISE)]


def manifest_of(pieces: list[bytes], number: int = 1) -> Manifest:
    return Manifest(number, 0.0, "", MAGIC, content.digest(pieces), sum(map(len, pieces)))


def packed(pieces: list[bytes]) -> tuple[Base, list[bytes]]:
    made = manifest_of(pieces)
    return head.pack(pieces, made.digest, made.size)


def made(*versions: list[bytes], base: Base, room: int = ROOM) -> Head | None:
    """The head of the last of these versions."""
    history = {content.digest(one): one for one in versions}
    return head.make(manifest_of(versions[-1]), Signed(), versions[-1], history, base, room)


def test_an_edge_gets_there_from_the_base_or_from_what_it_has() -> None:
    first, second, third = payload(), payload(1), payload(1, 2)
    base, parts = packed(first)
    assert len(parts) == base.parts > 1
    found = made(first, second, third, base=base)
    assert found is not None
    assert sum(len(one.body) for one in found.differences) < 6000
    target = manifest_of(third)
    head.check(found, target)
    assert hashlib.sha256(head.payload(found, target, parts)).digest() == target.digest
    step = found.difference(content.digest(second))
    assert step is not None
    assert content.apply(memoryview(b"".join(second)), step.body, target.size) == b"".join(third)


def test_the_base_itself_needs_no_difference() -> None:
    base, parts = packed(payload())
    found = made(payload(), base=base)
    assert found is not None
    assert found.differences == []
    assert head.payload(found, manifest_of(payload()), parts) == b"".join(NOISE)


@rows(
    "versions, room, reason",
    [
        ([payload(1)], ROOM, "the base is not in the history any more"),
        ([payload(), payload(*range(150))], ROOM, "the difference has grown to more than a quarter"),
        ([payload(), payload(*range(10))], 1000, "there is no room for it"),
        ([payload(), payload()[:10]], ROOM, "the base is much larger than what is made from it"),
    ],
)
def test_a_new_base_is_needed(versions: list[list[bytes]], room: int, reason: str) -> None:
    base, _ = packed(payload())
    if reason.startswith("the base is much"):
        base = msgspec.structs.replace(base, size=4 << 20)
    assert made(*versions, base=base, room=room) is None, reason


def test_differences_stop_where_there_is_no_room() -> None:
    versions = [payload(*range(n)) for n in range(20)]
    base, _ = packed(versions[0])
    found = made(*versions, base=base)
    assert found is not None
    assert len(found.differences) == head.RECENT + 1
    tight = made(*versions, base=base, room=25_000)
    assert tight is not None
    assert 1 <= len(tight.differences) < head.RECENT


GOOD, PARTS = packed(payload())


@rows(
    "base",
    [
        msgspec.structs.replace(GOOD, size=content.MAX_SIZE + 1),
        msgspec.structs.replace(GOOD, size=-1),
        msgspec.structs.replace(GOOD, size=3 * GOOD.size + head.SLACK),
        msgspec.structs.replace(GOOD, length=3 * GOOD.size),
        msgspec.structs.replace(GOOD, parts=0),
        msgspec.structs.replace(GOOD, parts=1 << 40),
        msgspec.structs.replace(GOOD, id="../" + GOOD.id[3:]),
        msgspec.structs.replace(GOOD, id=""),
    ],
)
def test_an_impossible_base_is_refused(base: Base) -> None:
    head.check(Head(Signed(), GOOD), manifest_of(payload()))
    with pytest.raises(SnapshotRefused, match="the head is malformed"):
        head.check(Head(Signed(), base), manifest_of(payload()))


@rows("parts", [PARTS[1:], [*PARTS, b"x"], [b"x" * len(PARTS[0]), *PARTS[1:]], []])
def test_damaged_parts_are_refused(parts: list[bytes]) -> None:
    with pytest.raises(SnapshotRefused, match="the stored content is damaged"):
        head.unpack(GOOD, parts)


def test_a_head_without_the_difference_from_its_base_is_refused() -> None:
    with pytest.raises(SnapshotRefused, match="lacks the difference from its base"):
        head.payload(Head(Signed(), GOOD), manifest_of(payload(1)), PARTS)


# ---- enrollment


def test_an_enrollment_is_readable_for_the_two_only() -> None:
    issuer, host = Authority.create(0.0), Host()
    offer = host.offer(issuer, "subject")
    fingerprint = authority.fingerprint(issuer.certificate)
    guest = Guest(offer, fingerprint)
    sent = guest.encrypt(b"secret")
    assert b"secret" not in sent
    data, key = host.open(sent)
    assert (data, guest.offer.subject) == (b"secret", "subject")
    response = joining.respond(key, b"answer")
    assert guest.decrypt(response) == b"answer"
    for bad in (response[:-1] + bytes([response[-1] ^ 1]), b"", joining.respond(bytes(32), b"answer")):
        with pytest.raises(SettingsError, match="not from the control plane that made the offer"):
            guest.decrypt(bad)
    for bad in (b"", b"\x00", sent[:-1] + bytes([sent[-1] ^ 1]), Guest(offer, fingerprint).encrypt(b"")[:-1]):
        with pytest.raises(SettingsError, match="not encrypted for this control plane"):
            host.open(bad)
    with pytest.raises(SettingsError, match="not encrypted for this control plane"):
        Host().open(sent)


def test_only_the_authoritys_offer_is_accepted() -> None:
    issuer, other = Authority.create(0.0), Authority.create(0.0)
    expected = authority.fingerprint(issuer.certificate)
    with pytest.raises(SettingsError, match="not a control plane of Keyfront"):
        Guest(b"garbage", expected)
    with pytest.raises(SettingsError, match="it has another authority"):
        Guest(Host().offer(other, "s"), expected)
    offer = msgspec.msgpack.decode(Host().offer(issuer, "s"), type=joining.Offer)
    for changed in ({"subject": "mine"}, {"public": bytes(31) + b"\x01"}, {"signature": b""}):
        forged = msgspec.msgpack.encode(msgspec.structs.replace(offer, **changed))
        with pytest.raises(SettingsError, match="not signed by its authority"):
            Guest(forged, expected)
