"""The faults found in a file, collected so that all are reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from keyfront.declared.locations import Path, Places, spell
from keyfront.errors import DeclarationError

MOST = 20
"""Maximum number of faults that are reported in full."""


class Faults:
    """The faults of one file. A message must not hold a value that may be a secret."""

    def __init__(self, file: str, places: Places) -> None:
        self._file = file
        self._places = places
        self._found: list[str] = []

    def add(self, path: Path, message: str) -> None:
        line = self._places.line(path)
        where = f"{self._file}:{line}" if line else self._file
        self._found.append(f"{where}: {spell(path)}: {message}" if path else f"{where}: {message}")

    def unknown(self, path: Path, known: Iterable[str], what: str) -> None:
        """Report that `path` ends with a key that is not one of `known`."""
        self.add(path, f"there is no such {what}{nearest(str(path[-1]), known)}")

    def check(self) -> None:
        """:raises DeclarationError: if there are any faults."""
        if self._found:
            found = list(dict.fromkeys(self._found))
            more = [f"… and {len(found) - MOST} more"] if len(found) > MOST else []
            raise DeclarationError("\n".join(found[:MOST] + more))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `: did you mean …?`, or the known words, or nothing."""
    names = sorted(set(known))
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    if close:
        return f": did you mean {lower[close[0]]}?"
    return f": there are {', '.join(names)}" if 0 < len(names) <= 12 else ""
