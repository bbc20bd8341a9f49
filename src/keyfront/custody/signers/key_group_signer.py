"""Sign with the current key of a key group, which its record names.

    from keyfront import sign_url, signer_for

    url = sign_url("https://media.example.com/film.mp4", signer_for("films"), expires=timedelta(hours=1))

What a signer may do follows from what the rotation guarantees (`key_record.py`): after a switch, the previous key stays
trusted until everything that it can have signed has expired.

1. It signs with the key of the newest record that it has read, and with one key throughout a signature. 2. It signs for
at most `terms.max_staleness` after it last read the record: the key may have been retired since, and links that do not
work are worse than an error. 3. Nothing that it signs expires more than `terms.max_lifetime` from now (signing/sign.py
enforces it). 4. A record with a lower serial than one that it has read is an old copy and is ignored. 5. A new key is
first loaded, and tried on a test message. While that fails, the previous key continues within the bounds of 2, unless
the record says that it is no longer trusted.

A thread reads the record at intervals, so that only the very first signature waits for it. After a sleep of the
machine, or where no thread can run, the next signature finds the record too old and reads it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keyfront.custody.contract import Handle, Records
from keyfront.custody.default_paths import RECORDS_VARIABLE, default_records
from keyfront.custody.key_record import Entry, RotationPolicy, Stage, load
from keyfront.custody.key_uri import split
from keyfront.custody.schemes import open_key, open_place, open_records
from keyfront.custody.signers.changing_key import ChangingKeySigner
from keyfront.errors import CustodyError, CustodyUnavailable, KeyfrontError, NoSuchKey, SigningError
from keyfront.signing.keys import HashName, PublicKey
from keyfront.signing.sign import checked_id

if TYPE_CHECKING:
    from keyfront.custody.signers.agent_client import AgentSigner

PLACES_VARIABLE = "KEYFRONT_PLACES"
"""The environment variable that lists the places in which keys may be opened, separated by spaces."""

AGENT_VARIABLE = "KEYFRONT_AGENT"
"""The environment variable with the address of the agent that signs for this application."""

INTERVAL = 60.0
"""Seconds between two reads of the record."""

Clock = Callable[[], float]


def signer_for(
    group: str,
    *,
    records: str | None = None,
    agent: str | None = None,
    hash_name: HashName | None = None,
    interval: float = INTERVAL,
    places: Iterable[str] | None = None,
) -> KeyGroupSigner | AgentSigner:
    """A Signer that signs with the current key of the key group named `group`. Within a process, the same arguments
    give the same signer. Nothing is read before its first signature, or before `refresh`.

    `records` is the URI of the custody that stores the group's record; the default is KEYFRONT_RECORDS, otherwise the
    custody in the user's data folder. With `agent`, or KEYFRONT_AGENT if `records` is not given, another process signs,
    and no key enters this one (docs/reference/agent.md). `hash_name` is the default hash of its signatures; without it,
    the record's. `interval` is the seconds between two reads of the record. The record names a key by its URI, options
    and all; with `places`, or KEYFRONT_PLACES, keys are opened only in the custodies that are named here, whatever a
    record says.

    :raises CustodyError: if `records`, `agent` or one of `places` is not an address.
    :raises SigningError: if `hash_name` is not a hash.
    """
    if hash_name not in (None, "SHA1", "SHA256"):
        raise SigningError(f"the hash is SHA1 or SHA256, not {hash_name!r}")
    if agent is not None and records is not None:
        raise CustodyError("give either records or an agent, which has its own records")
    agent_address = agent or ("" if records is not None else os.environ.get(AGENT_VARIABLE, ""))
    place = "" if agent_address else records_of(records)
    bounds = places_of(places)
    arguments = (group, place, agent_address, hash_name, interval, bounds)
    known = _signers.get(arguments)
    if known is not None:
        return known
    made: KeyGroupSigner | AgentSigner
    if agent_address:
        from keyfront.custody.signers.agent_client import (
            AgentSigner,
        )  # imports http.client, which few programs need

        made = AgentSigner(group, agent_address, hash_name=hash_name)
    else:
        split(place)
        source = KeySource(lambda: open_records(place), opens_in(bounds), place)
        made = KeyGroupSigner(group, source, hash_name=hash_name, interval=interval)
    return _signers.setdefault(arguments, made)


def records_of(uri: str | None, data: Path | None = None) -> str:
    """The URI of the records: `uri`, or else those of the Keyfront in `data`, or else KEYFRONT_RECORDS, or else those
    of the default data folder.

    :raises SettingsError: if the data folder cannot be read.
    """
    if uri or data is not None:
        return uri or default_records(data=data)
    return os.environ.get(RECORDS_VARIABLE) or default_records()


def places_of(uris: Iterable[str] | None) -> tuple[str, ...]:
    """The places in which keys may be opened: `uris`, or else KEYFRONT_PLACES. Empty: any place.

    :raises CustodyError: if one of them is not a place.
    """
    places = tuple(uris if uris is not None else os.environ.get(PLACES_VARIABLE, "").split())
    for place in places:
        if split(place).name:
            raise CustodyError(f"{place} names a key: a place ends with a slash")
    return places


def opens_in(places: tuple[str, ...]) -> Callable[[str], Handle]:
    """Return a function that opens keys only in `places`, or anywhere if that is empty. Without `places`, anyone who
    can write a record could make this process load a module of theirs, or send its credentials to their server."""

    def opened(uri: str) -> Handle:
        if places:
            place = split(uri).with_name("")
            if place not in places and place not in map(_canonical, places):
                raise CustodyError(f"{place} is not one of the places where this signer may open keys")
        return open_key(uri)

    return opened


def _canonical(place: str) -> str:
    """The URI of a place as the place itself writes it."""
    try:
        return open_place(place).uri
    except CustodyError:
        return place


_Arguments = tuple[str, str, str, HashName | None, float, tuple[str, ...]]
_signers: dict[_Arguments, KeyGroupSigner | AgentSigner] = {}


class KeySource(NamedTuple):
    """Where a signer finds the record of its group, and keys by their URIs. `place` is what messages call the place of
    the record."""

    open_records: Callable[[], Records]
    open_key: Callable[[str], Handle]
    place: str = ""


class PinnedKey:
    """One key of a group: a Signer of its own, for as long as it may sign. Its properties never change, except `until`:
    when it ends, by the clock of its `KeyGroupSigner`, which extends it with each read of a record that names the
    key."""

    __slots__ = (
        "_clock",
        "_follower",
        "_sign",
        "entry",
        "handle",
        "hash_name",
        "hash_names",
        "key_pair_id",
        "max_lifetime",
        "public_key",
        "terms",
        "until",
    )
    until: float

    def __init__(
        self,
        follower: KeyGroupSigner,
        entry: Entry,
        handle: Handle,
        terms: RotationPolicy,
        hash_name: HashName | None,
        until: float = float("-inf"),
    ) -> None:
        self._follower = weakref.ref(follower)
        self._clock = follower.clock
        self.until = until
        self._sign = handle.sign
        self.entry = entry
        self.terms = terms
        self.handle = handle
        self.key_pair_id = entry.key_pair_id
        self.public_key: PublicKey = handle.public_key
        self.hash_names: tuple[HashName, ...] = tuple(handle.hash_names)
        self.hash_name = hash_name or (terms.hash_name if terms.hash_name in self.hash_names else None)
        self.max_lifetime = terms.max_lifetime

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        """:raises NoSuchKey: if it may no longer sign; another key of the group may."""
        if self._clock() >= self.until:
            raise NoSuchKey(f"{self.key_pair_id} was pinned too long ago: pin a key for each signature")
        try:
            return self._sign(data, hash_name)
        except NoSuchKey:
            follower = self._follower()
            if follower is not None:
                follower.gone(self)
            raise

    def __repr__(self) -> str:
        return f"<PinnedKey {self.key_pair_id} {self.public_key.algorithm}>"


class KeyGroupSigner(ChangingKeySigner):
    """A Signer that follows a key group's record. Safe for any thread, and across forks: a child reads the record and
    opens the key again, and until then signs with a key that is in memory (`Handle.after_fork`).

    `key_pair_id`, `public_key` and `sign` are those of the current key at the time of each access. To make a signature
    in several steps, take one key with `pinned()`, as `sign_url` and `sign_cookies` do.
    """

    def __init__(
        self,
        group: str,
        source: KeySource,
        *,
        hash_name: HashName | None = None,
        interval: float = INTERVAL,
        clock: Clock | None = None,
        background: bool = True,
    ) -> None:
        """:param group: the name of the key group.
        :param hash_name: what to sign with; default: the record's.
        :param interval: seconds between two reads of the record.
        :param clock: seconds on any clock that only runs forward.
        :param background: read the record in a thread. Without it, the record is read only by a signature that finds
            it too old, and by `refresh`.
        :raises CustodyError: if `interval` is not more than 0.
        """
        if not interval > 0:
            raise CustodyError("the interval is a number of seconds, more than 0")
        self.group = group
        self._source = source
        self._hash_name = hash_name
        self._interval = interval
        self.clock = clock or _running
        self._background = background
        self._serial = -1
        self._data = b""
        self._every = interval
        self._failure: KeyfrontError | None = None
        self._failures = 0
        self._tried = self._missed = float("-inf")
        self._closed = False
        self._key = _NO_KEY  # read without a lock when signing
        self._inherited = _NO_KEY
        self._reopen = False
        self._unopened()
        _followers.add(self)

    def _unopened(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._records: Records | None = None

    def after_fork(self) -> None:
        """Start again in a child process: the lock, the thread and all connections belong to the parent."""
        key, self._key = self._key, _NO_KEY
        child: Callable[[], Handle] | None = (
            None if key is _NO_KEY else getattr(key.handle, "after_fork", None)
        )
        if child is not None:
            self._inherited = PinnedKey(self, key.entry, child(), key.terms, self._hash_name, key.until)
            self._reopen = True
        key.until = float("-inf")
        self._tried = float("-inf")
        self._unopened()

    # ---- signing

    def pinned(self) -> PinnedKey:
        """The current key, for one signature.

        :raises CustodyUnavailable: if the record could not be read for too long.
        :raises CustodyError: if the group has no signing key, or the key cannot be used.
        """
        key = self._key
        if self.clock() < key.until:
            return key
        return self._found()

    # ---- following

    def refresh(self) -> None:
        """Read the record now. At the start of an application, this shows problems before the first signature. If it
        fails, a signer that has a valid key keeps it.

        :raises CustodyError: if the record cannot be read, or its key cannot be used.
        """
        with self._lock:
            self._read_record()
            failure = self._failure
            self._start_thread()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Stop signing, and release the key and the thread."""
        self._closed = True
        self._stop()
        self._inherited = _NO_KEY
        self._tried = float("-inf")
        self._wake.set()

    def gone(self, key: PinnedKey) -> None:
        """Custody no longer has `key`: read the record, in case another key signs now."""
        with self._lock:
            if self._key is key and self.clock() >= self._missed + _BREATH:
                self._missed = self.clock()
                self._read_record()

    def _found(self) -> PinnedKey:
        """The current key if the last read is missing or too old: read the record."""
        with self._lock:
            if self.clock() < self._key.until:
                return self._key
            if self.clock() < self._inherited.until:
                self._key, self._inherited = self._inherited, _NO_KEY
                self._wake.set()  # the thread reads the record immediately
                self._start_thread()
                return self._key
            if self._failure is None or self.clock() >= self._tried + _BREATH:
                self._read_record()
                self._start_thread()
                if self.clock() < self._key.until:
                    return self._key
            failure = self._failure
        if isinstance(failure, CustodyError) and not isinstance(failure, CustodyUnavailable):
            raise type(failure)(str(failure)) from failure
        if failure is None:
            raise CustodyUnavailable(
                f"the record of key group {self.group!r} was out of date when it had been read: reading it takes "
                "longer than signers may continue without it (max-staleness)"
            )
        seen = "cannot be read" if self._serial < 0 else "could not be read for too long to sign by it"
        raise CustodyUnavailable(f"the record of key group {self.group!r} {seen}: {failure}") from failure

    def _read_record(self) -> None:
        """Read the record and follow it. Stores an error in `_failure`. Called with the lock held."""
        try:
            if self._closed:
                raise CustodyError(f"the signer for key group {self.group!r} is closed")
            self._follow_record()
        except KeyfrontError as error:
            self._failure = error
        except Exception as error:  # an unexpected error of an adapter must not end the thread
            self._failure = CustodyUnavailable(f"{type(error).__name__}: {error}")
        else:
            self._failure = None
        self._tried = self.clock()
        self._failures = 0 if self._failure is None else min(self._failures + 1, 10)

    def _follow_record(self) -> None:
        started = self.clock()  # the record is at least as new as this
        if self._records is None:
            self._records = self._source.open_records()
        kept = load(self._records, self.group)
        if kept is None:
            raise CustodyError(
                f"there is no record of key group {self.group!r} in {self._source.place or 'its place'}"
            )
        found = kept.record
        data = found.to_bytes()
        if found.serial < self._serial or (found.serial == self._serial and data != self._data):
            raise CustodyUnavailable(
                f"the record of key group {self.group!r} in {self._source.place or 'its place'} is an old copy: it "
                f"has serial {found.serial}, and {self._serial} was seen before"
            )
        self._serial, self._data = found.serial, data
        terms, entry = found.terms, found.signing
        self._every = min(self._interval, terms.max_staleness / 3)
        key = self._key
        if entry is None:
            self._stop()
            raise CustodyError(f"no key of key group {self.group!r} signs now")
        if entry.leaving:  # edges do not trust it, or soon will not
            self._stop()
            raise CustodyError(
                f"the key {entry.key_pair_id} of key group {self.group!r} is compromised, and its successor does not "
                "sign yet"
            )
        same = key is not _NO_KEY and (key.entry.uri, key.entry.key_pair_id) == (entry.uri, entry.key_pair_id)
        was = None if key is _NO_KEY else found.entry(key.entry.uri)
        if not same and (was is None or was.leaving or was.stage is Stage.RETIRED):
            self._stop()  # edges do not trust it, or soon will not
        if not same or self._reopen:
            try:
                key = self._loaded(entry, terms)
                self._reopen = False
            except CustodyUnavailable:
                if not same:
                    raise
        else:
            check: Callable[[], None] | None = getattr(key.handle, "check", None)
            if check is not None:
                check()
        if key.terms != terms:
            key = PinnedKey(self, entry, key.handle, terms, self._hash_name)
        if not self._closed:
            key.until = started + terms.max_staleness
            self._key = key

    def _stop(self) -> None:
        """Stop signing with the key, including for callers that have pinned it."""
        key, self._key = self._key, _NO_KEY
        key.until = float("-inf")

    def _loaded(self, entry: Entry, terms: RotationPolicy) -> PinnedKey:
        """The key of `entry`, after a test signature.

        :raises CustodyError: if its signature does not verify with its public key.
        """
        handle = self._source.open_key(entry.uri)
        key = PinnedKey(self, entry, handle, terms, self._hash_name)
        if entry.fingerprint and key.public_key.fingerprint != entry.fingerprint:
            raise CustodyError(
                f"{entry.uri} is another key than the one that CloudFront calls {entry.key_pair_id}"
            )
        if key.hash_name is not None and key.hash_name not in key.hash_names:
            raise CustodyError(
                f"{entry.uri} cannot sign with {key.hash_name}, only with {' or '.join(key.hash_names)}"
            )
        hash_name = key.hash_name or key.hash_names[-1]
        if not key.public_key.verify(_TRIAL, handle.sign(_TRIAL, hash_name), hash_name):
            raise CustodyError(f"{entry.uri} does not sign as its own public key says")
        return key

    def _start_thread(self) -> None:
        """Start the thread unless it runs. Called with the lock held."""
        if not self._background or self._closed or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(
            target=_follow,
            args=(weakref.ref(self), self._wake),
            name=f"keyfront follows {self.group}",
            daemon=True,
        )
        with contextlib.suppress(RuntimeError):  # no thread can start: signatures read the record
            self._thread.start()

    def _pause(self) -> float:
        pause = min(self._every, _BREATH * 2**self._failures) if self._failures else self._every
        return pause * _jitter.uniform(0.85, 1.0)  # so that signers do not read at the same time

    def _read_again(self) -> bool:
        """One read by the thread; False if it was the last."""
        if not self._closed:
            with self._lock:
                self._read_record()
        return not self._closed

    def __repr__(self) -> str:
        key = self._key
        return f"<KeyGroupSigner {self.group!r} {'' if key is _NO_KEY else key.key_pair_id}>"


class CustodySigner:
    """A Signer with one fixed key in custody. The key is opened once, when this is created."""

    def __init__(self, key_pair_id: str, uri: str) -> None:
        """:raises SigningError: if `key_pair_id` is not a valid ID.
        :raises CustodyError: if there is no such key, or its place cannot be opened."""
        self.key_pair_id = checked_id(key_pair_id)
        handle = open_key(uri)
        self.public_key = handle.public_key
        self.hash_names = tuple(handle.hash_names)
        self.sign = handle.sign

    def __repr__(self) -> str:
        return f"<CustodySigner {self.key_pair_id} {self.public_key.algorithm}>"


_TRIAL = b"Keyfront tries a key. This is no policy."
_jitter = random.SystemRandom()
"""Not the generator of the `random` module: the application may have seeded that."""
_BREATH = 1.0  # seconds after a failed read, before a signature reads again
_NO_KEY = object.__new__(PinnedKey)  # a null object: it has always ended
_NO_KEY.until = float("-inf")
_followers: weakref.WeakSet[KeyGroupSigner] = weakref.WeakSet()


def _follow(watched: weakref.ref[KeyGroupSigner], wake: threading.Event) -> None:
    """The thread. It holds only a weak reference to its signer and ends with it; a daemon thread, it does not delay the
    end of the process."""
    while (signer := watched()) is not None:
        waits = signer._pause()
        del signer
        wake.wait(waits)
        wake.clear()
        signer = watched()
        if signer is None or not signer._read_again():
            return
        del signer


_running: Clock = functools.partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds on a clock that only runs forward, also during a sleep of the machine if the system has such a clock."""


def _after_fork() -> None:
    for signer in list(_followers):
        signer.after_fork()


os.register_at_fork(after_in_child=_after_fork)
