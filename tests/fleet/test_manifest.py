"""Signed manifests, and the succession of snapshot keys."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyfront.errors import SnapshotRefused
from keyfront.fleet.remote.content import MAX_SIZE
from keyfront.fleet.remote.manifest import (
    Endorsement,
    Manifest,
    Signed,
    endorse,
    key_id,
    sign,
    succeed,
    verify,
)
from keyfront.model.snapshot import MAGIC

ONE, TWO, THREE = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
MANIFEST = Manifest(7, 1.0, "eu", MAGIC, bytes(32), 100)


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def test_a_signed_manifest_is_read_back() -> None:
    assert verify(sign(MANIFEST, ONE), public(ONE)) == MANIFEST


def spoiled(signed: Signed, **changed: object) -> Signed:
    return msgspec.structs.replace(signed, **changed)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: sign(MANIFEST, TWO),
        lambda s: spoiled(sign(MANIFEST, TWO), key=s.key),
        lambda s: spoiled(s, signature=bytes(64)),
        lambda s: spoiled(s, signature=b""),
        lambda s: spoiled(s, manifest=s.manifest[:-1]),
        lambda s: spoiled(s, manifest=msgspec.msgpack.encode(msgspec.structs.replace(MANIFEST, number=8))),
        lambda s: sign(msgspec.structs.replace(MANIFEST, digest=b""), ONE),
        lambda s: sign(msgspec.structs.replace(MANIFEST, size=MAX_SIZE + 1), ONE),
        lambda s: sign(msgspec.structs.replace(MANIFEST, size=-1), ONE),
        lambda s: sign(msgspec.structs.replace(MANIFEST, number=-1), ONE),
        lambda s: sign(msgspec.structs.replace(MANIFEST, magic=b"keyfront-snapshot 9\n"), ONE),
        lambda s: spoiled(s, manifest=b"", signature=ONE.sign(b"keyfront snapshot manifest 1\n")),
        # a signature of another kind
        lambda s: Signed(public(TWO), endorse(public(TWO), ONE).signature, key_id(public(ONE))),
    ],
)
def test_what_the_key_did_not_sign_is_refused(spoil: Callable[[Signed], Signed]) -> None:
    with pytest.raises(SnapshotRefused):
        verify(spoil(sign(MANIFEST, ONE)), public(ONE))


def test_an_edge_follows_endorsements() -> None:
    chain = [endorse(public(TWO), ONE), endorse(public(THREE), TWO)]
    assert succeed(public(ONE), chain) == public(THREE)
    assert succeed(public(TWO), chain[1:]) == public(THREE)
    assert succeed(public(ONE), []) == public(ONE)


@pytest.mark.parametrize(
    "chain",
    [
        [endorse(public(THREE), TWO)],
        [Endorsement(public(TWO))],
        [Endorsement(public(TWO)[:-1], ONE.sign(b"keyfront snapshot key 1\n" + public(TWO)[:-1]))],
        [endorse(public(ONE), ONE)] * 101,
    ],
)
def test_a_key_that_is_not_endorsed_is_refused(chain: list[Endorsement]) -> None:
    with pytest.raises(SnapshotRefused):
        succeed(public(ONE), chain)
