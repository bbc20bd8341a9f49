"""How the signed and the sent text of a part of a URL differ, in words."""

from __future__ import annotations

import re

TOKEN = re.compile("%[0-9A-Fa-f]{2}|.", re.DOTALL)


def _printable(text: str) -> str:
    try:
        text = text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        pass
    if text == " ":
        return "a blank"
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[:40])


def difference(signed: str, sent: str, part: str) -> str:
    """Describe where two spellings of one text differ: up to three kinds of difference, and the position of the first,
    counted from 1 in the text as sent."""
    one, other = TOKEN.findall(signed), TOKEN.findall(sent)
    pairs: dict[tuple[str, str], int] = {}
    at, position, length = 0, 1, min(len(one), len(other))
    while at < length and len(pairs) <= 3:
        if one[at] == other[at]:
            position += len(other[at])
            at += 1
            continue
        begin = at
        while at < length and one[at] != other[at] and _alike(one[at], other[at]):
            at += 1
            if at < length and not _continues(other[at]):
                break
        if at == begin:  # the texts diverge here: one has an extra encoding, or another form
            rest = "".join(one[at : at + 4]), "".join(other[at : at + 4])
            pairs.setdefault((_printable(rest[0]), _printable(rest[1])), position)
            break
        pair = _printable("".join(one[begin:at])), _printable("".join(other[begin:at]))
        pairs.setdefault(pair, position)
        position += sum(map(len, other[begin:at]))
    if not pairs:
        return ""
    texts = [f"{a} where the request has {b}" for a, b in list(pairs)[:3]]
    first = next(iter(pairs.values()))
    more = " and more" if len(pairs) > 3 else ""
    return f"was signed with {', '.join(texts)}{more} (first at character {first} of the {part})"


def _byte(token: str) -> int:
    return int(token[1:], 16) if len(token) == 3 else ord(token)


def _alike(one: str, other: str) -> bool:
    a, b = _byte(one), _byte(other)
    return (
        a == b or (a == 0x20 and other == "+") or (b == 0x20 and one == "+") or {one, other} == {"+", "%2B"}
    )


def _continues(token: str) -> bool:
    """Whether a token is a continuation byte of a UTF-8 character."""
    return 0x80 <= _byte(token) < 0xC0
