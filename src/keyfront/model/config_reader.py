"""A reader of config dicts whose members may be absent or invalid: a `Struct` returns typed values and collects
problems.

Absent and null members have their default, as at CloudFront. A member of the wrong type is a problem, and reading
continues with the default, so that one response lists all problems.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import msgspec

Config = Mapping[str, Any]


class Configs(Protocol):
    """The configs of one kind of resource, by id. A dict is one."""

    def get(self, id_: str, /) -> Config | None:
        """The config of the resource; None if there is no such resource."""


class Problem(msgspec.Struct, frozen=True):
    """A reason to refuse a config: the API's error code, a message for the caller, and the HTTP status."""

    code: str
    message: str
    status: int = 400


def problem(code: str, message: str) -> Problem:
    """A Problem with the status that the API's model has for `code` (cloudfront-semantics §7.2)."""
    return Problem(code, message, 404 if code.startswith("NoSuch") or code == "EntityNotFound" else 400)


def words(text: str) -> frozenset[str]:
    """The words of a text, for tables written as text."""
    return frozenset(text.split())


class Struct:
    """A structure in a config.

    :param where: its location, appended to messages; empty for the top.
    :param problems: where problems are collected.
    """

    __slots__ = ("members", "problems", "where")

    def __init__(self, members: Config, where: str, problems: list[Problem]) -> None:
        self.members = members
        self.where = where
        self.problems = problems

    def __contains__(self, name: str) -> bool:
        return self.members.get(name) is not None

    def refuse(self, message: str, code: str = "InvalidArgument") -> None:
        """Add a problem with this structure. `message` has neither location nor period."""
        self.problems.append(problem(code, f"{message} ({self.where})." if self.where else f"{message}."))

    def text(self, name: str, default: str | None = "", choices: Collection[str] = ()) -> str:
        """A string member, one of `choices` if there are any. With the default None, it must be present and not
        empty."""
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
        """An integer member from `low` to `high`, inclusive. Anything else is a problem with this `code`."""
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
        """The distinct strings of a list member {Quantity, Items}, in order."""
        texts = list(dict.fromkeys(self._items(name, str, "strings")))
        if not all(text and text.isprintable() for text in texts):
            self.refuse(f"The parameter {name} must contain strings of printable characters")
            return []
        return texts

    def numbers(self, name: str) -> list[int]:
        """The distinct integers of a list member {Quantity, Items}, in order."""
        return list(dict.fromkeys(self._items(name, int, "integers")))

    def structs(self, name: str, what: str, key: str) -> list[Struct]:
        """The structures of a list member {Quantity, Items}. Messages locate them by `what` and the value of `key`."""
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
            self.refuse(f"The parameter {name} must contain {plural}")
            return ()
        return items
