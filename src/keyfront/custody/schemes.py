"""Which scheme is whose. An adapter is loaded when its scheme is first used, with the package that it needs.

    file:/srv/keys/NAME?kek=env:KEYFRONT_CUSTODY_PASSPHRASE    a folder, encrypted             file.py
    awskms:keyfront/NAME?region=eu-central-1                   AWS KMS; NAME is an alias       awskms.py
    awssm:keyfront/NAME                                        AWS Secrets Manager             awssm.py
    awsssm:keyfront/NAME                                       AWS Systems Manager             awsssm.py
    vault:transit/NAME, vault:kv/secret/keyfront/NAME          Vault or OpenBao                vault.py
    pkcs11:TOKEN/NAME?module-path=…&pin-source=…               an HSM                          pkcs11.py

A place's URI ends with a slash where the name would follow.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from keyfront.custody.contract import NAME, Custody, Handle, Records
from keyfront.errors import CustodyError

SCHEMES: dict[str, str] = {
    "file": "keyfront.custody.adapters.filesystem.custody:FileCustody",
    "awskms": "keyfront.custody.adapters.aws.kms:KmsCustody",
    "awssm": "keyfront.custody.adapters.aws.secrets_manager:SecretsManagerCustody",
    "awsssm": "keyfront.custody.adapters.aws.parameter_store:ParameterStoreCustody",
    "vault": "keyfront.custody.adapters.vault.places:open_vault",
    "pkcs11": "keyfront.custody.adapters.pkcs11.custody:Pkcs11Custody",
}
"""Each scheme, and what opens a place of it: called with (place, options, environment)."""

_NEEDS = {"vault": "vault", "pkcs11": "pkcs11"}
"""Schemes whose package is an extra of Keyfront's."""


class Split(NamedTuple):
    """A custody's URI, taken apart: `place` ends with a slash, `name` is empty if it names no key, `options` are as
    written after the question mark."""

    scheme: str
    place: str
    name: str
    options: str

    def with_name(self, name: str) -> str:
        query = f"?{self.options}" if self.options else ""
        return f"{self.scheme}:{self.place}{name}{query}"


def split(uri: str) -> Split:
    """:raises CustodyError: if `uri` is none of a custody's."""
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        raise CustodyError(
            f"{uri!r} names no custody: it begins with one of {', '.join(f'{s}:' for s in SCHEMES)}"
        )
    path, _, options = rest.partition("?")
    place, _, name = path.rpartition("/")
    if name and not re.fullmatch(NAME, name):
        raise CustodyError(
            f"{name!r} in {scheme}:{path} cannot be a key's name: letters, digits, - and _, 64 at most; "
            "a place without a name ends with a slash"
        )
    return Split(scheme, f"{place}/", name, options)


def open_place(uri: str, environment: Mapping[str, str] = os.environ) -> Custody:
    """The place that `uri` names, which may also name a key in it.

    :raises CustodyError: if it cannot be opened as it is written.
    """
    custody: Custody = _opened(split(uri), environment)
    return custody


def open_key(uri: str, environment: Mapping[str, str] = os.environ) -> Handle:
    """What signs with the key that `uri` names.

    :raises NoSuchKey: if there is none.
    :raises CustodyError: if `uri` names no key, or its place cannot be opened.
    """
    parts = split(uri)
    if not parts.name:
        raise CustodyError(f"{uri} names a place and no key: a key's name follows the last slash")
    custody: Custody = _opened(parts, environment)
    return custody.handle(parts.name)


def open_records(uri: str, environment: Mapping[str, str] = os.environ) -> Records:
    """The records of the place that `uri` names.

    :raises CustodyError: if the place keeps none.
    """
    place = _opened(split(uri), environment)
    records: Records | None = getattr(place, "records", None)
    if records is None:
        raise CustodyError(
            f"{uri} holds keys and no records: use file:, awssm:, awsssm: or vault:kv/ for those"
        )
    return records


def _opened(parts: Split, environment: Mapping[str, str]) -> Any:
    module, _, name = SCHEMES[parts.scheme].partition(":")
    try:
        opens = getattr(importlib.import_module(module), name)
    except ImportError as error:
        extra = _NEEDS.get(parts.scheme)
        if extra is None:
            raise
        raise CustodyError(f"{parts.scheme}: needs a package: pip install 'keyfront[{extra}]'") from error
    return opens(parts.place, _options(parts.options), environment)


def _options(text: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True) if text else []
    except ValueError as error:
        raise CustodyError(
            f"the options after the question mark are not of the form NAME=VALUE: {error}"
        ) from error
    options = dict(pairs)
    if len(options) != len(pairs):
        raise CustodyError("an option after the question mark stands there twice")
    return options
