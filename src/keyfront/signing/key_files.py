"""Load a private key from its text or from a file. `keys.py`, which parses it, opens no files."""

from __future__ import annotations

import os
from pathlib import Path

from keyfront.errors import KeyLoadError
from keyfront.signing.keys import EMPTY_HINT, PrivateKey, is_key_text, parse_private_key


def load_private_key(
    source: bytes | str | os.PathLike[str], passphrase: bytes | str | None = None
) -> PrivateKey:
    """Load the private key that `source` holds or names.

    :param source: the key itself (bytes or str; `keys.parse_private_key` says in which forms), or the path of a file
        that holds it (os.PathLike, or a str that is not a key).
    :param passphrase: the passphrase of an encrypted key; ignored if the key is not encrypted.
    :raises KeyLoadError: if it cannot be read; the message says how to fix it and shows nothing of the key.
    """
    return parse_private_key(_read(source), passphrase)


def _read(source: bytes | str | os.PathLike[str]) -> bytes | str:
    if isinstance(source, bytes | bytearray):
        return bytes(source)
    if source is None or (isinstance(source, str) and not source.strip(" \r\n\t\"'")):
        raise KeyLoadError("the key is empty", EMPTY_HINT)
    if not isinstance(source, str | os.PathLike):
        raise KeyLoadError(
            f"a key is its text, its bytes or the path of a file, not a {type(source).__name__}",
            "Give private_key.read_bytes(), or the path itself",
        )
    if isinstance(source, str) and is_key_text(source):
        return source
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise KeyLoadError(
            f"no key and no readable file ({reason})",
            "Give the path of a PEM file, or the text of the key with its BEGIN and END lines",
        ) from None
