"""The line of each key in a TOML text, for messages: tomllib returns the values without line numbers.

This is a scan of each line, not a second parser: it recognizes table headers, arrays of tables, and the key at the
beginning of a line. A key that it does not find (one inside an inline table) gets the line of the nearest enclosing
element.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

Path = tuple[str | int, ...]
"""Keys, and in arrays positions from 0: `("Distribution", "films", "Origins", 0, "DomainName")`."""

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)


class Places:
    """The lines of a text by path. Never fails: a text that is not TOML has fewer places."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        counts: dict[Path, int] = {}
        table: Path = ()
        quote = ""
        for number, line in enumerate(text.splitlines(), 1):
            if quote:  # inside a multi-line string
                quote = "" if line.count(quote) % 2 else quote
                continue
            if header := _HEADER.fullmatch(line):
                table = self._numbered(_keys(header[2]), counts)
                if header[1] == "[[":
                    counts[table] = counts.get(table, -1) + 1
                    table = (*table, counts[table])
                self._lines.setdefault(table, number)
            elif key := _KEY.match(line):
                self._lines.setdefault((*table, *_keys(key[1])), number)
            quote = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")

    @staticmethod
    def _numbered(keys: Path, counts: dict[Path, int]) -> Path:
        """Return a header's path, with the last item of each array of tables on the way."""
        found: Path = ()
        for at, key in enumerate(keys):
            found = (*found, key)
            if at < len(keys) - 1 and found in counts:
                found = (*found, counts[found])
        return found

    def line(self, path: Path) -> int | None:
        """Return the line of `path`, or of the nearest enclosing element; None at the top level."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None


def _keys(text: str) -> Path:
    """Split a dotted key into its parts, without quotes."""
    found: list[str] = []
    try:
        inner: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return (text,)
    while isinstance(inner, dict):
        ((key, inner),) = inner.items()
        found.append(key)
    return tuple(found)


def spell(path: Path) -> str:
    """Return a path in readable form: `Distribution.films.Origins[0].DomainName`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
