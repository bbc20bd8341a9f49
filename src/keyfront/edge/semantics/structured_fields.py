"""Structured Field Values (RFC 9651), as far as the edge reads and writes them: a Dictionary in, an Item out.

Parsing is strict, as the RFC wants it: a field that is wrong anywhere is no field at all.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from typing import Final


class Token(str):
    """A Token, to tell it from a String."""

    __slots__ = ()


Bare = bool | int | float | str | Token | bytes
Value = Bare | list[Bare]

_KEY: Final = re.compile(rb"[a-z*][a-z0-9_\-.*]*")
_NUMBER: Final = re.compile(rb"-?(?:(\d{1,12}\.\d{1,3})|(\d{1,15}))(?![\d.])")
_STRING: Final = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_TOKEN: Final = re.compile(rb"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")
_BYTES: Final = re.compile(rb":([A-Za-z0-9+/=]*):")
_DATE: Final = re.compile(rb"@(-?\d{1,15})(?![\d.])")
_BOOLEAN: Final = re.compile(rb"\?([01])")
_COMMA: Final = re.compile(rb"[ \t]*,[ \t]*(?=[^ \t])")


class _Wrong(Exception):
    """What is read is no structured field."""


class _Reader:
    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
        return found

    def skip(self, mark: bytes) -> bool:
        if self.text.startswith(mark, self.at):
            self.at += len(mark)
            return True
        return False

    def key(self) -> str:
        found = self.take(_KEY)
        if found is None:
            raise _Wrong
        return found[0].decode()

    def bare(self) -> Bare:
        if found := self.take(_NUMBER):
            return float(found[0]) if found[1] else int(found[0])
        if found := self.take(_STRING):
            return re.sub(rb"\\(.)", rb"\1", found[1]).decode()
        if found := self.take(_TOKEN):
            return Token(found[0].decode())
        if found := self.take(_BOOLEAN):
            return found[1] == b"1"
        if found := self.take(_DATE):
            return int(found[1])
        if found := self.take(_BYTES):
            try:
                return b64decode(found[1] + b"=" * (-len(found[1]) % 4), validate=True)
            except Error:
                raise _Wrong from None
        raise _Wrong

    def parameters(self) -> None:
        """Parameters are read and let go: nothing here has a use for any."""
        while self.skip(b";"):
            while self.skip(b" "):
                pass
            self.key()
            if self.skip(b"="):
                self.bare()

    def value(self) -> Value:
        if not self.skip(b"("):
            bare = self.bare()
            self.parameters()
            return bare
        items: list[Bare] = []
        while True:
            while self.skip(b" "):
                pass
            if self.skip(b")"):
                self.parameters()
                return items
            items.append(self.bare())
            self.parameters()
            if self.text[self.at : self.at + 1] not in (b" ", b")"):
                raise _Wrong


def parse_dictionary(lines: list[bytes]) -> dict[str, Value] | None:
    """The members of a Dictionary that was sent in these lines, the last of each key; None if it is malformed
    (RFC 9651 §4.2.2). Parameters are left out."""
    reader = _Reader(b",".join(lines).strip(b" "))
    members: dict[str, Value] = {}
    try:
        while reader.at < len(reader.text):
            key = reader.key()
            if reader.skip(b"="):
                value = reader.value()
            else:
                value = True
                reader.parameters()
            members.pop(key, None)
            members[key] = value
            if reader.at < len(reader.text) and reader.take(_COMMA) is None:
                return None
    except _Wrong:
        return None
    return members


def item(name: str, parameters: dict[str, bool | int | str]) -> bytes:
    """An Item with parameters: a String, or a Token where its text allows one; what is False is left out."""
    out = _text(name)
    for key, value in parameters.items():
        if value is True:
            out += f"; {key}"
        elif value is not False:
            out += f"; {key}={value if isinstance(value, int) else _text(value)}"
    return out.encode("ascii")


def _text(text: str) -> str:
    if _TOKEN.fullmatch(text.encode("ascii", "replace")) and text.isascii():
        return text
    kept = "".join([letter if "\x20" <= letter <= "\x7e" else "?" for letter in text])
    return '"' + kept.replace("\\", "\\\\").replace('"', '\\"') + '"'
