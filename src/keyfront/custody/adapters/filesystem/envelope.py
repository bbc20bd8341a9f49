"""The folder key of a folder of keys, and how it is stored.

Every private key in the folder is sealed under the folder's own key, 32 random bytes. The file `custody.envelope` holds
that key, sealed under the key-encrypting key (kek.py). Changing the kek means writing this one file, so there is never
a moment when some keys open with the old kek and some with the new. The cost of the kek (scrypt, a call to a KMS) is
paid once per process. The file's description of the kek is trusted only as far as it matches `kek=`.
"""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec

from keyfront.custody.adapters.filesystem.folder import Folder
from keyfront.custody.adapters.filesystem.kek import Cipher, Kek, Key, Passphrase, Wrapped
from keyfront.errors import CustodyError

ENVELOPE = "custody.envelope"

_BYTES = 32


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file `custody.envelope`. `folder_key` identifies the folder's key and reveals nothing about it."""

    format: Literal["keyfront-custody-envelope-1"]
    folder_key: str
    kek: Passphrase | Key | Wrapped
    sealed: bytes


_decoder = msgspec.json.Decoder(Envelope)


def read_envelope(data: bytes) -> Envelope:
    """:raises CustodyError: if `data` is not an envelope."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CustodyError("it is not an envelope that Keyfront wrote, or a later version wrote it") from None


class FolderKey:
    """The opened key of a folder. Its repr never shows the key."""

    __slots__ = ("_key", "id", "open", "seal")

    def __init__(self, key: bytes, id_: str) -> None:
        self._key = key
        self.id = id_
        cipher = Cipher(key)
        self.seal = cipher.seal
        self.open = cipher.open

    def envelope(self, kek: Kek) -> bytes:
        """Return the envelope file's content: this key, sealed under `kek`.

        :raises CustodyError: if `kek` could not open it again, for example because it may encrypt but not decrypt.
        """
        how, sealed = kek.seal(self._key, _bound(self.id))
        if kek.open(how, sealed, _bound(self.id)) != self._key:
            raise CustodyError(f"{kek} does not open what it has sealed")
        found = Envelope("keyfront-custody-envelope-1", self.id, how, sealed)
        return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"

    def __repr__(self) -> str:
        return f"<FolderKey {self.id}>"


def new_folder_key() -> FolderKey:
    return FolderKey(secrets.token_bytes(_BYTES), secrets.token_hex(8))


def folder_key_id(folder: Folder) -> str | None:
    """Return the ID of the folder's key, or None if there is none yet. Needs no kek.

    :raises CustodyError: if the folder's envelope cannot be read.
    """
    envelope = _envelope(folder)
    return None if envelope is None else envelope.folder_key


def _envelope(folder: Folder) -> Envelope | None:
    text = folder.read(ENVELOPE)
    try:
        return None if text is None else read_envelope(text)
    except CustodyError as error:
        raise CustodyError(f"{folder.path / ENVELOPE}: {error}") from None


def open_folder_key(folder: Folder, kek: Kek) -> FolderKey | None:
    """Open the folder's key. Returns None if there is none yet.

    :raises CustodyError: if the folder key is not sealed under `kek`.
    """
    envelope = _envelope(folder)
    if envelope is None:
        return None
    key = kek.open(envelope.kek, envelope.sealed, _bound(envelope.folder_key))
    if key is None or len(key) != _BYTES:
        raise CustodyError(f"{kek} does not open {folder.path / ENVELOPE}")
    return FolderKey(key, envelope.folder_key)


def _bound(id_: str) -> str:
    return f"keyfront custody folder {id_}"
