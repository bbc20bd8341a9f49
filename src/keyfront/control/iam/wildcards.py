"""Policy texts with wildcards and variables: `arn:aws:cloudfront::*:distribution/E?`, `${aws:username}-*`.

`*` matches any number of characters, `?` exactly one; in an ARN neither matches across a colon before the last of the
six parts (IAM User Guide, "Resource"). A variable is replaced by its value in the call, in which wildcards are literal
characters; `${*}`, `${?}`, and `${$}` are those characters. A text without variables is compiled once. Matching never
backtracks over a wildcard (`model/pattern.py` explains why that is correct), since callers choose some of the texts
that are matched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

Lookup = Callable[[str], str | None]
"""The value of a variable by its key; None if the call has none."""

_ARN_PARTS = 6
VARIABLE = re.compile(r"\$\{([^}]*)\}")
"""A policy variable in a text."""
_INSIDE = re.compile(r"([A-Za-z]+:[^,'{}]+?)\s*(?:,\s*'([^']*)'\s*)?")


class Variable(NamedTuple):
    """`${key, 'default'}`."""

    key: str
    default: str | None


class _Wild(NamedTuple):
    """`*` or `?`, as a wildcard."""

    many: bool


Token = str | Variable | _Wild


class Template:
    """A compiled text; made by `template` or `arn`."""

    __slots__ = ("_arn", "_flags", "_tokens", "_whole", "text")

    def __init__(self, text: str, tokens: tuple[Token, ...], *, is_arn: bool, ignore_case: bool) -> None:
        self.text = text
        self._tokens = tokens
        self._arn = is_arn
        self._flags = re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG)
        fixed = [token for token in tokens if not isinstance(token, Variable)]
        self._whole = self._compiled(fixed) if len(fixed) == len(tokens) else None

    def __repr__(self) -> str:
        return f"<{self.text}>"

    @property
    def variables(self) -> list[str]:
        """The keys of its variables."""
        return [token.key for token in self._tokens if isinstance(token, Variable)]

    def matches(self, text: str, lookup: Lookup) -> bool:
        """True if the whole of `text` matches. A variable without value or default matches nothing."""
        if self._whole is not None:
            return self._whole.fullmatch(text) is not None
        tokens: list[str | _Wild] = []
        for token in self._tokens:
            if not isinstance(token, Variable):
                tokens.append(token)
                continue
            value = lookup(token.key)
            value = token.default if value is None else value
            if value is None:
                return False
            tokens.append(value)
        return self._compiled(tokens).fullmatch(text) is not None

    def _compiled(self, tokens: Iterable[str | _Wild]) -> re.Pattern[str]:
        pieces: list[list[str]] = [[""]]  # the parts of an ARN, each split at its stars
        dots = ["[^:]" if self._arn else "."]
        for token in tokens:
            if isinstance(token, _Wild):
                if token.many:
                    pieces[-1].append("")
                else:
                    pieces[-1][-1] += dots[-1]
                continue
            texts = token.split(":", _ARN_PARTS - len(pieces)) if self._arn else [token]
            pieces[-1][-1] += re.escape(texts[0])
            for text in texts[1:]:
                pieces.append([re.escape(text)])
                dots.append("[^:]" if len(pieces) < _ARN_PARTS else ".")
        return re.compile(":".join(map(_part, pieces, dots)), self._flags)


def template(text: str, *, wildcards: bool = True, ignore_case: bool = False) -> Template:
    """Compile a text.

    :param wildcards: whether `*` and `?` are wildcards.
    :raises ValueError: if the text between `${` and `}` is not a variable.
    """
    return Template(text, _tokens(text, wildcards), is_arn=False, ignore_case=ignore_case)


def arn(text: str) -> Template:
    """Compile an ARN with wildcards and variables.

    :raises ValueError: if it does not have six parts, its service has a wildcard, or a variable is malformed.
    """
    tokens = _tokens(text, wildcards=True)
    parts = VARIABLE.sub("x", text).split(":", _ARN_PARTS - 1)
    if len(parts) < _ARN_PARTS or parts[0] != "arn" or not parts[1] or not parts[5]:
        raise ValueError("an ARN has six parts: arn:partition:service:region:account:resource")
    if not re.fullmatch("[a-z0-9-]+", parts[2]):
        raise ValueError("the service of an ARN is a name without wildcards")
    return Template(text, tokens, is_arn=True, ignore_case=False)


def _part(chunks: list[str], dot: str) -> str:
    """A regular expression that matches each chunk between two stars at its first occurrence."""
    head, *rest = chunks
    if not rest:
        return head
    *middle, tail = rest
    return head + "".join(f"(?>{dot}*?{chunk})" for chunk in middle if chunk) + f"{dot}*{tail}"


def _tokens(text: str, wildcards: bool) -> tuple[Token, ...]:
    tokens: list[Token] = []
    at = 0
    for match in VARIABLE.finditer(text):
        tokens += _plain(text[at : match.start()], wildcards)
        at = match.end()
        if match[1] in {"*", "?", "$"}:
            tokens.append(match[1])
        elif inside := _INSIDE.fullmatch(match[1]):
            tokens.append(Variable(inside[1], inside[2]))
        else:
            raise ValueError(f"{match[0]} is not a policy variable")
    tokens += _plain(text[at:], wildcards)
    return tuple(tokens)


def _plain(text: str, wildcards: bool) -> list[Token]:
    if "${" in text:
        raise ValueError("a policy variable is not closed")
    if not wildcards:
        return [text] if text else []
    return [
        _Wild(piece == "*") if piece in {"*", "?"} else piece for piece in re.split(r"([*?])", text) if piece
    ]
