"""The default locations of the user's own installation, used when no other is configured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

DATA_VARIABLE = "KEYFRONT_DATA"
RECORDS_VARIABLE = "KEYFRONT_RECORDS"
INSTALLATION = "installation.json"
"""The file in a data folder in which `keyfront up` records what it serves."""


class Installation(msgspec.Struct, frozen=True):
    """What the Keyfront of a data folder serves, or last served: `control` is the URL of its API, `records` the URI of
    the custody whose rotations it carries out."""

    control: str
    records: str


def default_data(environment: Mapping[str, str] = os.environ) -> Path:
    """Return KEYFRONT_DATA, otherwise `./state` if it is a data folder, otherwise the user's data folder as the XDG
    Base Directory Specification defines it."""
    named = environment.get(DATA_VARIABLE)
    if named:
        return Path(named)
    here = Path("state")
    if any((here / name).exists() for name in (INSTALLATION, "keyfront.db", "credentials")):
        return here
    base = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "keyfront"


def installation(folder: Path) -> Installation | None:
    """Return what the Keyfront of the data folder recorded about itself, or None if none was ever started there."""
    try:
        return msgspec.json.decode((folder / INSTALLATION).read_bytes(), type=Installation)
    except (OSError, msgspec.MsgspecError):
        return None


def default_records(environment: Mapping[str, str] = os.environ, data: Path | None = None) -> str:
    """The URI of the custody whose records the Keyfront of the data folder watches.

    :param data: the data folder; by default `default_data`.
    """
    folder = (data or default_data(environment)).absolute()
    found = installation(folder)
    return found.records if found is not None else f"file:{folder}/custody/"
