"""The URIs of keys and of the places that hold them, and the adapter behind each scheme. Pure: nothing is opened.

    file:/srv/keys/NAME?kek=env:KEYFRONT_CUSTODY_PASSPHRASE    a folder, encrypted             adapters/filesystem
    awskms:keyfront/NAME?region=eu-central-1                   AWS KMS; NAME is an alias       adapters/aws
    awssm:keyfront/NAME                                        AWS Secrets Manager             adapters/aws
    awsssm:keyfront/NAME                                       AWS Systems Manager             adapters/aws
    vault:transit/NAME, vault:kv/secret/keyfront/NAME          Vault or OpenBao                adapters/vault
    pkcs11:TOKEN/NAME?module-path=…&pin-source=…               an HSM                          adapters/pkcs11

The URI of a place ends with a slash where the name of a key would follow.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl

from keyfront.custody.contract import NAME
from keyfront.errors import CustodyError

SCHEMES: dict[str, str] = {
    "file": "keyfront.custody.adapters.filesystem.custody:FileCustody",
    "awskms": "keyfront.custody.adapters.aws.kms:KmsCustody",
    "awssm": "keyfront.custody.adapters.aws.secrets_manager:SecretsManagerCustody",
    "awsssm": "keyfront.custody.adapters.aws.parameter_store:ParameterStoreCustody",
    "vault": "keyfront.custody.adapters.vault.places:open_vault",
    "pkcs11": "keyfront.custody.adapters.pkcs11.custody:Pkcs11Custody",
}
"""Each scheme, and the adapter that opens a place of it (`schemes.open_place`), as MODULE:NAME."""


class KeyUri(NamedTuple):
    """A custody URI in parts: `place` ends with a slash, `name` is empty if the URI names no key, `options` is the
    text after the question mark."""

    scheme: str
    place: str
    name: str
    options: str

    def with_name(self, name: str) -> str:
        """The URI of the key called `name` in the same place."""
        query = f"?{self.options}" if self.options else ""
        return f"{self.scheme}:{self.place}{name}{query}"

    def option_values(self) -> dict[str, str]:
        """:raises CustodyError: if an option is not NAME=VALUE, or is given twice."""
        try:
            pairs = (
                parse_qsl(self.options, keep_blank_values=True, strict_parsing=True) if self.options else []
            )
        except ValueError as error:
            raise CustodyError(f"the options after the question mark are not NAME=VALUE: {error}") from error
        options = dict(pairs)
        if len(options) != len(pairs):
            raise CustodyError("an option after the question mark is given twice")
        return options


def split(uri: str) -> KeyUri:
    """:raises CustodyError: if `uri` is not a custody URI."""
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        raise CustodyError(
            f"{uri!r} is not a custody URI: it must begin with one of {', '.join(f'{s}:' for s in SCHEMES)}"
        )
    path, _, options = rest.partition("?")
    place, _, name = path.rpartition("/")
    if name and not re.fullmatch(NAME, name):
        raise CustodyError(
            f"{name!r} in {scheme}:{path} cannot be the name of a key: use at most 64 letters, digits, - and _; "
            "the URI of a place ends with a slash"
        )
    return KeyUri(scheme, f"{place}/", name, options)
