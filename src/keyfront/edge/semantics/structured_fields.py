"""Structured Field Values (RFC 9651), as far as the edge needs them: parsing a Dictionary, serializing an Item.

Parsing uses the library http-sf and is strict, as the RFC requires: a field that is malformed anywhere is ignored as a
whole. Items are serialized here, because `Cache-Status` is written once per request (decision 0034).
"""

from __future__ import annotations

import re
from typing import Final, cast

import http_sf

Token = http_sf.Token

_TOKEN: Final = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*", re.ASCII)


def parse_dictionary(lines: list[bytes]) -> dict[str, object] | None:
    """The values of a Dictionary sent in these lines: the last value of each key, without parameters. None if the field
    is malformed (RFC 9651 §4.2.2)."""
    try:
        members = http_sf.parse(b",".join(lines), tltype="dictionary")
    except http_sf.StructuredFieldError:
        return None
    return {key: value for key, (value, _) in cast("dict[str, tuple[object, object]]", members).items()}


def item(name: str, parameters: dict[str, bool | int | str]) -> bytes:
    """An Item with parameters: a Token if its text allows one, otherwise a String. A parameter that is False is
    omitted."""
    out = _text(name)
    for key, value in parameters.items():
        if value is True:
            out += f"; {key}"
        elif value is not False:
            out += f"; {key}={value if isinstance(value, int) else _text(value)}"
    return out.encode("ascii")


def _text(text: str) -> str:
    """A Token, or else a String in which `?` replaces characters that a String cannot contain."""
    if _TOKEN.fullmatch(text):
        return text
    printable = "".join([letter if "\x20" <= letter <= "\x7e" else "?" for letter in text])
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
