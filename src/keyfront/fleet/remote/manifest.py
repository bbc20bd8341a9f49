"""The signed manifest of a snapshot, and the succession of the keys that sign manifests.

A manifest is small and names the payload by its SHA-256; the control plane signs it with its snapshot key (Ed25519).
An edge trusts one key, which it received when it was enrolled. Whatever carried the bytes, only a snapshot whose
manifest was signed with that key takes effect. A new key is endorsed by the one before it: an edge that trusts an
older key follows the endorsements from there.

An edge also presents the manifest that it has. The control plane recognizes its own signature, so no edge can claim a
number that was never published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keyfront.errors import SnapshotRefused
from keyfront.fleet.remote.content import MAX_SIZE
from keyfront.model.snapshot import MAGIC, MAGIC_OF_REGIONS

_SNAPSHOT = b"keyfront snapshot manifest 1\n"
_SUCCESSOR = b"keyfront snapshot key 1\n"
"""What precedes the signed bytes: a signature of one kind is never one of the other."""

MAX_KEYS = 100
"""Maximum number of endorsements that an edge follows at once."""


class Manifest(msgspec.Struct, frozen=True):
    """What identifies one region's snapshot.

    :param created: epoch seconds, with the number the identity of the state that it was compiled from.
    :param magic: what precedes the digest in the snapshot's file.
    :param digest: the SHA-256 of the payload.
    :param size: of the payload, in bytes.
    """

    number: int
    created: float
    region: str
    magic: bytes
    digest: bytes
    size: int


class Signed(msgspec.Struct, frozen=True):
    """A manifest as it travels and is stored: its bytes, and the signature by the key with the id `key`."""

    manifest: bytes = b""
    signature: bytes = b""
    key: str = ""


class Endorsement(msgspec.Struct, frozen=True):
    """A snapshot key, endorsed by the one before it. The first one has no signature."""

    public: bytes
    signature: bytes = b""


_decoder = msgspec.msgpack.Decoder(Manifest)


def key_id(public: bytes) -> str:
    """The id of a snapshot key, from its 32 public bytes."""
    return hashlib.sha256(public).hexdigest()[:16]


def sign(manifest: Manifest, key: Ed25519PrivateKey) -> Signed:
    """Sign a manifest."""
    data = msgspec.msgpack.encode(manifest)
    return Signed(data, key.sign(_SNAPSHOT + data), key_id(key.public_key().public_bytes_raw()))


def verify(signed: Signed, public: bytes) -> Manifest:
    """The manifest in `signed`, if the key with the bytes `public` signed it.

    :raises SnapshotRefused: if it did not, or the manifest is malformed.
    """
    if signed.key != key_id(public):
        raise SnapshotRefused(
            f"the manifest is signed with the key {signed.key[:32]!r}, which is not trusted"
        )
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signed.signature, _SNAPSHOT + signed.manifest)
    except InvalidSignature:
        raise SnapshotRefused("the signature of the manifest is not valid") from None
    try:
        found = _decoder.decode(signed.manifest)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(f"the manifest is malformed: {error}") from error
    if len(found.digest) != 32 or not 0 <= found.size <= MAX_SIZE or found.number < 0:
        raise SnapshotRefused("the manifest is malformed")
    if found.magic not in (MAGIC, MAGIC_OF_REGIONS):
        raise SnapshotRefused("the snapshot has a format that this version does not know")
    return found


def recognize(signed: Signed, chain: Iterable[Endorsement]) -> Manifest | None:
    """The manifest in `signed`, if one of these snapshot keys signed it; None if its key is not among them.

    :raises SnapshotRefused: if the signature is not valid.
    """
    for one in chain if signed.manifest else ():
        if key_id(one.public) == signed.key:
            return verify(signed, one.public)
    return None


def endorse(public: bytes, key: Ed25519PrivateKey) -> Endorsement:
    """Endorse the successor of `key`."""
    return Endorsement(public, key.sign(_SUCCESSOR + public))


def after(chain: Iterable[Endorsement], trusted: str) -> list[Endorsement]:
    """The endorsements after the key with the id `trusted`; none if it is not known."""
    found: list[Endorsement] | None = None
    for one in chain:
        if found is not None:
            found.append(one)
        if key_id(one.public) == trusted:
            found = []
    return found or []


def succeed(trusted: bytes, endorsements: Iterable[Endorsement]) -> bytes:
    """The last key in the chain of endorsements that begins at the key `trusted`; that key itself if there is none.

    :raises SnapshotRefused: if an endorsement is not valid.
    """
    for count, one in enumerate(endorsements):
        if count >= MAX_KEYS or len(one.public) != 32:
            raise SnapshotRefused("the endorsements of snapshot keys are malformed")
        try:
            Ed25519PublicKey.from_public_bytes(trusted).verify(one.signature, _SUCCESSOR + one.public)
        except InvalidSignature:
            raise SnapshotRefused("a new snapshot key is not endorsed by the trusted one") from None
        trusted = one.public
    return trusted
