"""Keys in a place with no notion of keys: each is a text, changed only by compare-and-swap.

Such a place is `Texts`: records (contract.py) that, once removed, leave neither their content nor their earlier
contents readable. The place's own deletion is not used, so that all places keep the promises of the contract alike: the
deletion time of a key is in its text, and the first access after that time removes the key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import msgspec

from keyfront.custody.contract import (
    HeldKey,
    Record,
    Records,
    checked_grace,
    checked_labels,
    checked_name,
    there_already,
)
from keyfront.custody.local_handle import LoadedHandle, Watch
from keyfront.errors import CustodyError, CustodyUnavailable, KeyExists, NoSuchKey, RecordChanged
from keyfront.signing.keys import Algorithm, PrivateKey, generate_private_key, parse_private_key

_TRIES = 20
"""How often a change is retried when others change the same key. A retry is needed only after another change
succeeded."""


class Texts(Protocol):
    """A store of keys as named texts. Like `Records`, for texts that are long enough for a key with its labels."""

    def read(self, name: str) -> Record | None: ...

    def write(self, name: str, data: bytes, version: str | None) -> Record: ...

    def remove(self, name: str, version: str) -> None: ...

    def all(self) -> Iterator[Record]:
        """Yield all records, in any order."""


class StoredKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a text. All fields are strings, for places that store fields of text."""

    private_key: str
    created: str
    labels: str = "{}"
    delete_at: str = ""

    def __repr__(self) -> str:
        return "<StoredKey>"


_decoder = msgspec.json.Decoder(StoredKey)


class TextCustody:
    """A custody (contract.py) over `Texts`."""

    algorithms: tuple[Algorithm, ...] = ("RSA-2048", "ECDSA-P256")
    exports = True

    def __init__(
        self, texts: Texts, records: Records, written: Callable[[str], str], check_every: float
    ) -> None:
        """`written` returns the URI for a name, or the place's own URI for no name."""
        self.uri = written("")
        self.records = records
        self._texts = texts
        self._written = written
        self._check_every = check_every

    def __repr__(self) -> str:
        return f"<TextCustody {self.uri}>"

    # ---- creating and importing keys

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        return self._put(name, lambda: generate_private_key(algorithm), now, labels)

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        try:
            return self._put(name, lambda: key, now, labels)
        except KeyExists:
            return there_already(self.describe(name), key.public_key)

    def _put(
        self, name: str, key: Callable[[], PrivateKey], now: float, labels: Mapping[str, str] | None
    ) -> HeldKey:
        checked_name(name)
        stored_labels = msgspec.json.encode(checked_labels(labels)).decode()
        taken = KeyExists(f"{self._written(name)} is there already")
        if self._read(name) is not None:
            raise taken
        made = key()
        stored = StoredKey(made.to_pem(), repr(now), stored_labels)
        try:
            self._texts.write(name, msgspec.json.encode(stored), None)
        except RecordChanged:
            raise taken from None
        return self._held(name, stored, made)

    # ---- listing and describing keys

    def list(self) -> Iterator[HeldKey]:
        for record in sorted(self._texts.all(), key=lambda record: record.name):
            try:
                stored = self._live(record)
                if stored is not None:
                    yield self._held(record.name, stored)
            except CustodyUnavailable:
                raise
            except CustodyError:
                continue  # not one of Keyfront's

    def describe(self, name: str) -> HeldKey:
        return self._held(name, self._existing(name)[1])

    def handle(self, name: str) -> LoadedHandle:
        stored = self._existing(name)[1]
        key = _private(stored, self._written(name))
        held = self._held(name, stored, key)
        if held.delete_at is not None:
            raise NoSuchKey(f"{held.uri} is to be deleted: it signs no more")
        return LoadedHandle(held.uri, key, Watch(lambda: self.describe(name), held, self._check_every))

    def export(self, name: str) -> PrivateKey:
        return _private(self._existing(name)[1], self._written(name))

    # ---- deleting keys

    def delete(self, name: str, *, grace: float, now: float) -> HeldKey:
        checked_grace(grace)
        for _ in range(_TRIES):
            record, stored = self._existing(name)
            at = now + grace if not stored.delete_at else min(now + grace, float(stored.delete_at))
            marked = msgspec.structs.replace(stored, delete_at=repr(at))
            try:
                if grace <= 0:
                    self._texts.remove(name, record.version)
                elif marked != stored:
                    self._texts.write(name, msgspec.json.encode(marked), record.version)
            except RecordChanged:
                continue
            return self._held(name, marked)
        raise self._busy(name)

    def undelete(self, name: str) -> HeldKey:
        for _ in range(_TRIES):
            record, stored = self._existing(name)
            restored = msgspec.structs.replace(stored, delete_at="")
            try:
                if restored != stored:
                    self._texts.write(name, msgspec.json.encode(restored), record.version)
            except RecordChanged:
                continue
            return self._held(name, restored)
        raise self._busy(name)

    def _busy(self, name: str) -> CustodyUnavailable:
        return CustodyUnavailable(f"{self._written(name)} is changed by others all the time")

    # ---- internals

    def _read(self, name: str) -> tuple[Record, StoredKey] | None:
        record = self._texts.read(checked_name(name))
        stored = None if record is None else self._live(record)
        return None if record is None or stored is None else (record, stored)

    def _existing(self, name: str) -> tuple[Record, StoredKey]:
        found = self._read(name)
        if found is None:
            raise NoSuchKey(f"there is no {self._written(name)}")
        return found

    def _live(self, record: Record) -> StoredKey | None:
        """Parse the text. Returns None, and removes the key, if its deletion time has come."""
        try:
            stored = _decoder.decode(record.data)
            over = bool(stored.delete_at) and float(stored.delete_at) <= time.time()
        except (msgspec.MsgspecError, ValueError):
            raise CustodyError(f"{self._written(record.name)} is not a key that Keyfront stored") from None
        if not over:
            return stored
        try:
            self._texts.remove(record.name, record.version)
        except RecordChanged:
            pass  # another process has removed it
        return None

    def _held(self, name: str, stored: StoredKey, key: PrivateKey | None = None) -> HeldKey:
        uri = self._written(name)
        key = key or _private(stored, uri)
        try:
            return HeldKey(
                uri,
                name,
                key.public_key,
                float(stored.created),
                exportable=True,
                delete_at=float(stored.delete_at) if stored.delete_at else None,
                labels=msgspec.json.decode(stored.labels, type=dict[str, str]),
            )
        except (msgspec.MsgspecError, ValueError):
            raise CustodyError(f"{uri} is not a key that Keyfront stored") from None


def _private(stored: StoredKey, uri: str) -> PrivateKey:
    """Parse the key. An error reveals nothing of unreadable text: it may still be a secret."""
    if not stored.private_key.startswith(
        "-----BEGIN "
    ):  # text that is not PEM would be taken for a file name
        raise CustodyError(f"{uri} holds no private key in PEM")
    try:
        return parse_private_key(stored.private_key)
    except ValueError:
        raise CustodyError(f"{uri} holds a private key that cannot be read") from None
