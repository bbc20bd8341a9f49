"""The callers defined in the data folder's file `credentials`, in AWS's shared-credentials format: the owner's own
credentials.

The file is created at the first start, with one profile. Each profile is a named caller and may do everything, since
anyone who can read the file could do so anyway. The file is read once, at startup. All other callers are users in the
store (`control/identity/directory.py`).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from keyfront.control.call import Caller
from keyfront.control.iam.roles import ADMIN
from keyfront.errors import SettingsError
from keyfront.private_files import create_file, parse_credentials, read_private

_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_ID = re.compile(r"[A-Za-z0-9_]{16,128}")
_PROFILE = re.compile(r"[A-Za-z0-9+=,.@_-]{1,64}")  # the user names that IAM allows


class Credentials:
    """Callers by access key id. Their secrets are available only through `secret_of` and appear in no repr."""

    def __init__(self, callers: Iterable[tuple[Caller, str]]) -> None:
        """:param callers: each with its secret access key."""
        self._callers: dict[str, Caller] = {}
        self._secrets: dict[str, str] = {}
        for caller, secret in callers:
            self._callers[caller.access_key_id] = caller
            self._secrets[caller.access_key_id] = secret

    def current(self, now: float) -> Credentials:
        """The credentials valid at the time `now` (epoch seconds): always these."""
        return self

    def used(self, key_id: str, now: float) -> None:
        """Do nothing: the use of these keys is not recorded."""

    def secret_of(self, access_key_id: str) -> str | None:
        return self._secrets.get(access_key_id)

    def caller(self, access_key_id: str) -> Caller:
        return self._callers[access_key_id]

    def __iter__(self) -> Iterator[tuple[Caller, str]]:
        return ((caller, self._secrets[key_id]) for key_id, caller in self._callers.items())

    def __len__(self) -> int:
        return len(self._callers)


def load(path: Path, account: str) -> Credentials:
    """Load the callers from the file at `path`, creating the file if it does not exist.

    :param account: the 12-digit account number in the callers' ARNs.
    :raises SettingsError: if the file cannot be read or created, if anyone but its owner can read or write it, or if
        its content is invalid. The message never contains a secret.
    """
    try:
        if not path.exists():
            _make(path)
        text = read_private(path)
    except OSError as error:
        raise SettingsError(f"the credentials {path} cannot be read or made: {error}") from error
    return Credentials(
        (Caller(key_id, user_arn(account, name), account, _user_id(account, name), (ADMIN,)), secret)
        for name, key_id, secret in _profiles(text, path)
    )


def user_arn(account: str, name: str) -> str:
    """The ARN of the user `name`."""
    return f"arn:aws:iam::{account}:user/{name}"


def new_access_key() -> tuple[str, str]:
    """A new access key's id and secret, in AWS's format."""
    key_id = "AKIA" + "".join(secrets.choice(_UPPER) for _ in range(16))
    return key_id, "".join(secrets.choice(_BASE64) for _ in range(40))


def _user_id(account: str, name: str) -> str:
    """A profile's id in IAM's format. The file contains no ids, and the id must be the same after every start."""
    digest = hashlib.sha256(f"{account}/{name}".encode()).digest()
    return "AIDA" + base64.b32encode(digest).decode()[:17]


def _make(path: Path) -> None:
    """Write a file with new credentials, unless another process has created one first: then that file stays."""
    key_id, secret = new_access_key()
    text = f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\nregion = us-east-1\n"
    create_file(path, text.encode())


def _profiles(text: str, path: Path) -> Iterator[tuple[str, str, str]]:
    parser = parse_credentials(text, path)
    seen: dict[str, str] = {}
    for name in parser.sections():
        section = parser[name]
        if not _PROFILE.fullmatch(name):
            raise SettingsError(f"{path}: {name!r} cannot be the name of a caller")
        if "aws_session_token" in section:
            raise SettingsError(
                f"{path}: profile {name} has a session token; Keyfront does not support temporary credentials"
            )
        key_id, secret = section.get("aws_access_key_id", ""), section.get("aws_secret_access_key", "")
        if not _ID.fullmatch(key_id):
            raise SettingsError(
                f"{path}: profile {name} needs an aws_access_key_id of 16 to 128 letters and digits"
            )
        if len(secret) < 32 or not secret.isascii() or not secret.isprintable() or " " in secret:
            raise SettingsError(
                f"{path}: profile {name} needs an aws_secret_access_key of 32 characters or more"
            )
        if key_id in seen:
            raise SettingsError(f"{path}: profiles {seen[key_id]} and {name} have the same aws_access_key_id")
        seen[key_id] = name
        yield name, key_id, secret
    if not seen:
        raise SettingsError(f"{path} names no caller; remove it to have new credentials created")
