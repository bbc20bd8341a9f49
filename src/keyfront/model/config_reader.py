"""Reading a config dict whose members may be absent or wrong: a `Struct` gives typed values and collects
problems.

Absent and null members take their default, since CloudFront's own do. A member of the wrong type is a
problem, and reading goes on with the default, so that one answer names all that is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

Config = Mapping[str, Any]


class Problem(msgspec.Struct, frozen=True):
    """Why a config cannot be obeyed: the API's error `code` and its HTTP `status`, with a message for the
    caller."""

    code: str
    message: str
    status: int = 400


def problem(code: str, message: str) -> Problem:
    """A Problem with the status that the API's model gives `code` (cloudfront-semantics §7.2)."""
    return Problem(code, message, 404 if code.startswith("NoSuch") or code == "EntityNotFound" else 400)


def words(text: str) -> frozenset[str]:
    """The words of a table that is written as text."""
    return frozenset(text.split())


class Struct:
    """A structure of a config: its `members`, and `where` it stands in words that end a message."""

    __slots__ = ("members", "problems", "where")

    def __init__(self, members: Config, where: str, problems: list[Problem]) -> None:
        self.members = members
        self.where = where
        self.problems = problems

    def __contains__(self, name: str) -> bool:
        return self.members.get(name) is not None

    def refuse(self, message: str, code: str = "InvalidArgument") -> None:
        """Note a problem with this structure: `message` is what is wrong, without the place and the full
        stop."""
        self.problems.append(problem(code, f"{message} ({self.where})." if self.where else f"{message}."))

    def text(self, name: str, default: str | None = "", choices: Collection[str] = ()) -> str:
        """A string member, one of `choices` if there are any. `default` None means that it must be there
        and not be empty."""
        value = self.members.get(name)
        if value is None or (value == "" and default is None):
            if default is None:
                self.refuse(f"The parameter {name} is required")
            return default or ""
        if not isinstance(value, str) or not value.isprintable():
            self.refuse(f"The parameter {name} must be a string of printable characters")
            return default or ""
        if choices and value not in choices:
            self.refuse(f"The parameter {name} must be one of {', '.join(choices)}")
            return default or ""
        return value

    def number(self, name: str, default: int, low: int, high: int, code: str = "InvalidArgument") -> int:
        """An integer member from `low` to `high`, both included; outside of them it is a problem named
        `code`."""
        value = self.members.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            self.refuse(f"The parameter {name} must be an integer", code)
            return default
        if not low <= value <= high:
            self.refuse(f"The parameter {name} must be from {low} to {high}", code)
            return default
        return value

    def flag(self, name: str) -> bool:
        """A boolean member, false if absent."""
        value = self.members.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.refuse(f"The parameter {name} must be a boolean")
        return False

    def struct(self, name: str) -> Struct:
        """A structure member, empty if absent."""
        value = self.members.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(f"The parameter {name} must be a structure")
            value = None
        return Struct(value or {}, f"{name} of {self.where}" if self.where else name, self.problems)

    def texts(self, name: str) -> list[str]:
        """The strings of a list member {Quantity, Items}, each once, in order."""
        texts = list(dict.fromkeys(self._items(name, str, "strings")))
        if not all(text and text.isprintable() for text in texts):
            self.refuse(f"The parameter {name} must hold strings of printable characters")
            return []
        return texts

    def numbers(self, name: str) -> list[int]:
        """The integers of a list member {Quantity, Items}, each once, in order."""
        return list(dict.fromkeys(self._items(name, int, "integers")))

    def structs(self, name: str, what: str, key: str) -> list[Struct]:
        """The structures of a list member {Quantity, Items}; each is called `what` and its member `key` in
        messages."""
        return [
            Struct(item, f"{what} {item.get(key)!r}", self.problems)
            for item in self._items(name, Mapping, "structures")
        ]

    def _items(self, name: str, kind: type[Any], plural: str) -> Iterable[Any]:
        items = self.struct(name).members.get("Items")
        if items is None:
            return ()
        if not isinstance(items, list | tuple) or not all(
            isinstance(item, kind) and not isinstance(item, bool) for item in items
        ):
            self.refuse(f"The parameter {name} must hold {plural}")
            return ()
        return items
