"""A lenient reader for response heads that the strict parser rejects: reads them as RFC 9112 allows, or rejects them
and names the line.

Pure. It repairs the following: whitespace between a field name and its colon is removed (§5.1), folded lines are joined
(§5.2), a bare LF ends a line if it also ends the status line (§2.2), and a Content-Length that repeats one value is
reduced to one (§6.3, RFC 9110 §8.6). Everything else stays rejected. That includes a bare LF among lines that end with
CRLF: it is more likely to have been smuggled by a viewer through the origin into a field value, and would end the head
wherever the viewer likes (decision 0026).

A message names a field, but never shows a value that could contain a secret.
"""

from __future__ import annotations

import re
from typing import Final

_STATUS_LINE: Final = re.compile(rb"HTTP/[0-9]\.[0-9] [0-9]{3}(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# Fields whose values are shown: they frame the message or describe the connection.
_SHOWN: Final = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding", b"upgrade"})
# Names that may identify a line without a colon. Any other text there may be the value of another field.
_TOLD: Final = _SHOWN | {
    b"cache-control",
    b"content-encoding",
    b"content-type",
    b"date",
    b"etag",
    b"expires",
    b"last-modified",
    b"location",
    b"server",
    b"set-cookie",
    b"vary",
}


class BadHeadError(ValueError):
    """A head that cannot be read. The message names the line."""


def escaped(data: bytes, most: int = 60) -> str:
    """At most `most` bytes as quoted ASCII text."""
    text = ascii(data[:most].decode("latin-1"))[1:-1].replace('"', '\\"')
    return f'"{text}{"..." if len(data) > most else ""}"'


def shown(name: bytes, value: bytes) -> str:
    """A field in the form in which a message may show it."""
    if name.lower() in _SHOWN:
        return escaped(name + b": " + value)
    return f"{escaped(name)} ({len(value)} bytes)"


class HeadReader:
    """Reads one head in pieces. When `feed` has returned True, `head` is the repaired head for the strict parser, and
    `rest` is what follows it."""

    __slots__ = ("_fields", "_lf", "_line", "_lines", "_refused", "head", "rest")

    def __init__(self, refused: str) -> None:
        """Start reading a head that the strict parser has rejected.

        :param refused: the strict parser's error, used if this reader finds nothing wrong with a particular line.
        """
        self._refused = refused
        self._line = b""  # the status line
        self._lf = False
        self._lines = 0
        self._fields: list[tuple[bytes, list[bytes]]] = []  # field names with the pieces of their values
        self.head = b""
        self.rest = b""

    def feed(self, data: bytes) -> bool:
        """Take the next bytes. Returns True once the head is complete.

        :raises BadHeadError: as soon as a line is invalid.
        """
        data = self.rest + data
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = data[start:end]
            start = end + 1
            self._lines += 1
            crlf = line.endswith(b"\r")
            line = line.removesuffix(b"\r")
            if not self._line:
                if line:
                    self._status_line(line)
                    self._lf = not crlf
                continue
            if not crlf and not self._lf:
                raise self._bad(line, "ends with a bare LF in a head whose lines end with CRLF")
            if not line:
                self.rest = data[start:]
                self.head = self._finished()
                return True
            self._field_line(line)
        self.rest = data[start:]
        if not self._line and not self.rest.lstrip(b"\r\n")[:5] == b"HTTP/"[: len(self.rest.lstrip(b"\r\n"))]:
            raise self._no_status_line(self.rest)
        return False

    def _status_line(self, line: bytes) -> None:
        if not line.startswith(b"HTTP/"):
            raise self._no_status_line(line)
        if not _STATUS_LINE.fullmatch(line):
            raise BadHeadError(f"line {self._lines} of the head, {escaped(line)}: no status line of HTTP/1.1")
        self._line = line

    def _no_status_line(self, line: bytes) -> BadHeadError:
        # It may be content, so the message shows only enough to tell one protocol from another.
        return BadHeadError(f"line 1 of the head begins with {escaped(line, 8)}: no status line")

    def _field_line(self, line: bytes) -> None:
        if line[:1] in (b" ", b"\t"):
            if not self._fields:
                raise BadHeadError(f"line {self._lines} of the head begins with a blank, before any field")
            name, pieces = self._fields[-1]
            value = line.strip(b" \t")
            line = name + b":" + line
        else:
            name, colon, value = line.partition(b":")
            if not colon:
                raise self._bad(line, "no field: it has no colon")
            name, value, pieces = name.rstrip(b" \t"), value.strip(b" \t"), []
            self._fields.append((name, pieces))
        if not _NAME.fullmatch(name):
            raise self._bad(line, "its field name is not a token")
        found = _CONTROL.search(value)
        if found is not None:
            what = {b"\r": "a bare CR", b"\0": "NUL"}.get(
                found[0], f"the control character {found[0][0]:#04x}"
            )
            raise self._bad(line, f"its value holds {what}")
        if value:
            pieces.append(value)

    def _bad(self, line: bytes, why: str) -> BadHeadError:
        name, colon, value = line.partition(b":")
        if colon:
            found = _NAME.match(name)
            if found is not None and found[0] == name.rstrip(b" \t"):
                excerpt = shown(found[0], value.strip(b" \t"))
            else:  # anything after the first token may be a value
                excerpt = (
                    f"{escaped(found[0] if found is not None else b'', 40)} and {len(line)} bytes in all"
                )
        else:
            word = re.match(rb"[A-Za-z-]*", line)
            known = word is not None and word[0].lower() in _TOLD
            excerpt = escaped(word[0]) if word is not None and known else f"{len(line)} bytes"
        return BadHeadError(f"line {self._lines} of the head, {excerpt}: {why}")

    def _finished(self) -> bytes:
        lengths: list[bytes] = []
        fields = []
        codings = 0
        for name, pieces in self._fields:
            value = b" ".join(pieces)
            lowered = name.lower()
            if lowered == b"content-length":
                members = [member.strip(b" \t") for member in value.split(b",")]
                for member in members:
                    if not (member.isdigit() and len(member) < 20) or member != (lengths or members)[0]:
                        raise BadHeadError(f"field {shown(name, value)}: not one length")
                if not lengths:
                    fields.append(name + b": " + members[0])
                lengths += members
                continue
            codings += lowered == b"transfer-encoding"
            fields.append(name + b": " + value)
        if lengths and codings:
            raise BadHeadError('fields "Content-Length" and "Transfer-Encoding": two framings')
        if codings > 1:
            raise BadHeadError('field "Transfer-Encoding": more than one')
        return b"\r\n".join([self._line, *fields, b"", b""])

    @property
    def refused(self) -> str:
        """The message for a head that is rejected although no single line of it is invalid."""
        return f"the head that begins with {escaped(self._line)}: {self._refused}"
