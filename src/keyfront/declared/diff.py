"""The comparison of two configs of one resource, in terms that a person can act on.

A value that is missing on one side and insignificant on the other (empty, false, zero, or a default that is not always
returned) is not a difference. Lists whose order has no meaning are compared without order. A list item with a name (an
origin's `Id`, a behavior's `PathPattern`) is compared with the item of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_NAMES = ("Id", "PathPattern", "HeaderName", "Header", "ErrorCode", "EventType")
_ORDERED = ("CacheBehaviors", "Members")
"""Lists whose order matters: the first path pattern that matches, the primary origin."""

_DEFAULTS: dict[str, Any] = {
    "ConnectionMode": "direct",
    "IpAddressType": "ipv4",
    "SelectionCriteria": "default",
    "OriginReadTimeout": 30,
    "SSLSupportMethod": "vip",
}
"""Values that CloudFront may return without being given them, in addition to what `normalise.py` adds."""


class Difference(msgspec.Struct, frozen=True):
    """`path` is in readable form; `before` is the current value and `after` the desired one, None for no value."""

    path: str
    before: Any
    after: Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return how `after` differs from `before`, both in the API's form."""
    return list(_structures("", before, after))


def is_default(value: Any, member: str = "") -> bool:
    if isinstance(value, Mapping):
        return all(is_default(inner, key) for key, inner in value.items())
    return not value or value == _DEFAULTS.get(member)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of `value` with its path, without counts."""
    if isinstance(value, Mapping):
        for member, inner in value.items():
            if member == "Items" and "Quantity" in value:
                yield from leaves(inner, _of_items(path, value))
            elif member != "Quantity":
                yield from leaves(inner, f"{path}.{member}".removeprefix("."))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for at, item in enumerate(value):
            yield from leaves(item, f"{path}[{_name(item) or at}]")
    else:
        yield path, value


def _of_items(path: str, *counted: Mapping[str, Any]) -> str:
    """Return the path of a counted list in a file: it replaces the object with the count, unless that object has more
    members than the list."""
    more = {member for each in counted for member in each} - {"Quantity", "Items", "Enabled"}
    return f"{path}.Items" if more else path


def _structures(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    counted = "Quantity" in before or "Quantity" in after
    for member in dict.fromkeys([*after, *before]):
        if counted and member == "Quantity":
            continue
        here = f"{path}.{member}".removeprefix(".")
        old, new = before.get(member), after.get(member)
        if counted and member == "Items":  # omitted if empty
            here, old, new = _of_items(path, before, after), old or [], new or []
        yield from _values(here, member, old, new)


def _values(path: str, member: str, before: Any, after: Any) -> Iterator[Difference]:
    if before is None or after is None:
        there = after if before is None else before
        if not is_default(there, member):
            yield from _alone(path, there, appears=before is None)
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _structures(path, before, after)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _lists(path, before, after)
    elif before != after:
        yield Difference(path, before, after)


def _alone(path: str, value: Any, *, appears: bool) -> Iterator[Difference]:
    if not appears and path.endswith("]"):  # a removed item is a single line, whatever it contained
        yield Difference(path, value, None)
        return
    for leaf, inner in leaves(value, path):
        if not is_default(inner, leaf.rpartition(".")[2]):
            yield Difference(leaf, None, inner) if appears else Difference(leaf, inner, None)


def _lists(path: str, before: list[Any], after: list[Any]) -> Iterator[Difference]:
    ordered = path.rpartition(".")[2] in _ORDERED
    old, new = {_name(item): item for item in before}, {_name(item): item for item in after}
    named = len(old) == len(before) and len(new) == len(after) and "" not in {*old, *new}
    if not named:
        same = before == after if ordered else sorted(before, key=repr) == sorted(after, key=repr)
        if not same:
            yield Difference(path, before, after)
        return
    for name in dict.fromkeys([*new, *old]):
        yield from _values(f"{path}[{name}]", "", old.get(name), new.get(name))
    both = [name for name in old if name in new]
    if ordered and both != [name for name in new if name in old]:
        yield Difference(f"{path}: order", list(old), list(new))


def _name(item: Any) -> str:
    if isinstance(item, Mapping):
        return next((str(item[member]) for member in _NAMES if item.get(member)), "")
    return ""
