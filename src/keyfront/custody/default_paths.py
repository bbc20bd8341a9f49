"""Which Keyfront is "mine": the data folder that commands and the SDK use if none is named, and what the Keyfront of a
data folder records about itself (docs/decisions/0036-my-keyfront.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from keyfront.errors import SettingsError

DATA_VARIABLE = "KEYFRONT_DATA"
RECORDS_VARIABLE = "KEYFRONT_RECORDS"
INSTALLATION = "installation.json"
"""The file in a data folder in which `keyfront up` records what it serves."""


class Installation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the Keyfront of a data folder serves, or last served.

    - `control`: the URL of its API; empty if it runs edges only.
    - `records`: the URI of the custody that holds its rotation records; `rotation`: whether it performs their steps.
    - `store`: the store's URL, without a password; empty for the file in the data folder. `store_password_file`: the
      file with its password.
    - `feed`: the feed that its edges follow; empty for their own control plane's.
    - `nats`: where it publishes for edges that follow over NATS; empty: nowhere.
    - `edge`, `tls`: the URLs for viewers; `tls` is empty if it has none. `certificates`: the folder with its
      certificates; `local_certificates`: that with those of the local authority, empty if there is none.
    - `version`: Keyfront's version. `started`: epoch seconds.
    """

    control: str = ""
    records: str = ""
    rotation: bool = True
    store: str = ""
    store_password_file: str = ""
    feed: str = ""
    nats: str = ""
    edge: str = ""
    tls: str = ""
    certificates: str = ""
    local_certificates: str = ""
    version: str = ""
    started: float = 0.0


def own_custody(folder: Path) -> str:
    """The URI of the custody in a data folder."""
    return f"file:{folder.absolute()}/custody/"


def local_folder() -> Path | None:
    """`./state`, if it is a data folder.

    :raises SettingsError: if that cannot be determined.
    """
    here = Path("state")
    return (
        here if any(_exists(here / name) for name in (INSTALLATION, "keyfront.db", "credentials")) else None
    )


def user_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's data folder, as the XDG Base Directory Specification defines it.

    :raises SettingsError: if the user has no home folder.
    """
    base = environment.get("XDG_DATA_HOME")
    if base:
        return Path(base) / "keyfront"
    try:
        return Path.home() / ".local" / "share" / "keyfront"
    except RuntimeError:
        raise SettingsError(
            f"you have no home folder: name the data folder with --data or {DATA_VARIABLE}"
        ) from None


def default_data(environment: Mapping[str, str] = os.environ) -> Path:
    """The data folder to use if none is named: KEYFRONT_DATA, otherwise `./state` if it is a data folder, otherwise the
    user's.

    :raises SettingsError: see `local_folder` and `user_folder`.
    """
    named = environment.get(DATA_VARIABLE)
    return Path(named) if named else local_folder() or user_folder(environment)


def installation(folder: Path) -> Installation | None:
    """What the Keyfront of the data folder recorded about itself, or None if none was ever started there.

    :raises SettingsError: if the record cannot be read.
    """
    path = folder / INSTALLATION
    try:
        return msgspec.json.decode(path.read_bytes(), type=Installation)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError:
        raise SettingsError(
            f"{path} is damaged: delete it; the Keyfront of the data folder writes it when it starts"
        ) from None


def default_records(environment: Mapping[str, str] = os.environ, data: Path | None = None) -> str:
    """The URI of the custody whose records the Keyfront of the data folder watches.

    :param data: the data folder; by default `default_data`.
    :raises SettingsError: see `default_data` and `installation`.
    """
    folder = data or default_data(environment)
    found = installation(folder)
    return (found.records if found is not None else "") or own_custody(folder)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # not for a path that leads nowhere
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
