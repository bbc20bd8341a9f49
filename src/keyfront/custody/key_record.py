"""The record of a key group: which key signs now, which keys came before, and which come next.

It is the only state on which the signers and the rotation have to agree. So it is a single text, replaced as a whole by
a writer that has read the current version (`Records.write`). Writing this record is what switches the signers: before
the write every signer uses the old key, after it every signer that has read the record uses the new one, and none ever
mixes the two.

A key passes through its stages in order. A stage is skipped only in an emergency:

    CREATED     it is in custody; CloudFront may not know it yet
    PUBLISHED   every edge trusts it
    SIGNING     signers use it: never more than one key at a time
    DRAINING    no signer uses it any more; edges still trust it, because URLs that it signed are still in use
    RETIRED     no edge trusts it

Every record has a `serial`, which only increases. A process that follows a record and then reads a smaller serial has
read an older copy (from a lagging replica or a store restored from a backup), and continues with the record that it
already knows. To go back to an earlier key, write a new record, with a larger serial, in which that key signs again.
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
"""Maximum clock difference between signers, the rotation, and edges, in seconds."""


class Stage(Enum):
    CREATED = "CREATED"
    PUBLISHED = "PUBLISHED"
    SIGNING = "SIGNING"
    DRAINING = "DRAINING"
    RETIRED = "RETIRED"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key of the group. `uri` is its URI in custody; `key_pair_id` is its ID in CloudFront (empty if CloudFront
    does not know it yet). Times are epoch seconds, 0.0 for an event that has not happened: when it was created, when
    every edge trusted it, when signers started and stopped using it, until when it is trusted at least, and when it
    stopped being trusted.

    `fingerprint` is that of the public key, if known: signers refuse a key from custody with another one. `reach` is
    the longest `RotationPolicy.reach` under which it has signed.

    Two times matter only to the rotation: `leaving` is when it was decided that no edge shall trust the key any more;
    `gone` is when nothing of it was left to delete. A `compromised` key is never reinstated.
    """

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
    """How a group's keys are rotated. Durations are in seconds.

    `place` is where new keys are created. `every` is how long a key signs before the next one replaces it: a duration,
    a cron expression (UTC), or empty for rotation on demand only. `overlap` is the minimum time for which a key is
    trusted after it stops signing. `max_lifetime` is how far in the future a signature may expire; signers enforce it.
    `max_staleness` is how long a signer may continue without having read this record. A key drains for the longer of
    `overlap` and its reach (`KeyGroupRecord.drains_until`). `hash_name` is the hash that signers use unless configured
    otherwise, if the key supports it.

    `settle` is how long after a change to a key group an edge may still not know of it although its distributions are
    Deployed. `grace` is how long the private half of a RETIRED key can still be recovered.
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
        """How long after signers are switched away from a key something that it signed may still be valid: the last
        signer learns of the switch after `max_staleness`, and what it signed just before expires `max_lifetime`
        later."""
        return self.max_staleness + self.max_lifetime + LEEWAY


class KeyGroupRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of one key group. `group` is the key group's name, `key_group_id` its ID in CloudFront, and `entries`
    its keys from the oldest to the newest. RETIRED keys are dropped after a while; the audit log keeps them. `save`
    sets `serial`. `made` counts the keys ever created for the group, and `rotation_requested` is when a rotation was
    requested that has not happened yet."""

    group: str
    key_group_id: str
    terms: RotationPolicy
    entries: tuple[Entry, ...] = ()
    serial: int = 0
    made: int = 0
    rotation_requested: float = msgspec.field(default=0.0, name="asked")

    @property
    def signing(self) -> Entry | None:
        """The key that signs now."""
        return next((entry for entry in self.entries if entry.stage is Stage.SIGNING), None)

    def entry(self, uri: str) -> Entry | None:
        """The key at `uri` in custody."""
        return next((entry for entry in self.entries if entry.uri == uri), None)

    def with_terms(self, terms: RotationPolicy) -> KeyGroupRecord:
        """Return the same keys under another policy. The key that signs keeps the longest reach that it has had."""
        entries = tuple(
            msgspec.structs.replace(entry, reach=max(entry.reach, self.terms.reach, terms.reach))
            if entry.stage is Stage.SIGNING
            else entry
            for entry in self.entries
        )
        return msgspec.structs.replace(self, terms=terms, entries=entries)

    def drains_until(self, entry: Entry, now: float) -> float:
        """Until when edges must trust `entry` if signers are switched away from it at `now`, so that no link that it
        signed under the policy is cut short."""
        return now + max(self.terms.overlap, self.terms.reach, entry.reach)

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)


_decoder = msgspec.json.Decoder(KeyGroupRecord)


def parse_record(data: bytes) -> KeyGroupRecord:
    """:raises CustodyError: if `data` is not a key group's record, or is inconsistent (`check`)."""
    try:
        found = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CustodyError(f"the record of a key group cannot be read: {error}") from error
    check(found)
    return found


def check(record: KeyGroupRecord) -> None:
    """:raises CustodyError: if signers cannot use the record. The message says why: two keys that sign at once, one key
    named twice, a stage without its time, a missing ID that CloudFront must have assigned, or an invalid time or
    duration."""
    where = f"the record of key group {record.group[:100]!r}"
    if not record.group:
        raise CustodyError("the record of a key group names no group")
    if record.serial < 0:
        raise CustodyError(f"{where} has a serial below 0")
    terms = record.terms
    for name in ("every", "overlap", "max_lifetime", "max_staleness", "settle", "grace"):
        value = getattr(terms, name)
        if not isinstance(value, str) and not (math.isfinite(value) and 0 <= value <= MAX_EPOCH):
            raise CustodyError(f"{where}: {name} is a length in seconds, not {value}")
    if not (terms.max_lifetime > 0 and terms.max_staleness > 0 and terms.every != 0):
        raise CustodyError(f"{where}: max_lifetime, max_staleness and every are more than 0")
    entries = record.entries
    for named in ([entry.uri for entry in entries], [e.key_pair_id for e in entries if e.key_pair_id]):
        if len(set(named)) < len(named):
            raise CustodyError(f"{where} names one key twice")
    if sum(entry.stage is Stage.SIGNING for entry in entries) > 1:
        raise CustodyError(f"{where} has two keys that sign at once: it was not made by Keyfront")
    for entry in entries:
        for name in _TIMES:
            value = getattr(entry, name)
            if not (math.isfinite(value) and 0 <= value <= MAX_EPOCH):
                raise CustodyError(f"{where}: {name} of {entry.uri} is not a time in epoch seconds: {value}")
        for name in _NEEDED[entry.stage]:
            if not getattr(entry, name):
                raise CustodyError(f"{where}: {entry.uri} is {entry.stage.value} and has no {name}")


_TIMES = ("created", "published", "signing", "draining", "drain_until", "retired", "reach", "leaving", "gone")
_NEEDED: dict[Stage, tuple[str, ...]] = {
    Stage.CREATED: ("uri",),
    Stage.PUBLISHED: ("uri", "key_pair_id", "published"),
    Stage.SIGNING: ("uri", "key_pair_id", "signing"),
    Stage.DRAINING: ("uri", "key_pair_id", "draining", "drain_until"),
    Stage.RETIRED: ("uri", "retired"),
}
"""The fields required of a key in each stage. A time of an earlier stage may be missing (an emergency skips stages),
and a time of a later stage may be present (a key that was reinstated)."""


# ------------------------------------------------------------------------------------------------------------
# In a place of records


class VersionedRecord(NamedTuple):
    """A record as stored in its place, and the version needed to change it."""

    record: KeyGroupRecord
    version: str


def record_name(group: str) -> str:
    """Return the name under which the record of a key group is stored: the group's own name if it is valid for a
    record, otherwise its readable part plus the beginning of its SHA-256. No two groups share a name.

    :raises CustodyError: if no key group can have the name `group`.
    """
    if not group:
        raise CustodyError("a key group has a name")
    if re.fullmatch(NAME, group) and not group.startswith(_DERIVED):
        return group
    try:
        digest = hashlib.sha256(group.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise CustodyError(f"{group[:100]!a} cannot be the name of a key group") from error
    legible = re.sub(r"[^A-Za-z0-9]+", "-", group)[:24].strip("-")
    return f"{_DERIVED}{legible}-{digest[:24]}" if legible else f"{_DERIVED}{digest[:24]}"


_DERIVED = "kg-"  # prefix of all derived names, so that a plain name cannot pose as another group's


def load(records: Records, group: str) -> VersionedRecord | None:
    """Read the record of a key group. Returns None if there is none.

    :raises CustodyUnavailable: if the place cannot be reached.
    :raises CustodyError: if the record cannot be read, or belongs to another group.
    """
    found = records.read(record_name(group))
    if found is None:
        return None
    record = parse_record(found.data)
    if record.group != group:
        raise CustodyError(
            f"the record {found.name} in {records.uri} is that of key group {record.group[:100]!r}, "
            f"not of {group[:100]!r}"
        )
    return VersionedRecord(record, found.version)


def save(records: Records, record: KeyGroupRecord, version: str | None, *, now: float) -> VersionedRecord:
    """Replace the record with `record`, which was made from the one at `version` (None: there was none). The write
    is durable when this returns. The return value is what was written, with its new serial: the time in
    milliseconds, or one more than the previous serial if that time is not later. So a record that is restored from a
    backup and saved again is newer than any written before, and running signers adopt it.

    :raises RecordChanged: if the stored record has changed; nothing was written.
    :raises CustodyError: if signers could not use the record, or it is too long.
    """
    written = msgspec.structs.replace(record, serial=max(record.serial + 1, int(now * 1000)))
    check(written)
    data = written.to_bytes()
    if len(data) > MOST_BYTES:
        raise CustodyError(
            f"the record of key group {record.group[:100]!r} would take {len(data)} bytes, and {MOST_BYTES} is "
            "what every place of records takes: leave out keys that are RETIRED"
        )
    parse_record(data)  # never write what could not be read again
    return VersionedRecord(written, records.write(record_name(record.group), data, version).version)
