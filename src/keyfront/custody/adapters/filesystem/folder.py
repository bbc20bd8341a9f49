"""A folder of private files: each is written atomically, by one writer at a time, and is readable only by its owner.

A file is written under a temporary name, synced to disk, and renamed. So a reader sees the old text or the new one, and
a crash at any moment leaves one of them. Writers hold a lock on `custody.lock`. The next writer cleans up what a killed
writer left behind. Readers take no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from keyfront.custody.contract import NAME, Record, checked_data, checked_name
from keyfront.custody.local_files import check_private, file_error
from keyfront.errors import CustodyError, CustodyUnavailable, RecordChanged
from keyfront.private_files import replace_file, sync_folder

LOCK = "custody.lock"
RECORD = ".record"
PATIENCE = 30.0
"""Seconds that a writer waits for another one to finish."""

_LARGEST = 1 << 20  # bytes; a larger file is not one of Keyfront's

Stamp = tuple[int, int, int, int]
"""Identifies the version of a file that was read: device, inode, size, and time of its last change."""


class Folder:
    """The folder at `path`, which need not exist until something is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        """Return the file's content, or None if there is no such file.

        :raises CustodyError: if anyone but its owner may read or change it.
        :raises CustodyUnavailable: if it cannot be read now.
        """
        found = self.read_stamped(name)
        return None if found is None else found[0]

    def read_stamped(self, name: str) -> tuple[bytes, Stamp] | None:
        path = self.path / name
        try:
            with path.open("rb") as file:
                seen = os.fstat(file.fileno())
                if stat.S_ISREG(seen.st_mode):
                    check_private(path, seen)
                    data = file.read(_LARGEST + 1)
                else:
                    raise CustodyError(f"{path} is not a file")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise file_error(path, error) from error
        if len(data) > _LARGEST:
            raise CustodyError(f"{path} is far too large to be a file of custody's")
        return data, _stamp(seen)

    def stamp(self, name: str) -> Stamp | None:
        """Return a stamp that changes whenever the file does, or None if the file is gone.

        :raises CustodyUnavailable: if that cannot be determined, or if the whole folder is missing.
        """
        try:
            return _stamp(os.stat(self.path / name))
        except FileNotFoundError:
            if (self.path / LOCK).exists():
                return None
            raise CustodyUnavailable(f"the folder {self.path} is away") from None  # unmounted, for example
        except OSError as error:
            raise file_error(self.path / name, error) from error

    def names(self, suffix: str) -> list[str]:
        """Return the file names that end in `suffix`, without it, sorted. Names that are not valid in custody are
        skipped."""
        try:
            found = os.listdir(self.path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise file_error(self.path, error) from error
        names = (name.removesuffix(suffix) for name in found if name.endswith(suffix))
        return sorted(name for name in names if re.fullmatch(NAME, name))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the write lock: no other process writes while this lasts. Creates the folder if it does not exist.

        :raises CustodyError: if others may change the folder.
        :raises CustodyUnavailable: if another writer does not finish in time.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise file_error(self.path, error) from error
        try:
            self.check()
            _locked(lock, self.path)
            self._sweep()
            yield
        finally:
            os.close(lock)  # also releases the lock

    def write(self, name: str, data: bytes) -> None:
        """Replace the file's content with `data`, durably. Call only while `writing`.

        :raises CustodyError: if it cannot be written.
        """
        path = self.path / name
        try:
            replace_file(path, data)
        except OSError as error:
            raise file_error(path, error) from error

    def remove(self, name: str) -> None:
        """Remove the file, durably, if it exists. Call only while `writing`.

        :raises CustodyError: if it cannot be removed.
        """
        path = self.path / name
        try:
            path.unlink(missing_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise file_error(path, error) from error

    def check(self) -> None:
        """:raises CustodyError: if others may change the folder."""
        mode = stat.S_IMODE(os.stat(self.path).st_mode)
        if mode & 0o022:
            raise CustodyError(
                f"others may change the folder {self.path} (mode {mode:04o}); run: chmod 700 {self.path}"
            )

    def _sweep(self) -> None:
        for name in os.listdir(self.path):
            if name.startswith(".") and name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    os.unlink(self.path / name)


class FolderRecords:
    """The records of a folder: files `NAME.record`, each with its version on the first line."""

    def __init__(self, folder: Folder, uri: str) -> None:
        self.uri = uri
        self._folder = folder

    def read(self, name: str) -> Record | None:
        text = self._folder.read(checked_name(name) + RECORD)
        return None if text is None else self._taken(name, text)

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        checked_data(data)
        with self._changing(name, version):
            found = Record(name, data, secrets.token_hex(12))
            self._folder.write(name + RECORD, f"{_FIRST} {found.version}\n".encode() + data)
        return found

    def names(self) -> list[str]:
        return self._folder.names(RECORD)

    def remove(self, name: str, version: str) -> None:
        with self._changing(name, version):
            self._folder.remove(name + RECORD)

    @contextlib.contextmanager
    def _changing(self, name: str, version: str | None) -> Iterator[None]:
        checked_name(name)
        with self._folder.writing():
            seen = self.read(name)
            if (seen and seen.version) != version:
                raise RecordChanged(f"another process has changed the record {name} in {self.uri}")
            yield

    def _taken(self, name: str, text: bytes) -> Record:
        first, _, data = text.partition(b"\n")
        kind, _, version = first.decode("latin-1").partition(" ")
        if kind != _FIRST or not version:
            raise CustodyError(f"{self._folder.path / name}{RECORD} is not a record that Keyfront wrote")
        return Record(name, data, version)


_FIRST = "keyfront-record-1"


def _stamp(seen: os.stat_result) -> Stamp:
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def _locked(lock: int, path: Path) -> None:
    end = time.monotonic() + PATIENCE
    pause = 0.001
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise CustodyUnavailable(f"another process writes to {path} and does not end") from None
            time.sleep(pause)
            pause = min(0.05, pause * 2)
        except OSError as error:
            raise file_error(path / LOCK, error) from error
        else:
            return
