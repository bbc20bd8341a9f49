"""The file `installation.json` in a data folder, through which commands find the installation that runs there."""

from __future__ import annotations

import fcntl
from pathlib import Path

import msgspec

from keyfront.custody.default_paths import INSTALLATION, Installation
from keyfront.private_files import replace_file


def write_installation(folder: Path, found: Installation) -> None:
    """Write the data folder's `installation.json`, readable by its owner only.

    :raises OSError: if the file cannot be written.
    """
    replace_file(folder / INSTALLATION, msgspec.json.encode(found))


def is_running(folder: Path) -> bool:
    """Whether a `keyfront up` holds the lock on the data folder.

    :raises OSError: if the lock file exists and cannot be opened.
    """
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False


def local_url(scheme: str, host: str, port: int) -> str:
    """The URL at which this machine reaches a listening address.

    :param host: the address; one that stands for all addresses becomes the loopback address.
    """
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"{scheme}://{url_host(local)}:{port}"


def url_host(host: str) -> str:
    """`host` as written in a URL: an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host else host
