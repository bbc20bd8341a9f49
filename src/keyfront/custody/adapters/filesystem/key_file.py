"""A private key in a file: its public metadata in plaintext, and the key itself sealed.

The seal is AES-256-GCM under the folder's key, bound to the key's name and its public half, so one file cannot be
substituted for another. The plaintext part is read without any key. This module is pure: bytes in, bytes out.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from keyfront.custody.contract import checked_labels, checked_name
from keyfront.errors import CustodyError, KeyLoadError
from keyfront.signing.keys import PrivateKey, PublicKey, load_public_key, parse_private_key

FORMAT = "keyfront-custody-key-1"


class FolderKey(Protocol):
    """The key of a folder (`envelope.FolderKey`), to the extent that a key file needs it."""

    @property
    def id(self) -> str: ...

    def seal(self, secret: bytes, bound: bytes) -> bytes: ...

    def open(self, sealed: bytes, bound: bytes) -> bytes | None:
        """Return the plaintext, or None if it was sealed under another key or another `bound`, or was changed."""


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file. `public_key` is PEM; `folder_key` identifies the key that sealed `sealed`. Times are
    epoch seconds."""

    format: Literal["keyfront-custody-key-1"]
    name: str
    public_key: str
    created: float
    folder_key: str
    sealed: bytes
    labels: dict[str, str] = {}
    delete_at: float | None = None

    def to_bytes(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


_decoder = msgspec.json.Decoder(KeyFile)


def sealed_key(
    name: str, key: PrivateKey, *, created: float, labels: dict[str, str], folder_key: FolderKey
) -> KeyFile:
    """Return `key` as a key file that opens only with the folder's key."""
    public = key.public_key
    sealed = folder_key.seal(key.to_pem().encode(), _bound(name, public))
    return KeyFile("keyfront-custody-key-1", name, public.pem, created, folder_key.id, sealed, labels)


def read_key_file(data: bytes) -> tuple[KeyFile, PublicKey]:
    """Return the key file and its public key.

    :raises CustodyError: if `data` is not a key file.
    """
    try:
        found = _decoder.decode(data)
        checked_name(found.name)
        checked_labels(found.labels)
        return found, load_public_key(found.public_key)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, CustodyError, KeyLoadError):
        raise CustodyError("it is not a key file that Keyfront wrote, or a later version wrote it") from None


def open_key_file(file: KeyFile, public: PublicKey, folder_key: FolderKey) -> PrivateKey:
    """Return the private key.

    :raises CustodyError: if it was sealed for another folder, or was changed.
    """
    if file.folder_key != folder_key.id:
        raise CustodyError(
            f"the key {file.name} was sealed for another folder: export it there, and import it here"
        )
    pem = folder_key.open(file.sealed, _bound(file.name, public))
    if pem is None:
        raise CustodyError(f"the key {file.name} was changed, or put in the place of another one")
    key = parse_private_key(pem)
    if key.public_key != public:
        raise CustodyError(f"the key {file.name} is not the private half of its public key")
    return key


def _bound(name: str, public: PublicKey) -> bytes:
    return f"{FORMAT}\0{name}\0{public.fingerprint}".encode()
