"""A key group whose record lives in a `MemoryPlace`, and the decision of an edge that trusts its keys."""

from __future__ import annotations

import functools
from urllib.parse import parse_qsl, urlsplit

import msgspec

from keyfront.custody.key_record import (
    Entry,
    KeyGroupRecord,
    RotationPolicy,
    Stage,
    VersionedRecord,
    load,
    save,
)
from keyfront.custody.signers.key_group_signer import KeyGroupSigner, KeySource
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, generate_private_key
from keyfront.signing.sign import Signer, sign_url
from keyfront.signing.verify import KeyRing
from tests.custody.memory import MemoryPlace
from tests.signing.harness import reason

NOW = 1_800_000_000.0
URL = "https://cdn.test/films/1.mp4"


def key(id_: str, algorithm: Algorithm = "ECDSA-P256") -> PrivateKey:
    return _key(id_, algorithm)


@functools.cache
def _key(id_: str, algorithm: Algorithm) -> PrivateKey:
    return generate_private_key(algorithm)


class Clock:
    """A clock that advances only when set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Group:
    """The key group `films`: one key after another signs, and `ring` trusts all that were not retired."""

    name = "films"

    def __init__(self, place: MemoryPlace, terms: RotationPolicy | None = None) -> None:
        self.place = place
        self.terms = terms or RotationPolicy("memory:/", max_lifetime=7200.0, max_staleness=600.0)
        self.written = NOW
        self.trusted: dict[str, Algorithm] = {}

    def stored(self) -> VersionedRecord | None:
        return load(self.place, self.name)

    def sign_with(
        self, id_: str, algorithm: Algorithm = "ECDSA-P256", *, before: Stage = Stage.DRAINING
    ) -> KeyGroupRecord:
        """Switch: `id_` signs from now on, and the previous signing key is in `before`."""
        self.place.keys[f"memory:/{id_}"] = key(id_, algorithm)
        self.trusted[id_] = algorithm
        loaded = self.stored()
        entries = list(loaded.record.entries) if loaded else []
        entries = [
            self.into(entry, before) if entry.stage is Stage.SIGNING else entry
            for entry in entries
            if entry.key_pair_id != id_
        ]
        entries.append(Entry(f"memory:/{id_}", Stage.SIGNING, NOW, id_, published=NOW, signing=NOW))
        return self.write(tuple(entries))

    def into(self, entry: Entry, stage: Stage) -> Entry:
        if stage is Stage.RETIRED:
            self.trusted.pop(entry.key_pair_id, None)
        return msgspec.structs.replace(entry, stage=stage, draining=NOW, drain_until=NOW + 9, retired=NOW)

    def write(
        self, entries: tuple[Entry, ...] | None = None, terms: RotationPolicy | None = None
    ) -> KeyGroupRecord:
        loaded = self.stored()
        self.terms = terms or self.terms
        self.written += 1
        record = KeyGroupRecord(
            self.name,
            "kg-1",
            self.terms,
            entries if entries is not None else loaded.record.entries if loaded else (),
            loaded.record.serial if loaded else 0,
        )
        return save(self.place, record, loaded.version if loaded else None, now=self.written).record

    def signer(
        self,
        *,
        clock: Clock | None = None,
        background: bool = False,
        hash_name: HashName | None = None,
        interval: float = 60.0,
    ) -> KeyGroupSigner:
        return KeyGroupSigner(
            self.name,
            KeySource(lambda: self.place, self.place.handle),
            clock=clock,
            background=background,
            hash_name=hash_name,
            interval=interval,
        )

    @property
    def ring(self) -> KeyRing:
        return KeyRing({id_: key(id_, algorithm).public_key for id_, algorithm in self.trusted.items()})


def signed(signer: Signer, lifetime: int = 3600, *, hash_name: HashName | None = None) -> str:
    return sign_url(URL, signer, expires=int(NOW) + lifetime, hash_name=hash_name, now=NOW)


def key_of(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["Key-Pair-Id"]


def verdict(url: str, ring: KeyRing) -> str:
    """The answer of an edge that trusts `ring`: "granted", or the reason for denial."""
    return reason(url, keys=ring, now=NOW)
