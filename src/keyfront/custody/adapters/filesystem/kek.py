"""Key-encrypting keys (keks), which seal a folder's key, and their sources. The values of `kek=`:

env:VARIABLE               an environment variable: a passphrase, or 32 random bytes in base64
file:/path                 the same, from a file that only its owner may read
awskms:…, vault:transit/…  the kek stays there; the place wraps the folder's key (contract.KeyWrapping)
awssm:…, vault:kv/…        the same as env:, from a record there, which is created if missing
nothing                    32 random bytes in `custody.key`, in the folder itself
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from keyfront.custody.adapters.filesystem.folder import Folder
from keyfront.custody.contract import OpenPlace, Records
from keyfront.custody.key_uri import SCHEMES, split
from keyfront.custody.local_files import check_private, file_error
from keyfront.errors import CustodyError, RecordChanged

KEY = "custody.key"

LEAST_PASSPHRASE = 12
"""Minimum number of characters in a passphrase."""

_NONCE = 12
_BYTES = 32


class Passphrase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="passphrase"):
    """The kek is derived from a passphrase with scrypt (RFC 7914). The bounds protect against parameters in files that
    someone else wrote."""

    salt: bytes
    n: int = 1 << 16
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        if not (len(self.salt) >= 16 and 1 << 14 <= self.n <= 1 << 20 and self.n & (self.n - 1) == 0):
            raise ValueError("n is a power of two from 2^14 to 2^20, and the salt 16 bytes long")
        if not (self.r >= 1 and self.n * self.r <= 1 << 21 and 1 <= self.p <= 4):
            raise ValueError("n times r is 2^21 at most, which is 256 MiB, and p 1 to 4")


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="key"):
    """The kek is 32 random bytes, used directly."""


class Wrapped(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="wrapped"):
    """The kek is in another custody, which seals and opens."""


class Cipher:
    """Seals and opens under one 32-byte key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, secret: bytes, bound: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes | None:
        """Return the plaintext, or None if it was sealed under another key or changed."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
        except (InvalidTag, ValueError):
            return None


class Kek(Protocol):
    """A key-encrypting key. Its repr shows only its source."""

    def seal(self, secret: bytes, bound: str) -> tuple[Passphrase | Key | Wrapped, bytes]: ...

    def open(self, how: Passphrase | Key | Wrapped, sealed: bytes, bound: str) -> bytes | None:
        """Return the plaintext, or None if it was not sealed this way."""


def kek_of(option: str | None, folder: Folder, environment: Mapping[str, str], open_place: OpenPlace) -> Kek:
    """Return the kek that `kek=` names. It is read only when it is used.

    :param option: the value of `kek=`; None for the key file in the folder itself.
    :param open_place: opens the other place that `option` may name.
    :raises CustodyError: if the option has none of the forms above. The message does not repeat it, since it may be a
        secret.
    """
    if option is None:
        return TextKek(f"the key file {folder.path / KEY}", lambda make: _beside(folder, make))
    scheme, _, rest = option.partition(":")
    if not rest or scheme not in {"env", *SCHEMES}:
        raise CustodyError(
            "kek= is env:VARIABLE, file:/path, or the URI of a key or a record in another custody, and never the "
            "secret itself"
        )
    if scheme == "env":
        return TextKek(f"the environment's {rest}", lambda make: _variable(rest, environment))
    if scheme == "file":
        path = Path(rest)
        if not path.is_absolute():
            raise CustodyError(f"kek={option}: the path of a key file is absolute")
        return TextKek(f"the key file {path}", lambda make: _file(path), once=path.is_fifo())
    return KekElsewhere(option, environment, open_place)


class TextKek:
    """A kek read as text from some source: a passphrase, or a key in base64."""

    def __init__(self, where: str, text: Callable[[bool], str], *, once: bool = False) -> None:
        """`text` reads it, and with True first creates it if it can. `once` means that it cannot be read again."""
        self._where = where
        self._read = text
        self._once = once
        self._known: str | None = None
        self._derived: tuple[Passphrase, str, Cipher] | None = None

    def _text(self, make: bool) -> str:
        if self._known is not None:
            return self._known
        text = self._read(make)
        if self._once:
            self._known = text
        return text

    def seal(self, secret: bytes, bound: str) -> tuple[Passphrase | Key | Wrapped, bytes]:
        text = self._text(True)
        how = Key() if _key(text) else Passphrase(secrets.token_bytes(16))
        return how, self._cipher(how, text).seal(secret, _tied(bound, how))

    def open(self, how: Passphrase | Key | Wrapped, sealed: bytes, bound: str) -> bytes | None:
        if isinstance(how, Wrapped):
            return None
        text = self._text(False)
        if isinstance(how, Key) is not bool(_key(text)):
            return None
        return self._cipher(how, text).open(sealed, _tied(bound, how))

    def _cipher(self, how: Passphrase | Key, text: str) -> Cipher:
        if isinstance(how, Key):
            return Cipher(_key(text))
        if len(text) < LEAST_PASSPHRASE:
            raise CustodyError(
                f"{self} is too short for a passphrase: {LEAST_PASSPHRASE} characters at least, "
                "or 32 random bytes in base64, such as `openssl rand -base64 32` prints"
            )
        if self._derived is None or self._derived[:2] != (how, text):
            secret = text.encode("utf-8", "surrogateescape")
            try:
                key = Scrypt(salt=how.salt, length=_BYTES, n=how.n, r=how.r, p=how.p).derive(secret)
            except UnsupportedAlgorithm:
                raise CustodyError(
                    f"this system's OpenSSL has no scrypt: {self} must be 32 random bytes in base64"
                ) from None
            self._derived = how, text, Cipher(key)
        return self._derived[2]

    def __str__(self) -> str:
        return self._where


class WrappingKek:
    """A key in another custody, which seals and opens and never exports the key."""

    def __init__(self, uri: str, place: Any, name: str) -> None:
        self._uri = uri
        self._place = place
        self._name = name

    def seal(self, secret: bytes, bound: str) -> tuple[Passphrase | Key | Wrapped, bytes]:
        wrapped: bytes = self._place.wrap(self._name, secret, bound)
        return Wrapped(), wrapped

    def open(self, how: Passphrase | Key | Wrapped, sealed: bytes, bound: str) -> bytes | None:
        if not isinstance(how, Wrapped):
            return None
        found: bytes = self._place.unwrap(self._name, sealed, bound)
        return found

    def __str__(self) -> str:
        return f"the key {self._uri}"


class KekElsewhere:
    """A kek in another custody. That place is opened when the kek is first used, so listing keys never needs it."""

    def __init__(self, uri: str, environment: Mapping[str, str], open_place: OpenPlace) -> None:
        """:raises CustodyError: if `uri` does not name a key in a custody."""
        self._uri = uri
        self._open_place = open_place
        self._environment = environment
        self._name = split(uri).name
        self._found: Kek | None = None
        if not self._name:
            raise CustodyError(
                f"kek={uri} names a place, not a key: the name of a key follows the last slash"
            )

    def seal(self, secret: bytes, bound: str) -> tuple[Passphrase | Key | Wrapped, bytes]:
        return self._opened().seal(secret, bound)

    def open(self, how: Passphrase | Key | Wrapped, sealed: bytes, bound: str) -> bytes | None:
        return self._opened().open(how, sealed, bound)

    def __str__(self) -> str:
        return f"the kek {self._uri}"

    def _opened(self) -> Kek:
        if self._found is None:
            place = self._open_place(self._uri, self._environment)
            if getattr(place, "wrap", None) is not None:
                self._found = WrappingKek(self._uri, place, self._name)
            elif (records := getattr(place, "records", None)) is not None:
                self._found = TextKek(str(self), lambda make: _recorded(records, self._name, self._uri, make))
            else:
                raise CustodyError(f"kek={self._uri}: that place neither encrypts nor keeps texts")
        return self._found


def _recorded(records: Records, name: str, uri: str, make: bool) -> str:
    found = records.read(name)
    if found is None and make:
        try:
            found = records.write(name, _new_key().encode(), None)
        except RecordChanged:  # a process using another folder was faster
            found = records.read(name)
    if found is None:
        raise CustodyError(f"there is no key-encrypting key {uri}")
    return _text(found.data, uri)


def _key(text: str) -> bytes:
    """Return the 32 bytes that `text` encodes in base64, or empty bytes if it is a passphrase."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return key if len(key) == _BYTES else b""


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def _tied(bound: str, how: Passphrase | Key) -> bytes:
    return bound.encode() + b"\0" + msgspec.json.encode(how)


def _beside(folder: Folder, make: bool) -> str:
    found = folder.read(KEY)
    if found is None and make:
        found = _new_key().encode() + b"\n"
        folder.write(KEY, found)
    if found is None:
        raise CustodyError(
            f"{folder.path / KEY} is gone: bring it back from where it was saved, or name the right kek="
        )
    return _text(found, str(folder.path / KEY))


def _variable(name: str, environment: Mapping[str, str]) -> str:
    if not (text := environment.get(name, "").strip("\r\n")):
        raise CustodyError(f"the environment has no {name}, which is to hold the key-encrypting key")
    return text


def _file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode):  # a shell's <(…) is a pipe
                check_private(path, status)
            data = file.read(1 << 16)
    except OSError as error:
        raise file_error(path, error) from error
    return _text(data, str(path))


def _text(data: bytes, where: str) -> str:
    try:
        text = data.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        raise CustodyError(f"{where} holds no text: a passphrase, or 32 bytes in base64") from None
    if not text:
        raise CustodyError(f"{where} is empty")
    return text
