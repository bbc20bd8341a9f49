"""A handle on a key that its place has exported into this process, which then signs with it.

The handle queries the place from time to time, so that a deleted key stops signing everywhere. While the place cannot
be reached, the key continues to sign: producing links is its purpose.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from keyfront.custody.contract import HeldKey
from keyfront.errors import CustodyUnavailable, NoSuchKey
from keyfront.signing.keys import HashName, PrivateKey, PublicKey

CHECK_EVERY = 60.0
"""Seconds between two queries of the place, unless the URI sets another interval (`check-every`)."""


class Watch:
    """Checks at most every `every` seconds whether a key is still unchanged. Safe to use from any thread."""

    def __init__(self, describe: Callable[[], HeldKey], held: HeldKey, every: float) -> None:
        self._describe = describe
        self._held = held
        self._every = every
        self._next = time.monotonic() + every
        self._checking = threading.Lock()

    def asleep(self) -> Watch:
        """Return a copy that never queries the place."""
        return Watch(self._describe, self._held, float("inf"))

    def check(self, *, early: bool = False) -> None:
        """:raises NoSuchKey: if the key is gone or scheduled for deletion, or another key has its name."""
        if (time.monotonic() < self._next and not early) or not self._checking.acquire(
            blocking=self._every == 0
        ):
            return  # one signature waits for the response; the others need not
        try:
            now = self._describe()
            if now.public_key != self._held.public_key or now.delete_at is not None:
                raise gone(self._held.uri)
            self._next = time.monotonic() + self._every
        except CustodyUnavailable:
            self._next = time.monotonic() + self._every
        finally:
            self._checking.release()


def gone(uri: str) -> NoSuchKey:
    return NoSuchKey(f"{uri} is deleted, or is to be deleted: it no longer signs")


class LoadedHandle:
    """A handle (contract.py) on a key in the memory of this process."""

    hash_names: tuple[HashName, ...] = ("SHA1", "SHA256")

    def __init__(self, uri: str, key: PrivateKey, watch: Watch) -> None:
        self.uri = uri
        self.public_key: PublicKey = key.public_key
        self._key = key
        self._watch = watch

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        self._watch.check()
        return self._key.sign(data, hash_name)

    def check(self) -> None:
        """Query the place now, so that the next signatures need not wait for it.

        :raises NoSuchKey: if the key may no longer sign.
        """
        self._watch.check(early=True)

    def after_fork(self) -> LoadedHandle:
        """Return a handle that does not query its place, because the parent uses the place's connections."""
        return LoadedHandle(self.uri, self._key, self._watch.asleep())

    def __repr__(self) -> str:
        return f"<LoadedHandle {self.uri}>"
