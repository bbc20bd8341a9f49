"""Mistakes, and alternative texts of one part of a URL, each with its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Mistake(NamedTuple):
    """One mistake: its stable code, and a clause that begins in lower case and has no period."""

    code: str
    text: str


class Alternative(NamedTuple):
    """An alternative text of one part of a URL. `mistakes` is evaluated only if this text is the one that was
    signed."""

    cost: int
    text: str
    mistakes: Callable[[], tuple[Mistake, ...]]


Signed = tuple[int, str, tuple[Alternative, ...]]
"""A URL that may have been signed: its cost, its text, and the alternatives that form it. A plain tuple, because there
are thousands."""


def mistakes_of(parts: Iterable[Alternative]) -> tuple[Mistake, ...]:
    """Return the mistakes of all parts."""
    return tuple(mistake for part in parts for mistake in part.mistakes())


def none() -> tuple[Mistake, ...]:
    return ()


def one_mistake(cost: int, text: str, code: str, words: str) -> Alternative:
    mistake = (Mistake(code, words),)
    return Alternative(cost, text, lambda: mistake)


def distinct(alternatives: Iterable[Alternative], right: str) -> list[Alternative]:
    """Return the cheapest alternative for each text, without the correct text, in order of cost."""
    by_text: dict[str, Alternative] = {}
    for alternative in sorted(alternatives, key=lambda one: one.cost):
        if alternative.text != right:
            by_text.setdefault(alternative.text, alternative)
    return list(by_text.values())


def both(
    first: Callable[[], tuple[Mistake, ...]], second: Callable[[], tuple[Mistake, ...]]
) -> Callable[[], tuple[Mistake, ...]]:
    if first is none:
        return second
    if second is none:
        return first
    return lambda: first() + second()
