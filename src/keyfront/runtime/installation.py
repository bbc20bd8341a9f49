"""The file `installation.json` in a data folder, through which commands find the installation that runs there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from keyfront.custody.default_paths import INSTALLATION, Installation
from keyfront.private_files import replace_file


def write_installation(folder: Path, host: str, port: int, records: str) -> None:
    """Write the data folder's `installation.json`, readable by its owner only.

    :param host: the address on which the API listens.
    :param records: URI of the rotation records that it watches; empty for those in the data folder.
    :raises OSError: if the file cannot be written.
    """
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    document = Installation(f"http://{url_host(local)}:{port}", records or f"file:{folder}/custody/")
    replace_file(folder / INSTALLATION, msgspec.json.encode(document))


def url_host(host: str) -> str:
    """`host` as written in a URL: an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host else host
