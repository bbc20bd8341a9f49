"""The `file:` custody: a folder of private keys, encrypted at rest, and of records.

    file:/srv/keys/photos-1?kek=env:KEYFRONT_CUSTODY_PASSPHRASE

A key is a file `NAME.private` (key_file.py), a record a file `NAME.record` (folder.py). The folder's own key is in
`custody.envelope`, sealed under the key-encrypting key that `kek=` names (envelope.py, kek.py). The data shown by
listing and describing is not encrypted. Only making, importing, signing with, and exporting a key require the
key-encrypting key.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from keyfront.custody.adapters.filesystem.envelope import (
    ENVELOPE,
    FolderKey,
    folder_key_id,
    new_folder_key,
    open_folder_key,
)
from keyfront.custody.adapters.filesystem.folder import Folder, FolderRecords, Stamp
from keyfront.custody.adapters.filesystem.kek import KEY, kek_of
from keyfront.custody.adapters.filesystem.key_file import KeyFile, open_key_file, read_key_file, sealed_key
from keyfront.custody.contract import (
    HeldKey,
    OpenPlace,
    checked_grace,
    checked_labels,
    checked_name,
    there_already,
)
from keyfront.errors import CustodyError, CustodyUnavailable, KeyExists, NoSuchKey
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, PublicKey, generate_private_key

PRIVATE = ".private"

_Found = tuple[KeyFile, PublicKey]


class FileCustody:
    """A folder of keys. A key scheduled for deletion is gone once its time has come; the next access removes its
    file."""

    algorithms: tuple[Algorithm, ...] = ("RSA-2048", "ECDSA-P256")
    exports = True

    def __init__(
        self,
        place: str,
        options: Mapping[str, str],
        environment: Mapping[str, str],
        *,
        open_place: OpenPlace,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """:param open_place: opens the other place that `kek=` may name.
        :raises CustodyError: if `place` cannot be a folder, or an option is unknown."""
        if unknown := sorted(set(options) - {"kek"}):
            raise CustodyError(f"file: has the option kek, but not {', '.join(unknown)}")
        path = _folder(place)
        query = f"?{urlencode(options, safe='/:?=@')}" if options else ""
        self.uri = f"file:{path}/{query}"
        self.folder = Folder(path)
        self.records = FolderRecords(self.folder, self.uri)
        self._query = query
        self._environment = environment
        self._kek = kek_of(options.get("kek"), self.folder, environment, open_place)
        self._open_place = open_place
        self._clock = clock
        self._folder_key: FolderKey | None = None
        self._opening = threading.Lock()

    # ---- creating, importing, and exporting keys

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        if algorithm not in self.algorithms:
            raise CustodyError(f"a key is {' or '.join(self.algorithms)}, not {algorithm}")
        checked_name(name)
        checked = checked_labels(labels)
        if self._present(name, now):  # fails before the expensive work; checked again under the lock
            raise self._exists(name)
        key = generate_private_key(algorithm)
        with self.folder.writing():
            if self._present(name, now):
                raise self._exists(name)
            return self._add(name, key, now, checked)

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        checked_name(name)
        checked = checked_labels(labels)
        with self.folder.writing():
            found = self._present(name, now)
            if found is None:
                return self._add(name, key, now, checked)
            return there_already(self._held(found), key.public_key)

    def export(self, name: str) -> PrivateKey:
        file, public = self._existing(name)
        return open_key_file(file, public, self._open(file.folder_key))

    def handle(self, name: str) -> FileHandle:
        self._existing(name)
        read = self._stamped(name)
        if read is None:
            raise self._absent(name)
        (file, public), stamp = read
        if file.delete_at is not None:
            raise _pending_deletion(name)
        return FileHandle(self, name, open_key_file(file, public, self._open(file.folder_key)), stamp)

    # ---- listing keys

    def list(self) -> Iterator[HeldKey]:
        for name in self.folder.names(PRIVATE):
            with contextlib.suppress(NoSuchKey):
                yield self.describe(name)

    def describe(self, name: str) -> HeldKey:
        return self._held(self._existing(name))

    # ---- deleting keys

    def delete(self, name: str, *, grace: float, now: float) -> HeldKey:
        checked_name(name)
        checked_grace(grace)
        with self.folder.writing():
            found = self._present(name, now)
            if found is None:
                raise self._absent(name)
            file, public = found
            at = now + grace if file.delete_at is None else min(file.delete_at, now + grace)
            file = msgspec.structs.replace(file, delete_at=at)
            if at <= now:
                self.folder.remove(name + PRIVATE)
            else:
                self.folder.write(name + PRIVATE, file.to_bytes())
        return self._held((file, public))

    def undelete(self, name: str) -> HeldKey:
        checked_name(name)
        with self.folder.writing():
            file, public = self._found(name)
            if file.delete_at is not None:
                file = msgspec.structs.replace(file, delete_at=None)
                self.folder.write(name + PRIVATE, file.to_bytes())
        return self._held((file, public))

    # ---- the key-encrypting key

    def rewrap(self, kek: str | None) -> str:
        """Replace the key-encrypting key with which this folder was opened. `kek=None` selects the key file in the
        folder. Only one file changes, so after a crash either the old kek or the new one is in force.

        The keys are not sealed again: a copy of the old envelope still opens with the old kek. If the old kek is known
        to someone who may have such a copy, replace the keys themselves.

        :returns: the new URI of the place.
        :raises CustodyError: if the new kek cannot be used, or the old one does not open the folder.
        """
        changed = self._under(kek)
        with self.folder.writing():
            folder_key = open_folder_key(self.folder, self._kek)
            if folder_key is None:
                raise CustodyError(f"{self.folder.path} holds no keys whose kek could be changed")
            self.folder.write(ENVELOPE, folder_key.envelope(changed._kek))
            if kek is not None and self._needs_no_key_file(kek):
                self.folder.remove(KEY)
        self._kek = changed._kek
        return changed.uri

    def _under(self, kek: str | None) -> FileCustody:
        """Return the same folder, opened with another key-encrypting key."""
        options = {} if kek is None else {"kek": kek}
        return FileCustody(
            f"{self.folder.path}/",
            options,
            self._environment,
            open_place=self._open_place,
            clock=self._clock,
        )

    def _needs_no_key_file(self, kek: str) -> bool:
        """Whether the folder, as it is on disk now, opens without `custody.key`. A key file that opens nothing is not
        needed. One that does may be removed only if `kek` is another file, or is elsewhere, and can be read from
        there again."""
        try:
            open_folder_key(self.folder, self._under(None)._kek)
        except CustodyUnavailable:
            return False
        except CustodyError:
            return True
        scheme, _, path = kek.partition(":")
        if scheme == "file" and (not Path(path).is_file() or Path(path).samefile(self.folder.path / KEY)):
            return False
        try:
            return open_folder_key(self.folder, self._under(kek)._kek) is not None
        except CustodyError:
            return False

    # ---- internals

    def _open(self, id_: str) -> FolderKey:
        """Return the folder's key, opened once. It is opened again if it is not the requested one: the folder may have
        been restored from a backup or recreated."""
        with self._opening:
            if self._folder_key is None or self._folder_key.id != id_:
                self._folder_key = self._unlocked()
            return self._folder_key

    def _unlocked(self) -> FolderKey:
        found = open_folder_key(self.folder, self._kek)
        if found is None:
            raise CustodyError(
                f"{self.folder.path / ENVELOPE} is gone: without it no key here can be opened. Bring it back "
                "from a backup"
            )
        self.folder.check()
        return found

    def _open_or_begin(self) -> FolderKey:
        """Return the folder's key, creating it if there is none. Call only while writing."""
        if (id_ := folder_key_id(self.folder)) is not None:
            return self._open(id_)
        if self.folder.names(PRIVATE):
            return self._unlocked()  # raises the error that says what is missing
        made = new_folder_key()
        self.folder.write(ENVELOPE, made.envelope(self._kek))
        self.folder.check()
        with self._opening:
            self._folder_key = made
        return made

    def _add(self, name: str, key: PrivateKey, now: float, labels: dict[str, str]) -> HeldKey:
        file = sealed_key(name, key, created=now, labels=labels, folder_key=self._open_or_begin())
        self.folder.write(name + PRIVATE, file.to_bytes())
        return self._held((file, key.public_key))

    def _stamped(self, name: str) -> tuple[_Found, Stamp] | None:
        read = self.folder.read_stamped(checked_name(name) + PRIVATE)
        if read is None:
            return None
        try:
            found = read_key_file(read[0])
        except CustodyError as error:
            raise CustodyError(f"{self.folder.path / name}{PRIVATE}: {error}") from None
        if found[0].name != name:
            raise CustodyError(f"{self.folder.path / name}{PRIVATE} holds the key {found[0].name}")
        if found[0].delete_at is not None and found[0].delete_at <= self._clock():
            return None
        return found, read[1]

    def _present(self, name: str, now: float) -> _Found | None:
        """Return the key that has the name at `now`."""
        read = self._stamped(name)
        if read is None:
            return None
        at = read[0][0].delete_at
        return None if at is not None and at <= now else read[0]

    def _found(self, name: str) -> _Found:
        read = self._stamped(name)
        if read is None:
            raise self._absent(name)
        return read[0]

    def _existing(self, name: str) -> _Found:
        """Return the key that has the name now. Removes the file if its time has come."""
        try:
            return self._found(name)
        except NoSuchKey:
            with contextlib.suppress(CustodyError):
                if self.folder.stamp(name + PRIVATE) is not None:
                    with self.folder.writing():
                        if self._stamped(name) is None:
                            self.folder.remove(name + PRIVATE)
            raise

    def _held(self, found: _Found) -> HeldKey:
        file, public = found
        uri = f"file:{self.folder.path}/{file.name}{self._query}"
        return HeldKey(
            uri,
            file.name,
            public,
            file.created,
            exportable=True,
            delete_at=file.delete_at,
            labels=file.labels,
        )

    def _exists(self, name: str) -> KeyExists:
        return KeyExists(f"there is a key {name} in {self.folder.path} already")

    def _absent(self, name: str) -> NoSuchKey:
        return NoSuchKey(f"there is no key {name} in {self.folder.path}")

    def __repr__(self) -> str:
        return f"<FileCustody {self.uri}>"


class FileHandle:
    """A key of a folder, opened in this process. It checks the file before each signature, which costs two
    microseconds: a key scheduled for deletion stops signing. While the folder cannot be read, the handle continues
    to sign."""

    hash_names: tuple[HashName, ...] = ("SHA1", "SHA256")

    def __init__(self, place: FileCustody, name: str, key: PrivateKey, stamp: Stamp) -> None:
        self.uri = place.describe(name).uri
        self.public_key = key.public_key
        self._place = place
        self._name = name
        self._key = key
        self._stamp = stamp

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        try:
            stamp = self._place.folder.stamp(self._name + PRIVATE)
            if stamp != self._stamp:
                self._look_again()
        except CustodyUnavailable:
            pass
        return self._key.sign(data, hash_name)

    def _look_again(self) -> None:
        read = self._place._stamped(self._name)
        if read is None or read[0][1] != self.public_key:
            raise self._place._absent(self._name)
        if read[0][0].delete_at is not None:
            raise _pending_deletion(self._name)
        self._stamp = read[1]

    def after_fork(self) -> FileHandle:
        return self

    def __repr__(self) -> str:
        return f"<FileHandle {self.uri}>"


def _pending_deletion(name: str) -> NoSuchKey:
    return NoSuchKey(
        f"the key {name} is to be deleted and signs no more; undelete it first, if it is to stay"
    )


def _folder(place: str) -> Path:
    """:raises CustodyError: if `place` is not a valid folder path."""
    path = Path("/" + place.lstrip("/") if place.startswith("/") else place)
    if path == Path("/"):
        raise CustodyError(
            "file: names no folder: write file:/srv/keys/NAME, and file:/srv/keys/ for the place"
        )
    if place.startswith("~"):
        raise CustodyError(f"file:{place}: Keyfront does not expand ~: write the path out")
    return path.absolute()
