"""A custody in memory that implements the common contract: it holds keys and records in plain sight of a test, can be
disconnected and reconnected, and counts its calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from keyfront.custody.contract import Record
from keyfront.errors import CustodyUnavailable, NoSuchKey, RecordChanged
from keyfront.signing.keys import HashName, PrivateKey, PublicKey


class MemoryHandle:
    def __init__(self, place: MemoryPlace, uri: str, key: PrivateKey) -> None:
        self._place = place
        self.uri = uri
        self._key = key
        self.opened_by = os.getpid()
        self.public_key: PublicKey = key.public_key
        self.hash_names: tuple[HashName, ...] = ("SHA1", "SHA256")
        if place.in_memory:
            self.after_fork = lambda: self

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        if self._place.remote:
            self._place.ask()
            if self.uri not in self._place.keys:
                raise NoSuchKey(f"{self.uri} is gone")
        return self._key.sign(data, hash_name)


class MemoryPlace:
    """Keys by URI, and records. `remote`: keys sign in the custody, as in a KMS, and not in the caller's memory."""

    uri = "memory:/"

    def __init__(self, *, remote: bool = False) -> None:
        self.keys: dict[str, PrivateKey] = {}
        self.texts: dict[str, Record] = {}
        self.remote = remote
        self.cut_off = False
        self.in_memory = False
        self.calls = 0
        self.on_ask: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._writes = 0

    def ask(self) -> None:
        self.calls += 1
        self.on_ask()
        if self.cut_off:
            raise CustodyUnavailable("the place cannot be asked now")

    def handle(self, uri: str) -> MemoryHandle:
        self.ask()
        if uri not in self.keys:
            raise NoSuchKey(f"there is no {uri}")
        return MemoryHandle(self, uri, self.keys[uri])

    # ---- Records

    def read(self, name: str) -> Record | None:
        self.ask()
        return self.texts.get(name)

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        self.ask()
        with self._lock:
            there = self.texts.get(name)
            if (there.version if there else None) != version:
                raise RecordChanged(f"{name} holds something else")
            self._writes += 1
            self.texts[name] = Record(name, data, str(self._writes))
            return self.texts[name]

    def names(self) -> list[str]:
        self.ask()
        return sorted(self.texts)

    def remove(self, name: str, version: str) -> None:
        self.ask()
        with self._lock:
            there = self.texts.get(name)
            if there is None or there.version != version:
                raise RecordChanged(f"{name} holds something else")
            del self.texts[name]
