"""Encryption of archives with age (pyrage), to recipients or under a passphrase; an archive is never stored
unencrypted.

Anyone who knows a recipient can make an archive for it: age controls who can read, but does not authenticate the
writer. So the output of `opened` is treated as untrusted input (`container.py`), and a restore shows its plan first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyrage

from keyfront.errors import BackupError, SettingsError
from keyfront.private_files import create_file, read_private

Recipient = Any  # pyrage has no type information
Identity = Any

MAGIC = b"age-encryption.org/v1\n"
"""The first bytes of an age file."""


class Seal(msgspec.Struct, frozen=True):
    """How archives are encrypted: to recipients (their text form) or under a passphrase, never both."""

    recipients: tuple[str, ...] = ()
    passphrase: str = ""

    def __repr__(self) -> str:
        return f"<Seal {self.recipients or 'passphrase'}>"


class Opener(msgspec.Struct, frozen=True):
    """What decrypts archives: identities, a passphrase, or both."""

    identities: tuple[Identity, ...] = ()
    passphrase: str = ""

    def __repr__(self) -> str:
        return f"<Opener {len(self.identities)} identities>"


def seal_for(recipients: Sequence[str], passphrase_file: Path | None) -> Seal:
    """:raises SettingsError: if there is neither a recipient nor a passphrase, or both, or a recipient is invalid."""
    if bool(recipients) == (passphrase_file is not None):
        raise SettingsError(
            "give the recipient of the archive: --recipient age1… (as often as needed), or --passphrase-file"
        )
    if passphrase_file is not None:
        return Seal(passphrase=read_passphrase(passphrase_file))
    for text in recipients:
        _recipient(text)
    return Seal(tuple(dict.fromkeys(text.strip() for text in recipients)))


def read_recipients(path: Path) -> list[str]:
    """Read the recipients from a file, one per line. Lines that begin with # are skipped.

    :raises SettingsError: if it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the recipients {path} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_passphrase(path: Path) -> str:
    """:raises SettingsError: if the file cannot be read, is empty, or others may read it."""
    try:
        text = read_private(path).rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"the passphrase file {path} cannot be read: {error.strerror}") from error
    if not text:
        raise SettingsError(f"the passphrase file {path} is empty")
    return text


def opener(identity_files: Sequence[Path], passphrase_file: Path | None) -> Opener:
    """:raises SettingsError: if neither is given, or a file holds no identity or is readable by others."""
    if not identity_files and passphrase_file is None:
        raise SettingsError("give what decrypts the archive: --identity FILE, or --passphrase-file FILE")
    identities = [one for path in identity_files for one in _identities(path)]
    return Opener(tuple(identities), read_passphrase(passphrase_file) if passphrase_file is not None else "")


def _recipient(text: str) -> Recipient:
    text = text.strip()
    kind: Callable[[str], Recipient] = (
        pyrage.ssh.Recipient.from_str if text.startswith("ssh-") else pyrage.x25519.Recipient.from_str
    )
    if text.upper().startswith("AGE-SECRET-KEY-"):
        raise SettingsError("that is an identity, which must stay secret; a recipient begins with age1")
    try:
        return kind(text)
    except pyrage.RecipientError as error:
        raise SettingsError(
            f"{text[:80]!r} is not a recipient: age1…, or a line as in ~/.ssh/id_ed25519.pub ({error})"
        ) from error


def _identities(path: Path) -> list[Identity]:
    try:
        text = read_private(path)
    except OSError as error:
        raise SettingsError(f"the identity {path} cannot be read: {error.strerror}") from error
    try:
        if "PRIVATE KEY-----" in text:
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        lines = (line.strip() for line in text.splitlines())
        found: list[Identity] = [
            pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")
        ]
    except pyrage.IdentityError:  # its text may quote the identity
        raise SettingsError(
            f"{path} holds no identity: lines that begin with AGE-SECRET-KEY-1, or an SSH key without a passphrase"
        ) from None
    if not found:
        raise SettingsError(f"{path} holds no identity")
    return found


def keygen(path: Path) -> str:
    """Create a new identity in a new file that only its owner can read. Returns its recipient.

    :raises SettingsError: if `path` already exists, or cannot be written.
    """
    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    if os.path.lexists(path):
        raise SettingsError(
            f"{path} is there already, and may be what opens your archives: it is not touched"
        )
    try:
        create_file(path, f"# recipient: {recipient}\n{identity}\n".encode())
        if recipient not in read_private(path):
            raise SettingsError(f"{path} is there already: it is not touched")
    except OSError as error:
        raise SettingsError(f"the identity {path} cannot be written: {error.strerror}") from error
    return recipient


def sealed(data: bytes, seal: Seal) -> tuple[bytes, Opener]:
    """Encrypt `data`. Returns the result and an opener that is valid for the life of this process, so that the archive
    can be verified without any of the identities: if there are recipients, it is also encrypted to an extra one,
    whose identity is never exposed."""
    if seal.passphrase:
        return pyrage.passphrase.encrypt(data, seal.passphrase), Opener(passphrase=seal.passphrase)
    witness = pyrage.x25519.Identity.generate()
    recipients = [*map(_recipient, seal.recipients), witness.to_public()]
    return pyrage.encrypt(data, recipients), Opener((witness,))


def opened(data: bytes, opener: Opener) -> bytes:
    """Decrypt `data`.

    :raises BackupError: if it is not an age file, is not encrypted for `opener`, or is damaged.
    """
    if not data.startswith(MAGIC):
        raise BackupError("it is not an archive: it does not begin like an age file")
    by_passphrase = b"\n-> scrypt " in data[:200] or not opener.identities
    if by_passphrase and not opener.passphrase:
        raise BackupError("it is encrypted under a passphrase: give --passphrase-file")
    if not by_passphrase and not opener.identities:
        raise BackupError("it is encrypted to recipients: give --identity")
    try:
        if by_passphrase:
            return bytes(pyrage.passphrase.decrypt(data, opener.passphrase))
        return bytes(pyrage.decrypt(data, list(opener.identities)))
    except pyrage.DecryptError as error:
        raise BackupError(f"it is damaged, or encrypted for another recipient: {error}") from error
