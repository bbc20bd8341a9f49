"""Files that hold a secret: made once, whole, and refused if anybody but their owner may touch them."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from keyfront.errors import SettingsError


def read_private(path: Path) -> str:
    """What the file at `path` holds.

    :raises OSError: if it cannot be read.
    :raises SettingsError: if it is no text, or others than its owner may read or change it.
    """
    with path.open(encoding="utf-8") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        try:
            text = file.read()
        except UnicodeDecodeError:
            raise SettingsError(f"{path} is no text") from None
    if mode & 0o077:
        raise SettingsError(f"others may read or change {path} (mode {mode:04o}); run: chmod 600 {path}")
    return text


def make_private(path: Path, text: str) -> None:
    """Write `text` to a new file, readable by its owner only. If another process was quicker, its file stays.

    :raises OSError: if it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename it never takes the place of a file that is there
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
