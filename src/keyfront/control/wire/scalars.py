"""Conversion of scalar values to text and back, and the faults of a request.

A value that violates the model (type, enum, length, range, pattern) is a fault, worded like the API's own messages
(cloudfront-semantics §7.1). Parsing continues after a fault, so that one response reports all of them.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from keyfront.model.shapes import Shape

FAULT_LIMIT = 20
"""Maximum number of faults of one request that the message lists."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
# Possessive quantifiers prevent backtracking over a long run of digits.
_NUMBER = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]{1,4})?")
_LONGEST_NUMBER = 400
"""Maximum length of a number, characters; the largest double has 309 digits."""
_BITS = {"integer": 31, "long": 63}


def parse_scalar(shape: Shape, text: str, path: str, faults: Faults) -> Any:
    """The value of `text`. If it does not fit the shape, adds a fault and returns `text` itself."""
    value: Any = text
    kind, trimmed = shape.type_name, text.strip(" \t\r\n")
    # Messages never repeat a secret, not even to its sender.
    shown = None if shape.traits.get("sensitive") else text
    if kind == "boolean":
        if trimmed not in _BOOLEANS:
            faults.add(path, "Member must be true or false", shown)
        return _BOOLEANS.get(trimmed, text)
    if kind in _BITS:
        number = int(trimmed) if _INTEGER.fullmatch(trimmed) else None
        if number is None or not -(1 << _BITS[kind]) <= number < 1 << _BITS[kind]:
            faults.add(
                path, f"Member must be {'an integer' if kind == 'integer' else 'a long integer'}", shown
            )
            return text
        return _in_range(shape, number, path, faults, shown)
    if kind in {"float", "double"}:
        value = math.inf
        if len(trimmed) <= _LONGEST_NUMBER and _NUMBER.fullmatch(trimmed):
            value = float(trimmed)
        if not math.isfinite(value):
            faults.add(path, "Member must be a number", shown)
            return text
        return _in_range(shape, value, path, faults, shown)
    if kind == "blob":
        try:
            value = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            faults.add(path, "Member must be base64", None)
            return text
        shown = None
    elif kind == "timestamp":
        try:
            value = datetime.fromisoformat(trimmed)
        except ValueError:
            faults.add(path, "Member must be an ISO 8601 timestamp", shown)
            return text
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    elif shape.enum and text not in shape.enum:
        faults.add(path, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]", shown)
        return value
    fits = check_length(shape, len(value), path, faults, shown)
    pattern = shape.traits.get("pattern")
    # Values that are too long are not matched.
    if fits and pattern is not None and not compiled(pattern).fullmatch(value):
        faults.add(path, f"Member must satisfy regular expression pattern: {pattern}", shown)
    return value


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _in_range(shape: Shape, number: float, path: str, faults: Faults, shown: str | None) -> float:
    low, high = shape.traits.get("min", -math.inf), shape.traits.get("max", math.inf)
    if number < low:
        faults.add(path, f"Member must have value greater than or equal to {low}", shown)
    elif number > high:
        faults.add(path, f"Member must have value less than or equal to {high}", shown)
    return number


def check_length(shape: Shape, length: int, path: str, faults: Faults, shown: str | None) -> bool:
    """True if a string, blob, or list of `length` is not too long for `shape`. Adds a fault if it is too short or too
    long."""
    low, high = shape.traits.get("min"), shape.traits.get("max")
    if low is not None and length < low:
        faults.add(path, f"Member must have length greater than or equal to {low}", shown)
    elif high is not None and length > high:
        faults.add(path, f"Member must have length less than or equal to {high}", shown)
        return False
    return True


@functools.cache
def compiled(pattern: str) -> re.Pattern[str]:
    r"""A pattern of the model, which is Java's. Python has no `\p{L}` and `\p{N}`; `\w` adds only the underscore."""
    separators = " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    return re.compile(pattern.replace(r"\p{L}", r"\w").replace(r"\p{N}", r"\w").replace(r"\p{Z}", separators))


def camel(member: str) -> str:
    """A member's name in camelCase, as in the API's messages."""
    return member[:1].lower() + member[1:]


class Faults:
    """The faults of one request, in the order found."""

    def __init__(self) -> None:
        self._count = 0
        self._unknown = 0
        self._texts: list[str] = []

    def add(self, path: str, rule: str, value: str | None) -> None:
        """The member at `path` violates `rule`. The message shows `value` unless it is None."""
        shown = "" if value is None else f" '{value if len(value) <= 256 else value[:256] + '…'}'"
        self._append(f"Value{shown} at '{path}' failed to satisfy constraint: {rule}")

    def null(self, path: str) -> None:
        """The member at `path` is missing."""
        self._append(f"Value null at '{path}' failed to satisfy constraint: Member must not be null")

    def unknown(self, path: str, name: str) -> None:
        """The structure at `path` has an element that the model lacks."""
        self._unknown += 1
        self._append(
            f"Element {name} at '{path}' is not known to this version of Keyfront. Remove it, or correct its name"
        )

    @property
    def code(self) -> str:
        """The error code: MalformedXML, or InvalidArgument if all faults are unknown members. Then the XML is
        well-formed, and the client is probably newer than the model."""
        return "InvalidArgument" if self._count == self._unknown else "MalformedXML"

    def _append(self, text: str) -> None:
        self._count += 1
        if self._count <= FAULT_LIMIT:
            self._texts.append(text)

    def __bool__(self) -> bool:
        return self._count > 0

    def __str__(self) -> str:
        plural = "s" if self._count > 1 else ""
        return f"{self._count} validation error{plural} detected: " + "; ".join(self._texts)


_TEXT: dict[str, Callable[[Any], str]] = {
    "boolean": lambda value: "true" if value else "false",
    "blob": lambda value: base64.b64encode(value).decode(),
    "timestamp": lambda value: (
        value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    ),
}


def scalar_text(shape: Shape, value: Any) -> str:
    """`value` as text; times are truncated to milliseconds (cloudfront-semantics §7.1)."""
    return _TEXT.get(shape.type_name, str)(value)
