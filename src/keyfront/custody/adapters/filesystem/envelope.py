"""The key of a folder of keys, and how it is kept there.

Every private key in the folder is sealed under the folder's own key, 32 random bytes. The file `custody.envelope` holds
that key, sealed under the key-encrypting key (kek.py). To change that is to write this one file: there is no moment at
which some keys open with the old one and some with the new. And whatever the kek costs (scrypt, a call to a KMS) is
paid once a process. What the file says of the kek is never believed beyond what `kek=` asks for.
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
    """The file `custody.envelope`. `folder_key` tells the folder's key from others, and betrays nothing of it."""

    format: Literal["keyfront-custody-envelope-1"]
    folder_key: str
    kek: Passphrase | Key | Wrapped
    sealed: bytes


_decoder = msgspec.json.Decoder(Envelope)


def read_envelope(data: bytes) -> Envelope:
    """:raises CustodyError: if `data` is none."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CustodyError("it is no envelope of custody's, or of a later version of Keyfront") from None


class FolderKey:
    """The key of a folder, open. Its text form never shows it."""

    __slots__ = ("_key", "id", "open", "seal")

    def __init__(self, key: bytes, id_: str) -> None:
        self._key = key
        self.id = id_
        cipher = Cipher(key)
        self.seal = cipher.seal
        self.open = cipher.open

    def envelope(self, kek: Kek) -> bytes:
        """The file that holds it, sealed under `kek`.

        :raises CustodyError: if `kek` would not open it again: one may be allowed to encrypt and not to decrypt.
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
    """Which key the folder has; None if it has none yet. Takes no kek.

    :raises CustodyError: if its envelope cannot be read.
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
    """The folder's key; None if it has none yet.

    :raises CustodyError: if `kek` is not the one under which it is kept.
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
