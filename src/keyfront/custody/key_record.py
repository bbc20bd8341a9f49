"""Which key of a key group signs now, which came before, and which will come: one small record a key group.

It is the only thing on which those that sign and the one that rotates have to agree, so it is one text, changed as a
whole by whoever has seen what was there (`Records.write`). To switch signers is to write this record: before it every
signer takes the old key, after it every signer that has looked takes the new one, and none ever mixes the two.

A key passes through its stages in order, and none is skipped but in an emergency:

    CREATED     it is in custody; CloudFront may not know it yet
    PUBLISHED   every edge trusts it
    SIGNING     signers use it: never more than one key at a time
    DRAINING    no signer uses it any more, and edges still trust it, for what it signed is still about
    RETIRED     no edge trusts it

Every record has a `serial`, which only grows. Who follows a record and then meets a smaller serial has met a copy of
an older one (a replica that lags, a store restored from a backup), and goes by what it has seen. To go back to an
earlier key is to write a new record, with a larger serial, in which that key signs again.
"""

from __future__ import annotations

import hashlib
import math
import re
from enum import Enum
from typing import NamedTuple

import msgspec

from keyfront.custody.contract import MOST_BYTES, NAME, Records
from keyfront.errors import CustodyError
from keyfront.signing.keys import Algorithm, HashName
from keyfront.signing.policy import MAX_EPOCH

DAY = 86400.0

LEEWAY = 60.0
"""How far the clocks of signers, of the one that rotates and of edges may be apart, seconds."""


class Stage(Enum):
    CREATED = "CREATED"
    PUBLISHED = "PUBLISHED"
    SIGNING = "SIGNING"
    DRAINING = "DRAINING"
    RETIRED = "RETIRED"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key of the group. `uri` is where custody has it, `key_pair_id` what CloudFront calls it (empty: CloudFront
    does not know it yet). Times are epoch seconds, 0.0 for what has not come: when it was made, when every edge trusted
    it, when signers took it and left it, until when it is trusted at least, and when it ceased to be.

    `fingerprint` is the public key's, if known: signers refuse a key from custody that is another. `reach` is the
    longest `Terms.reach` under which it has signed.

    What only the rotation goes by: `leaving` is when it was decided that no edge shall trust it any more, `gone` when
    nothing of it was left to be deleted. A `compromised` key is never gone back to."""

    uri: str
    stage: Stage
    created: float
    key_pair_id: str = ""
    published: float = 0.0
    signing: float = 0.0
    draining: float = 0.0
    drain_until: float = 0.0
    retired: float = 0.0
    fingerprint: str = ""
    reach: float = 0.0
    leaving: float = 0.0
    gone: float = 0.0
    compromised: bool = False


class RotationPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a group's keys are rotated. Lengths are seconds.

    `place` is where new keys are made. `every` is how long a key signs before the next takes its place: a length, or a
    cron expression (UTC), or empty for rotation on demand only. `overlap` is how long a key that signs no more is
    trusted at least; `max_lifetime` how far ahead a signature may end, which signers obey; `max_staleness` how long a
    signer may go on without having seen this record. A key drains for the longer of `overlap` and its reach
    (`Succession.drains_until`). `hash_name` is what signers use unless told otherwise, if the key can.

    `settle` is how long after a key group was changed an edge may still not know of it although its distributions are
    Deployed, and `grace` how long the private half of a key that is RETIRED can still be had back.
    """

    place: str
    algorithm: Algorithm = "ECDSA-P256"
    every: float | str = ""
    overlap: float = 30 * DAY
    max_lifetime: float = 7 * DAY
    max_staleness: float = 3600.0
    hash_name: HashName | None = None
    application: str = ""
    paused: bool = False
    settle: float = 300.0
    grace: float = 30 * DAY

    @property
    def reach(self) -> float:
        """How long after signers were told to leave a key something that it signed may still be valid: the last of
        them hears of it after `max_staleness`, and what it signed just before ends `max_lifetime` later."""
        return self.max_staleness + self.max_lifetime + LEEWAY


class KeyGroupRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of one key group. `group` is the key group's name, `key_group_id` its id in CloudFront, `entries` its
    keys from the oldest to the newest. RETIRED ones are forgotten after a while; audit remembers them. `serial` is set
    by `save`. `made` counts the keys that were ever made for the group, and `asked` is when somebody asked for a
    rotation that has not happened yet."""

    group: str
    key_group_id: str
    terms: RotationPolicy
    entries: tuple[Entry, ...] = ()
    serial: int = 0
    made: int = 0
    asked: float = 0.0

    @property
    def signing(self) -> Entry | None:
        """The key that signs now."""
        return next((entry for entry in self.entries if entry.stage is Stage.SIGNING), None)

    def entry(self, uri: str) -> Entry | None:
        """The key that custody has at `uri`."""
        return next((entry for entry in self.entries if entry.uri == uri), None)

    def with_terms(self, terms: RotationPolicy) -> KeyGroupRecord:
        """The same keys under other terms. The key that signs keeps the longest reach that it has had."""
        entries = tuple(
            msgspec.structs.replace(entry, reach=max(entry.reach, self.terms.reach, terms.reach))
            if entry.stage is Stage.SIGNING
            else entry
            for entry in self.entries
        )
        return msgspec.structs.replace(self, terms=terms, entries=entries)

    def drains_until(self, entry: Entry, now: float) -> float:
        """Until when edges have to trust `entry` if signers are told now to leave it: no link that it signed by the
        terms is cut short."""
        return now + max(self.terms.overlap, self.terms.reach, entry.reach)

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)


_decoder = msgspec.json.Decoder(KeyGroupRecord)


def read_succession(data: bytes) -> KeyGroupRecord:
    """:raises CustodyError: if `data` is no such record, or one that makes no sense (`check`)."""
    try:
        found = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CustodyError(f"the record of a key group cannot be read: {error}") from error
    check(found)
    return found


def check(succession: KeyGroupRecord) -> None:
    """:raises CustodyError: if signers cannot go by it, the message says why: two keys that sign at once, one key named
    twice, a stage without its time, an id that CloudFront has to have given, times and lengths that are none."""
    told = f"the record of key group {succession.group[:100]!r}"
    if not succession.group:
        raise CustodyError("the record of a key group names no group")
    if succession.serial < 0:
        raise CustodyError(f"{told} has a serial below 0")
    terms = succession.terms
    for name in ("every", "overlap", "max_lifetime", "max_staleness", "settle", "grace"):
        value = getattr(terms, name)
        if not isinstance(value, str) and not (math.isfinite(value) and 0 <= value <= MAX_EPOCH):
            raise CustodyError(f"{told}: {name} is a length in seconds, not {value}")
    if not (terms.max_lifetime > 0 and terms.max_staleness > 0 and terms.every != 0):
        raise CustodyError(f"{told}: max_lifetime, max_staleness and every are more than 0")
    entries = succession.entries
    for named in ([entry.uri for entry in entries], [e.key_pair_id for e in entries if e.key_pair_id]):
        if len(set(named)) < len(named):
            raise CustodyError(f"{told} names one key twice")
    if sum(entry.stage is Stage.SIGNING for entry in entries) > 1:
        raise CustodyError(f"{told} has two keys that sign at once: it was not made by Keyfront")
    for entry in entries:
        for name in _TIMES:
            value = getattr(entry, name)
            if not (math.isfinite(value) and 0 <= value <= MAX_EPOCH):
                raise CustodyError(f"{told}: {name} of {entry.uri} is no time in epoch seconds: {value}")
        for name in _NEEDED[entry.stage]:
            if not getattr(entry, name):
                raise CustodyError(f"{told}: {entry.uri} is {entry.stage.value} and has no {name}")


_TIMES = ("created", "published", "signing", "draining", "drain_until", "retired", "reach", "leaving", "gone")
_NEEDED: dict[Stage, tuple[str, ...]] = {
    Stage.CREATED: ("uri",),
    Stage.PUBLISHED: ("uri", "key_pair_id", "published"),
    Stage.SIGNING: ("uri", "key_pair_id", "signing"),
    Stage.DRAINING: ("uri", "key_pair_id", "draining", "drain_until"),
    Stage.RETIRED: ("uri", "retired"),
}
"""What has to be known of a key in each stage. A time of an earlier stage may be missing (an emergency leaves stages
out), and one of a later stage may be there (a key that was gone back to)."""


# ------------------------------------------------------------------------------------------------------------
# In a place of records


class VersionedRecord(NamedTuple):
    """A record as its place has it, and the version by which it can be changed."""

    succession: KeyGroupRecord
    version: str


def record_name(group: str) -> str:
    """Under which name the record of a key group is kept: the group's own where records may be called so, else what
    can be read of it and the beginning of its SHA-256. No two groups share one.

    :raises CustodyError: if no key group can be called `group`.
    """
    if not group:
        raise CustodyError("a key group has a name")
    if re.fullmatch(NAME, group) and not group.startswith(_DERIVED):
        return group
    try:
        digest = hashlib.sha256(group.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise CustodyError(f"{group[:100]!a} is no text that a key group can be called") from error
    legible = re.sub(r"[^A-Za-z0-9]+", "-", group)[:24].strip("-")
    return f"{_DERIVED}{legible}-{digest[:24]}" if legible else f"{_DERIVED}{digest[:24]}"


_DERIVED = "kg-"  # names that begin so are all derived, so that no plain one can pose as another group's


def load(records: Records, group: str) -> VersionedRecord | None:
    """The record of a key group; None if there is none.

    :raises CustodyUnavailable: if the place cannot be asked.
    :raises CustodyError: if it cannot be read, or is another group's.
    """
    found = records.read(record_name(group))
    if found is None:
        return None
    succession = read_succession(found.data)
    if succession.group != group:
        raise CustodyError(
            f"the record {found.name} in {records.uri} is that of key group {succession.group[:100]!r}, "
            f"not of {group[:100]!r}"
        )
    return VersionedRecord(succession, found.version)


def save(records: Records, succession: KeyGroupRecord, version: str | None, *, now: float) -> VersionedRecord:
    """Put `succession` in the place of the record that it was made from and that had `version` (None: there was none).
    Durable when this returns; what it returns is what was written, with the serial that it got: the time in
    milliseconds, or one more than before if that is not later. So a record that comes back from a backup and is saved
    again is newer than any that was written before, and signers that run go by it.

    :raises RecordChanged: if something else is there; nothing was written.
    :raises CustodyError: if signers could not go by it, or it is too long.
    """
    written = msgspec.structs.replace(succession, serial=max(succession.serial + 1, int(now * 1000)))
    check(written)
    data = written.to_bytes()
    if len(data) > MOST_BYTES:
        raise CustodyError(
            f"the record of key group {succession.group[:100]!r} would take {len(data)} bytes, and {MOST_BYTES} is "
            "what every place of records takes: leave out keys that are RETIRED"
        )
    read_succession(data)  # nothing is let out that could not be read again
    return VersionedRecord(written, records.write(record_name(succession.group), data, version).version)
