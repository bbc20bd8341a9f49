"""Open the place, the key or the records that a custody URI names (`key_uri.py` has the schemes).

An adapter is imported when its scheme is first used, together with the package that it needs.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from keyfront.custody.contract import Custody, Handle, Records
from keyfront.custody.key_uri import SCHEMES, KeyUri, split
from keyfront.errors import CustodyError
from keyfront.extras import remedy

log = logging.getLogger("keyfront.custody")

_EXTRAS = {**dict.fromkeys(("awskms", "awssm", "awsssm"), "aws"), "vault": "vault", "pkcs11": "pkcs11"}
"""Schemes whose package is installed by one of Keyfront's extras."""

_REFERRING = {"file"}
"""Schemes whose options can name a key or a record in another place (`kek=`): their adapters get `open_place`."""


def open_place(uri: str, environment: Mapping[str, str] = os.environ) -> Custody:
    """The place that `uri` names, or the place of the key that it names.

    :raises CustodyError: if the URI is wrong or the place cannot be opened.
    """
    custody: Custody = _opened(split(uri), environment)
    return custody


def open_key(uri: str, environment: Mapping[str, str] = os.environ) -> Handle:
    """A handle that signs with the key that `uri` names.

    :raises NoSuchKey: if there is no such key.
    :raises CustodyError: if `uri` names no key, or its place cannot be opened.
    """
    parts = split(uri)
    if not parts.name:
        raise CustodyError(f"{uri} names a place, not a key: the name of a key follows the last slash")
    custody: Custody = _opened(parts, environment)
    return custody.handle(parts.name)


def open_records(uri: str, environment: Mapping[str, str] = os.environ) -> Records:
    """Return the records of the place that `uri` names.

    :raises CustodyError: if the place stores no records.
    """
    place = _opened(split(uri), environment)
    records: Records | None = getattr(place, "records", None)
    if records is None:
        raise CustodyError(
            f"{uri} holds keys but no records: use file:, awssm:, awsssm: or vault:kv/ for those"
        )
    return records


def _opened(uri: KeyUri, environment: Mapping[str, str]) -> Any:
    module, _, name = SCHEMES[uri.scheme].partition(":")
    try:
        adapter = getattr(importlib.import_module(module), name)
    except ImportError as error:
        extra = _EXTRAS.get(uri.scheme)
        if extra is None:
            raise
        raise CustodyError(f"{uri.scheme}: needs a package: {remedy(extra)}") from error
    if uri.scheme in _REFERRING:
        adapter = functools.partial(adapter, open_place=open_place)
    log.debug("opening custody", extra={"scheme": uri.scheme})
    return adapter(uri.place, uri.option_values(), environment)
