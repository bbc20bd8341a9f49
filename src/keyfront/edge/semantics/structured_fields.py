"""Structured Field Values (RFC 9651), as far as the edge uses them: a Dictionary in, an Item out.

The library http-sf parses, strictly, as the RFC wants it: a field that is malformed anywhere is ignored as a whole.
Items are written here, because `Cache-Status` is written once per request (decision 0034).
"""

from __future__ import annotations

import re
from typing import Final, cast

import http_sf

Token = http_sf.Token

_TOKEN: Final = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*", re.ASCII)


def parse_dictionary(lines: list[bytes]) -> dict[str, object] | None:
    """The values of a Dictionary that was sent in these lines, the last one of each key, without their parameters; None
    if it is malformed (RFC 9651 §4.2.2)."""
    try:
        members = http_sf.parse(b",".join(lines), tltype="dictionary")
    except http_sf.StructuredFieldError:
        return None
    return {key: value for key, (value, _) in cast("dict[str, tuple[object, object]]", members).items()}


def item(name: str, parameters: dict[str, bool | int | str]) -> bytes:
    """An Item with parameters: a String, or a Token if its text allows one; a parameter that is False is left out."""
    out = _text(name)
    for key, value in parameters.items():
        if value is True:
            out += f"; {key}"
        elif value is not False:
            out += f"; {key}={value if isinstance(value, int) else _text(value)}"
    return out.encode("ascii")


def _text(text: str) -> str:
    """A Token, or else a String in which `?` stands for what a String cannot hold."""
    if _TOKEN.fullmatch(text):
        return text
    printable = "".join([letter if "\x20" <= letter <= "\x7e" else "?" for letter in text])
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
