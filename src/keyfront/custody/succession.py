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
"""

from __future__ import annotations

from enum import Enum

import msgspec

from keyfront.errors import CustodyError
from keyfront.signing.keys import Algorithm, HashName

DAY = 86400.0


class Stage(Enum):
    CREATED = "CREATED"
    PUBLISHED = "PUBLISHED"
    SIGNING = "SIGNING"
    DRAINING = "DRAINING"
    RETIRED = "RETIRED"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key of the group. `uri` is where custody has it, `key_pair_id` what CloudFront calls it (empty: CloudFront
    does not know it yet). Times are epoch seconds, 0.0 for what has not come: when it was made, when every edge trusted
    it, when signers took it and left it, until when it is trusted at least, and when it ceased to be."""

    uri: str
    stage: Stage
    created: float
    key_pair_id: str = ""
    published: float = 0.0
    signing: float = 0.0
    draining: float = 0.0
    drain_until: float = 0.0
    retired: float = 0.0


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a group's keys are rotated. Lengths are seconds.

    `place` is where new keys are made. `every` is how long a key signs before the next takes its place: a length, or a
    cron expression (UTC), or empty for rotation on demand only. `overlap` is how long a key that signs no more is
    trusted at least; `max_lifetime` how far ahead a signature may end, which signers obey; `max_staleness` how long a
    signer may go on without having seen this record. A key drains for the longer of `overlap` and
    `max_staleness + max_lifetime`. `hash_name` is what signers use unless told otherwise.
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


class Succession(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of one key group. `group` is the key group's name, `key_group_id` its id in CloudFront, `entries` its
    keys from the oldest to the newest. RETIRED ones are forgotten after a while; audit remembers them."""

    group: str
    key_group_id: str
    terms: Terms
    entries: tuple[Entry, ...] = ()

    @property
    def signing(self) -> Entry | None:
        """The key that signs now."""
        return next((entry for entry in self.entries if entry.stage is Stage.SIGNING), None)

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)


_decoder = msgspec.json.Decoder(Succession)


def read_succession(data: bytes) -> Succession:
    """:raises CustodyError: if `data` is no such record, or one in which two keys sign."""
    try:
        found = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CustodyError(f"the record of a key group cannot be read: {error}") from error
    if sum(entry.stage is Stage.SIGNING for entry in found.entries) > 1:
        raise CustodyError(
            f"two keys of {found.group} sign at once in its record: it was not made by Keyfront"
        )
    return found
