"""Checks whether a Keyfront or a restore is running in a data folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from keyfront.errors import SettingsError

RUNNING = "restore.running"
"""The file that exists while a restore changes things, and after a restore was killed while doing so."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the data folder's lock, so that no Keyfront runs in it. The folder is created if it does not exist.

    :raises SettingsError: if a Keyfront is running, or the folder cannot be used or belongs to another user.
    """
    _refuse_another(folder)
    lock = lock_data_folder(folder, f"a keyfront runs in {folder}: end it first")
    try:
        yield
    finally:
        os.close(lock)


def lock_data_folder(folder: Path, if_locked: str) -> int:
    """Create the data folder if necessary and lock it. Returns the file descriptor that holds the lock.

    :param if_locked: the message for a folder that another Keyfront process uses.
    :raises SettingsError: if another process uses the folder, or it cannot be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise SettingsError(if_locked) from None
    return lock


def _refuse_another(folder: Path) -> None:
    """Refuse another user's installation: that user could not read what root writes into it.

    :raises SettingsError: if the installation in `folder`, or the folder without one, does not belong to this user.
    """
    for path in (folder / "keyfront.db", folder):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            owner = path.stat().st_uid
            if owner != os.geteuid():
                raise SettingsError(
                    f"{path} belongs to the user with the id {owner}: run this as that user, who could not use what "
                    "another one writes here; nothing was changed"
                )
            return


def refuse_half_restored(folder: Path) -> None:
    """:raises SettingsError: if a restore into `folder` was started and not completed."""
    if os.path.lexists(folder / RUNNING):
        raise SettingsError(f"a restore into {folder} did not end: restore the same archive again")
