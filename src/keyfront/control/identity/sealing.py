"""Encryption of secret access keys at rest: AES-256-GCM under one key that is not in the store.

SigV4 needs the secret itself, so a hash is not enough. The key-encryption key is 32 bytes in base64: in the data
folder's file `access.key`, or in the environment variable KEYFRONT_ACCESS_KEY if the store is shared or the key comes
from a vault. The store, or a copy of it, reveals no secret without that key. Each secret is bound to the access key and
the user that it was sealed for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyfront.errors import SettingsError
from keyfront.private_files import create_file, read_private

VARIABLE = "KEYFRONT_ACCESS_KEY"
FILE = "access.key"

_NONCE = 12


class Sealer:
    """Seals and opens secrets under one key. `name` distinguishes that key from others and reveals nothing about it."""

    def __init__(self, key: bytes) -> None:
        """:param key: 32 bytes."""
        self._cipher = AESGCM(key)
        self.name = hashlib.sha256(b"keyfront access key\0" + key).hexdigest()[:16]

    def seal(self, secret: str, access_key_id: str, user_id: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), _bound(access_key_id, user_id))

    def open(self, sealed: bytes, access_key_id: str, user_id: str) -> str:
        """:raises SettingsError: if the secret was sealed under another key, or for another access key or user, or was
        modified."""
        try:
            nonce, rest = sealed[:_NONCE], sealed[_NONCE:]
            return self._cipher.decrypt(nonce, rest, _bound(access_key_id, user_id)).decode()
        except (InvalidTag, ValueError):
            raise SettingsError(f"the secret of the access key {access_key_id} cannot be opened") from None


def sealer(data: Path, environment: Mapping[str, str], *, make: bool) -> Sealer:
    """Return the sealer of the installation in the folder `data`.

    :param make: whether to create the key file if there is none.
    :raises SettingsError: if there is no key, or it cannot be read or is invalid. The message never contains it.
    """
    if text := environment.get(VARIABLE):
        return Sealer(_key(text, f"the environment's {VARIABLE}"))
    path = data / FILE
    try:
        if make and not path.exists():
            create_file(path, base64.b64encode(secrets.token_bytes(32)) + b"\n")
        return Sealer(_key(read_private(path), str(path)))
    except OSError as error:
        raise SettingsError(
            f"the key of the secret access keys cannot be used: {path}: {error.strerror}; "
            f"bring it back from a backup, or set {VARIABLE}"
        ) from error


def _key(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise SettingsError(f"{where} must be 32 bytes in base64, such as `openssl rand -base64 32` prints")
    return key


def _bound(access_key_id: str, user_id: str) -> bytes:
    return f"{access_key_id}/{user_id}".encode()
