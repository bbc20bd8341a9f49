"""The files in the data folder that belong to an installation, by name; all other files there can be recreated.

Not archived: the store's own files (its rows are), `snapshot` and `reports/` (published again), `cache/`, `logs/`,
`lock`, and the contents of `custody/`, which are exported from custody itself (`keys.py`). Files outside the folder
that command lines name are the operator's responsibility.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath

import msgspec
from cryptography import x509

from keyfront.backup.archive.tables import bytes_of, neutral
from keyfront.errors import BackupError

FILES = ("credentials", "access.key", "origin-credentials", "shield-secret", "hooks.toml")
FOLDERS = ("certificates", "hooks")

_LARGEST = 8 << 20
"""Maximum bytes of an archived file."""
_MOST = 10_000


class File(msgspec.Struct, frozen=True):
    """A file. `path` is relative to the data folder; `mode` is its permissions."""

    path: str
    mode: int
    data: bytes

    def line(self) -> bytes:
        return msgspec.json.encode({"path": self.path, "mode": self.mode, "data": neutral(self.data)})


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    mode: int
    data: dict[str, str]


_decoder = msgspec.json.Decoder(_Line)


def found(folder: Path) -> tuple[list[File], list[str]]:
    """Return the files in the data folder, and those that cannot be archived, with the reason."""
    files: list[File] = []
    missing: list[str] = []
    for path in _paths(folder):
        name = path.relative_to(folder).as_posix()
        try:
            with path.open("rb") as file:  # follows links, which certbot uses
                seen = os.fstat(file.fileno())
                data = file.read(_LARGEST + 1)
            name.encode()
        except (OSError, UnicodeEncodeError) as error:
            missing.append(f"file {name!a}: {getattr(error, 'strerror', None) or 'its name is no text'}")
            continue
        if not stat.S_ISREG(seen.st_mode) or len(data) > _LARGEST or len(files) >= _MOST:
            missing.append(f"file {name}: larger than {_LARGEST >> 20} MiB, one too many, or no file")
            continue
        files.append(File(name, stat.S_IMODE(seen.st_mode) & 0o777, data))
    return files, missing


def _paths(folder: Path) -> Iterator[Path]:
    for name in FILES:
        if os.path.lexists(folder / name):
            yield folder / name
    for name in FOLDERS:
        for top, below, names in os.walk(folder / name):
            below.sort()
            yield from (Path(top) / one for one in sorted(names))


def read(lines: Iterable[bytes]) -> list[File]:
    """:raises BackupError: if a line does not describe a file, or describes one with a path that is not allowed."""
    files: dict[str, File] = {}
    for line in lines:
        try:
            entry = _decoder.decode(line)
            file = File(entry.path, entry.mode, bytes_of(entry.data))
        except (msgspec.MsgspecError, ValueError) as error:
            raise BackupError(f"a file of it cannot be read: {error}") from error
        if not _belongs(file.path) or not 0 <= file.mode <= 0o777 or file.path in files:
            raise BackupError(f"it is refused: no file {file.path[:200]!a} belongs to an installation")
        files[file.path] = file
    for path in files:
        if any(str(parent) in files for parent in PurePosixPath(path).parents):
            raise BackupError(f"it is refused: {path[:200]!a} lies in a file")
    return list(files.values())


def _belongs(path: str) -> bool:
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        return False
    return path in FILES if len(parts) == 1 else parts[0] in FOLDERS and len(parts) <= 16


# ---- restoring


def settled(files: Iterable[File], folder: Path) -> tuple[list[File], list[str]]:
    """Return the files to write into the data folder, and why others are left as they are: a link is maintained by
    something else, and a certificate that was renewed since must not be replaced by an older one. A chain and its
    key stay together."""
    put: list[File] = []
    stays: dict[str, str] = {}
    different = [file for file in files if _there(folder / file.path) != file.data]
    for file in different:
        if link := _link(folder, file.path):
            stays.setdefault(_pair(file.path), f"{link} is a link")
        elif file.path.startswith("certificates/"):
            now, then = _ends(_there(folder / file.path)), _ends(file.data)
            if now is not None and then is not None and now > then:
                why = f"the certificate there ends later, {now:%Y-%m-%d} (the archive's: {then:%Y-%m-%d})"
                stays.setdefault(_pair(file.path), why)
    notes: list[str] = []
    for file in different:
        if kept := stays.get(_pair(file.path)):
            notes.append(f"file {file.path} is left alone: {kept}")
        else:
            put.append(file)
    return put, notes


def _there(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


def _link(folder: Path, path: str) -> str:
    """Return the first component of `path`, a file in the folder, that is a link; empty if there is none."""
    parts = path.split("/")
    ways = ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
    return next((way for way in ways if (folder / way).is_symlink()), "")


def _pair(path: str) -> str:
    """Return what a chain and its key have in common (`edge/net/certificates.py`); for any other file, its own path."""
    folder, _, name = path.rpartition("/")
    if folder != "certificates":
        return folder if folder.startswith("certificates/") else path
    return f"{folder}/{name.rpartition('.')[0].removesuffix('-key')}"


def _ends(data: bytes | None) -> datetime | None:
    """Return the expiry time of the first certificate of a chain."""
    try:
        return x509.load_pem_x509_certificates(data)[0].not_valid_after_utc if data else None
    except ValueError:
        return None
