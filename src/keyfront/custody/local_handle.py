"""A key that its place has given away into this process, which signs with it from then on.

The place is asked again from time to time whether the key is still to sign, so that one that was deleted stops
everywhere. While the place cannot be asked, the key goes on: that links are made is what it is kept for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from keyfront.custody.contract import HeldKey
from keyfront.errors import CustodyUnavailable, NoSuchKey
from keyfront.signing.keys import HashName, PrivateKey, PublicKey

CHECK_EVERY = 60.0
"""Seconds after which a handle asks its place again, where the URI says nothing else (`check-every`)."""


class Watch:
    """Whether a key is still what it was, asked at most every `every` seconds. For any thread."""

    def __init__(self, describe: Callable[[], HeldKey], held: HeldKey, every: float) -> None:
        self._describe = describe
        self._held = held
        self._every = every
        self._next = time.monotonic() + every
        self._looking = threading.Lock()

    def asleep(self) -> Watch:
        """The same, and never asked."""
        return Watch(self._describe, self._held, float("inf"))

    def look(self, *, early: bool = False) -> None:
        """:raises NoSuchKey: if the key is gone, to be deleted, or another one has its name."""
        if (time.monotonic() < self._next and not early) or not self._looking.acquire(
            blocking=self._every == 0
        ):
            return  # while one signature waits for the answer, the others need not
        try:
            now = self._describe()
            if now.public_key != self._held.public_key or now.delete_at is not None:
                raise gone(self._held.uri)
            self._next = time.monotonic() + self._every
        except CustodyUnavailable:
            self._next = time.monotonic() + self._every
        finally:
            self._looking.release()


def gone(uri: str) -> NoSuchKey:
    return NoSuchKey(f"{uri} is gone, or is to be deleted: it signs no more")


class LoadedHandle:
    """A handle (contract.py) on a key in this process' memory."""

    hash_names: tuple[HashName, ...] = ("SHA1", "SHA256")

    def __init__(self, uri: str, key: PrivateKey, watch: Watch) -> None:
        self.uri = uri
        self.public_key: PublicKey = key.public_key
        self._key = key
        self._watch = watch

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        self._watch.look()
        return self._key.sign(data, hash_name)

    def look(self) -> None:
        """Ask the place now, for the signatures of the next while.

        :raises NoSuchKey: if the key is to sign no more.
        """
        self._watch.look(early=True)

    def after_fork(self) -> LoadedHandle:
        """It does not ask its place, on whose connections the parent speaks."""
        return LoadedHandle(self.uri, self._key, self._watch.asleep())

    def __repr__(self) -> str:
        return f"<LoadedHandle {self.uri}>"
