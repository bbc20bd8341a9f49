"""The actual state of a key group as just read from CloudFront and custody, beside its record."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from keyfront.custody.key_record import Entry, KeyGroupRecord
from keyfront.errors import KeyLoadError
from keyfront.lifecycle.key_names import name_of
from keyfront.signing.keys import load_public_key


class Group(msgspec.Struct, frozen=True):
    """A key group. `modified` is CloudFront's LastModifiedTime in epoch seconds, 0.0 if unknown."""

    id: str
    name: str
    items: tuple[str, ...]
    etag: str
    modified: float = 0.0
    comment: str = ""


class KnownKey(msgspec.Struct, frozen=True):
    """A public key that CloudFront knows."""

    id: str
    name: str
    encoded_key: str


class Distribution(msgspec.Struct, frozen=True):
    """A distribution that trusts the group. `status` is Deployed or InProgress (semantics §7.6)."""

    id: str
    status: str


class CustodyState(msgspec.Struct, frozen=True):
    """A private key in custody: the fingerprint of its public half, empty if the key is gone or scheduled for deletion.
    If custody is unavailable, `unknown` says why."""

    fingerprint: str = ""
    unknown: str = ""


class Facts(msgspec.Struct, frozen=True):
    """The actual state.

    `group` is None if it does not exist. `elsewhere` maps a public key's id to the other key groups that contain it.
    `held` is keyed by URI. `last_expiry` maps a public key's id to the time when the latest link that edges have seen
    expires, in epoch seconds, where known. `unseen` is the reason why edges cannot report it, empty if they can or if
    there are no such reports (Amazon). `skew` is the number of seconds by which CloudFront's clock is ahead of the
    local one, None if unknown.
    """

    record: KeyGroupRecord
    group: Group | None
    public_keys: tuple[KnownKey, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    elsewhere: Mapping[str, tuple[str, ...]] = {}
    held: Mapping[str, CustodyState] = {}
    last_expiry: Mapping[str, float] = {}
    skew: float | None = None
    unseen: str = ""

    @property
    def items(self) -> tuple[str, ...]:
        return self.group.items if self.group else ()

    def knows(self, key_pair_id: str) -> bool:
        return any(key.id == key_pair_id for key in self.public_keys)

    def id_of(self, entry: Entry) -> str:
        """The key's id at CloudFront, even if a crash prevented its recording; empty if CloudFront does not have the
        key."""
        if entry.key_pair_id:
            return entry.key_pair_id if self.knows(entry.key_pair_id) else ""
        named = (key for key in self.public_keys if key.name == name_of(entry.uri))
        return next((key.id for key in named if fingerprint_of(key.encoded_key) == entry.fingerprint), "")

    def lost(self, entry: Entry) -> str:
        """Why no edge would accept a signature by `entry`; empty if edges would."""
        return self.forgotten(entry) or self.missing(entry)

    def forgotten(self, entry: Entry) -> str:
        """Why edges cannot trust the key; empty if they can."""
        if entry.key_pair_id and not self.knows(entry.key_pair_id):
            return f"its public key {entry.key_pair_id} was deleted at CloudFront"
        return ""

    def missing(self, entry: Entry) -> str:
        """Why custody, as seen from this machine, cannot sign with the key; empty if it can. The key may be in a folder
        on another machine, so this alone causes no step."""
        held = self.held.get(entry.uri, CustodyState())
        if not held.fingerprint and not held.unknown:
            return f"custody has no {entry.uri} here"
        if another(entry, held.fingerprint):
            return f"custody has another key as {entry.uri}"
        return ""

    def trusted_until(self, entry: Entry) -> float:
        """When edges no longer need to trust a DRAINING key, epoch seconds."""
        return max(entry.drain_until, self.last_expiry.get(entry.key_pair_id, 0.0))


def another(entry: Entry, fingerprint: str) -> bool:
    """Whether a key with `fingerprint` (empty if unknown) differs from the one in the record."""
    return bool(entry.fingerprint and fingerprint and fingerprint != entry.fingerprint)


def fingerprint_of(encoded_key: str) -> str:
    try:
        return load_public_key(encoded_key).fingerprint
    except KeyLoadError:
        return ""
