"""The format of a data folder: its number is in the file `format`, so that no older Keyfront uses the folder of a newer
one. The store, snapshots, custody, archives, and cache entries have formats of their own besides.

Raise `FORMAT` with every change after which an older Keyfront would misread or damage what a newer one wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from keyfront.errors import SettingsError
from keyfront.private_files import replace_file

FORMAT: Final = 1
"""The format that this version writes; it reads this one and all before. A folder without the file has format 0."""

_NAME: Final = "format"


def claim(folder: Path) -> None:
    """Record that this version uses the data folder. Call it while holding the folder's lock, before changing anything
    else.

    :raises SettingsError: if a newer Keyfront has used the folder, or the file cannot be read or written.
    """
    if refuse_newer(folder) < FORMAT:
        try:
            replace_file(folder / _NAME, b"%d\n" % FORMAT)
        except OSError as error:
            raise SettingsError(f"{folder / _NAME} cannot be written: {error.strerror}") from error


def refuse_newer(folder: Path) -> int:
    """The format of the data folder, if this version supports it. Changes nothing.

    :raises SettingsError: if a newer Keyfront has used the folder, or its format cannot be read.
    """
    found = read_format(folder)
    if found > FORMAT:
        from importlib.metadata import version

        raise SettingsError(
            f"the data folder {folder} has format {found}, and this Keyfront {version('keyfront')} supports formats up "
            f"to {FORMAT}: a newer Keyfront has used it. Nothing was changed. Install that version again, or restore "
            "the backup from before the upgrade"
        )
    return found


def read_format(folder: Path) -> int:
    """The format of the data folder.

    :raises SettingsError: if the file cannot be read.
    """
    path = folder / _NAME
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    if not text.isdecimal():
        raise SettingsError(
            f"{path} does not contain the number of a format; remove the file if no newer Keyfront has used "
            "this folder"
        )
    return int(text)
