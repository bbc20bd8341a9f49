"""Files that only their owner may read, written atomically and durably.

A file is written under a temporary name with mode 0600, flushed to the disk, and renamed, and then the folder that
holds the new name is flushed: a reader finds the old bytes or the new ones, and a crash at any moment leaves one of
them. A write that fails removes its temporary file.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from keyfront.errors import SettingsError


def replace_file(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> os.stat_result:
    """Put `data` at `path`, in place of any file that is there. The folder must exist.

    :param mode: the permissions of the file.
    :param durable: whether the file and its name are on the disk when this returns. Without it, a crash of the machine
        may lose them.
    :returns: the status of the new file, taken before it got its name.
    :raises OSError: if it cannot be written. The old file may then still be there, or the new one if only the flush
        of the folder failed.
    """
    with _temporary(path, data, mode, durable) as (temporary, status):
        os.replace(temporary, path)
    if durable:
        sync_folder(path.parent)
    return status


def create_file(path: Path, data: bytes) -> bool:
    """Put `data` into a new file at `path`, durably. A file that is already there stays as it is.

    :returns: whether the file is new.
    :raises OSError: if it cannot be written. If only the flush of the folder failed, the new file may be there.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = True
    with _temporary(path, data, 0o600, True) as (temporary, _):
        try:
            os.link(temporary, path)  # unlike a rename, it never replaces a file
        except FileExistsError:
            new = False
        except OSError:  # a file system without hard links
            new = not path.exists()
            if new:
                os.replace(temporary, path)
    sync_folder(path.parent)
    return new


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk: a name that is new or gone is durable only then.

    :raises OSError: if it cannot be flushed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path) -> str:
    """The text of the file at `path`.

    :raises OSError: if it cannot be read.
    :raises SettingsError: if it is not UTF-8 text, or anyone but its owner may read or change it.
    """
    with path.open(encoding="utf-8") as file:
        exposed = exposure(path, os.fstat(file.fileno()))
        try:
            text = file.read()
        except UnicodeDecodeError:
            raise SettingsError(f"{path} is not text") from None
    if exposed:
        raise SettingsError(exposed)
    return text


def exposure(path: Path, status: os.stat_result) -> str:
    """The error message if anyone but its owner may read or change the file; empty if nobody else may."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return f"others may read or change {path} (mode {mode:04o}); run: chmod 600 {path}"
    return ""


@contextlib.contextmanager
def _temporary(path: Path, data: bytes, mode: int, durable: bool) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield a file beside `path` that holds `data`, and its status. The file is removed afterward unless it was
    renamed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode != 0o600:
                os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(descriptor)
            status = os.fstat(descriptor)
        yield temporary, status
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def parse_credentials(text: str, path: Path) -> configparser.RawConfigParser:
    """The sections of a file in AWS's shared-credentials format.

    :raises SettingsError: if the text is in another format. The message never contains a secret.
    """
    parser = configparser.RawConfigParser(default_section="\0")
    try:
        parser.read_string(text)
    except configparser.Error as error:
        # The parser's message may quote a line, and a line may contain a secret.
        raise SettingsError(
            f"{path} is not in AWS's shared-credentials format ({type(error).__name__})"
        ) from None
    return parser
