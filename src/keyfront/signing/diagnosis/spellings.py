"""Other encodings of a path or query: what a signer may have signed in place of what was requested."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from keyfront.signing.diagnosis.difference import difference
from keyfront.signing.diagnosis.encoders import ENCODERS, NOTHING, Encoder, Part
from keyfront.signing.diagnosis.mistakes import Alternative, Mistake, both, one_mistake

# Maximum number of query spellings combined with one path spelling, and of encoder pairs from one language.
_MAX_FORMS = 40
_MAX_FAMILIES = 200
# A part with more characters, or more pieces, is searched for common encodings only.
_LONG, _MANY = 1_500, 60
# Maximum number of bytes of one part that are re-encoded. This bounds the time for a long URL.
_MAX_ENCODED = 40_000
# Encoders from this index of ENCODERS on are rare.
_RARE = 26


class Form(NamedTuple):
    """How a text was spelled: the names of the encoders, and any additional changes."""

    names: tuple[str, ...]
    note: str


ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._")
_NOTES = {
    "twice": ("encoded_twice", "the {part} was percent-encoded once more when it was signed"),
    "once": ("encoded_twice", "the {part} was percent-encoded once more after it was signed"),
    "nfc": ("unicode_form", "the {part} was signed with its letters in Unicode's composed form (NFC)"),
    "nfd": ("unicode_form", "the {part} was signed with its letters in Unicode's decomposed form (NFD)"),
    "latin-1": ("charset", "the {part} was signed in ISO 8859-1 (latin-1), not in UTF-8"),
    "utf-8": ("charset", "the {part} was signed in UTF-8, and requested in ISO 8859-1 (latin-1)"),
    "utf-8 twice": ("charset", "the {part}'s UTF-8 was taken for latin-1 and put into UTF-8 once more before signing"),
    "utf-8 once": ("charset", "the {part}'s UTF-8 was taken for latin-1 and put into UTF-8 once more after signing"),
    "lower": ("hex_case", "the {part} was signed with %xx in lower case"),
    "upper": ("hex_case", "the {part} was signed with %XX in upper case"),
    "whole": ("separators_encoded", "the separators of the {part} were percent-encoded when it was signed"),
}  # fmt: skip


class Spellings:
    """The ways in which one path or query may have been written when it was signed.

    `alternatives` maps each alternative text to its cost and its forms. A text that several encoders write alike has
    one form with all their names: the answer names them all, and is right whichever one was used.
    """

    def __init__(self, text: str, part: Part, *, light: bool = False) -> None:
        """`light` limits the search to common encodings: no other Unicode form, charset, or second encoding."""
        self.text = text
        self.part = part
        # Texts that are long or have many parts are tried in common encodings only.
        self._light = (
            light or len(text) > _LONG or sum(map(text.count, "/" if part == "path" else "&=")) > _MANY
        )
        self.alternatives: dict[str, tuple[int, Form]] = {}
        self._left = _MAX_ENCODED
        if text and not frozenset(text.encode("latin-1")) <= _PLAIN | {0x2F}:
            self._collect()

    def _collect(self) -> None:
        found: list[tuple[int, str, str, tuple[str, ...]]] = []
        for cost, note, pieces in sorted(self._readings(), key=lambda one: one[0]):
            found.extend(self._encoded(cost, note, pieces))
            if self._left < 0:
                break
        for cost, spelled, note, names in sorted(found, key=lambda one: one[0]):
            if spelled == self.text:
                continue
            held = self.alternatives.get(spelled)
            if held is None:
                self.alternatives[spelled] = cost, Form(names, note)
            elif held[1].note == note:
                merged = dict.fromkeys((*held[1].names, *names))
                self.alternatives[spelled] = held[0], Form(tuple(merged), note)

    def _encoded(
        self, cost: int, note: str, pieces: list[tuple[bytes, str]]
    ) -> Iterator[tuple[int, str, str, tuple[str, ...]]]:
        """(cost, text, note, names of the encoders that write it)"""
        size = sum(len(data) for data, _ in pieces) + 40 * len(pieces)
        special = frozenset().union(*(data for data, _ in pieces)) - _PLAIN
        groups: dict[tuple[object, ...], tuple[Encoder, list[str], int]] = {}
        for rank, encoder in enumerate(ENCODERS):
            if self.part not in encoder.parts:
                continue
            key = encoder.writes(special)
            if key in groups:
                groups[key][1].extend(encoder.names)
            else:
                groups[key] = encoder, list(encoder.names), cost + 1 + (rank >= _RARE)
        separators = {separator for _, separator in pieces if separator}
        more = not note and cost == 0 and not self._light
        for encoder, names, price in groups.values():
            if self._left < 0:
                return
            self._left -= size
            spelled = "".join(encoder.encode(data) + separator for data, separator in pieces)
            yield price, spelled, note, tuple(names)
            if not more:
                continue
            if not encoder.lower and (lower := each_escape(spelled, str.lower)) != spelled:
                yield price + 1, lower, "lower", tuple(names)
            if "%" in spelled or "+" in spelled:
                self._left -= size
                again = "".join(
                    encoder.encode(encoder.encode(data).encode("latin-1", "replace")) + separator
                    for data, separator in pieces
                )
                yield price + 1, again, "twice", tuple(names)
            if not all(map(encoder.leaves_alone, separators)):
                self._left -= size
                yield price + 2, self._whole(encoder, pieces), "whole", tuple(names)

    def _whole(self, encoder: Encoder, pieces: list[tuple[bytes, str]]) -> str:
        data = b"".join(data + separator.encode("latin-1") for data, separator in pieces)
        if self.part == "path" and data.startswith(b"/"):
            return "/" + encoder.encode(data[1:])
        return encoder.encode(data)

    def _readings(self) -> Iterator[tuple[int, str, list[tuple[bytes, str]]]]:
        """Yield what the sent text may mean, as (cost, note, pieces). A piece is the bytes of a segment, or of a name
        or value, and the separator after it."""
        text = self.text
        literal = _pieces(text, self.part)
        plus: list[list[tuple[bytes, str]]] = [_mapped(literal, unquote_to_bytes)]
        if "+" in text:
            plus.append(_mapped(literal, lambda data: unquote_to_bytes(data.replace(b"+", b" "))))
        for at, pieces in enumerate(plus):
            price = at if self.part == "path" and "%20" in text else 0
            yield price, "", pieces
            if self.part == "query":
                for extra, merged in _merged(pieces):
                    yield price + extra, "", merged
            for cost, note, change in () if self._light else _CHARSETS:
                if (changed := _changed(pieces, change)) is not None:
                    yield price + cost, note, changed
            if any(ESCAPE.search(data.decode("latin-1")) for data, _ in pieces):
                yield price + 1, "once", _mapped(pieces, unquote_to_bytes)
        if "%" in text:
            yield 1, "twice", literal

    def describe(
        self, spelled: str, names: tuple[str, ...] | None = None, both: str = ""
    ) -> tuple[Mistake, ...]:
        """Return what went wrong if `spelled` was signed. `names` narrows the encoders; `both` names the part in the
        answer's wording."""
        _, form = self.alternatives[spelled]
        part = both or self.part
        among = names or form.names
        named = [name for name in among if name != NOTHING]
        where = difference(spelled, self.text, self.part)
        if form.note:
            code, words = _NOTES[form.note]
            return (Mistake(code, f"{words.format(part=part)}: it {where}{_so(named)}"),)
        if each_escape(spelled, str.lower) == each_escape(self.text, str.lower):
            note = "lower" if spelled == each_escape(spelled, str.lower) else "upper"
            code, words = _NOTES[note]
            return (Mistake(code, f"{words.format(part=part)}: it {where}{_so(named)}"),)
        if not named:
            return (
                Mistake("not_encoded", f"the {part} was signed decoded and requested encoded: it {where}"),
            )
        words = (
            f"the {part} was signed in one encoding and requested in another: it {where}. So {_write(named)}"
        )
        if len(named) < len(among):
            words = (
                f"the {part} was signed decoded and requested encoded: it {where}. So also {_write(named)}"
            )
        if sent := self.sent_as():
            words += f"; it was requested as {_write(sent, 4)}"
        return (Mistake("encoding", words),)

    def sent_as(self) -> tuple[str, ...]:
        """The encoders that write the text that was sent."""
        for _, note, pieces in sorted(self._readings(), key=lambda one: one[0]):
            if note:
                continue
            names = [
                name
                for encoder in ENCODERS
                if self.part in encoder.parts
                and "".join(encoder.encode(data) + separator for data, separator in pieces) == self.text
                for name in encoder.names
            ]
            if names:
                # A client encodes at least what cannot appear in a request line.
                return tuple(dict.fromkeys(names))
        return ()


def _pieces(text: str, part: Part) -> list[tuple[bytes, str]]:
    separators = "/" if part == "path" else "&="
    pieces: list[tuple[bytes, str]] = []
    named = False
    start = 0
    for at, char in enumerate(text):
        if char in separators and not (char == "=" and named):
            pieces.append((text[start:at].encode("latin-1"), char))
            start = at + 1
            named = char == "="
    pieces.append((text[start:].encode("latin-1"), ""))
    return pieces


def _merged(pieces: list[tuple[bytes, str]]) -> Iterator[tuple[int, list[tuple[bytes, str]]]]:
    """Yield the readings in which a & (and the = after it) belongs to a value, for signers that do not encode them:
    first in parameters that have no = of their own, then in any."""
    parameters: list[list[tuple[bytes, str]]] = [[]]
    for piece in pieces:
        parameters[-1].append(piece)
        if piece[1] == "&":
            parameters.append([])
    if not 2 <= len(parameters) <= 6:
        return
    seen = []
    for begin in range(len(parameters) - 1):
        for end in range(begin + 1, len(parameters)):
            rest = parameters[begin + 1 : end + 1]
            head = parameters[begin]
            value = head[-1][0] + head[-1][1].encode()
            value += b"".join(data + (separator.encode()) for some in rest for data, separator in some)
            last = rest[-1][-1][1]
            value = value.removesuffix(last.encode()) if last else value
            merged = [
                *(one for some in parameters[:begin] for one in some),
                *head[:-1],
                (value, last),
                *(one for some in parameters[end + 1 :] for one in some),
            ]
            bare = all(len(some) == 1 for some in rest)
            seen.append((0 if bare else 1, merged))
    yield from sorted(seen, key=lambda one: one[0])


def _mapped(pieces: list[tuple[bytes, str]], change: Callable[[bytes], bytes]) -> list[tuple[bytes, str]]:
    return [(change(data), separator) for data, separator in pieces]


def _changed(
    pieces: list[tuple[bytes, str]], change: Callable[[bytes], bytes]
) -> list[tuple[bytes, str]] | None:
    """Return the changed pieces, or None if they cannot be changed or stay the same."""
    try:
        changed = _mapped(pieces, change)
    except UnicodeError:
        return None
    return changed if changed != pieces else None


def _normalized(form: Literal["NFC", "NFD"]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        return data if data.isascii() else unicodedata.normalize(form, data.decode("utf-8")).encode("utf-8")

    return change


def _utf8_from_latin(data: bytes) -> bytes:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1").encode("utf-8")
    return data


def _once_less(data: bytes) -> bytes:
    less = data.decode("utf-8").encode("latin-1")
    less.decode("utf-8")
    return less


_CHARSETS: tuple[tuple[int, str, Callable[[bytes], bytes]], ...] = (
    (1, "nfc", _normalized("NFC")),
    (1, "nfd", _normalized("NFD")),
    (1, "utf-8", _utf8_from_latin),
    (2, "latin-1", lambda data: unicodedata.normalize("NFC", data.decode("utf-8")).encode("latin-1")),
    (2, "utf-8 once", _once_less),
    (3, "utf-8 twice", lambda data: data if data.isascii() else data.decode("latin-1").encode("utf-8")),
)


def each_escape(text: str, change: Callable[[str], str]) -> str:
    return ESCAPE.sub(lambda match: change(match[0]), text)


def _so(names: list[str]) -> str:
    """Return `. So a and b write it`, or nothing if no encoder writes it."""
    return f". So {_write(names)}" if names else ""


def _write(names: Iterable[str], most: int = 100) -> str:
    """`a, b and c write it`"""
    all_ = list(names)
    if len(all_) == 1:
        return f"{all_[0]} writes it"
    shown, rest = all_[:most], len(all_) - most
    return (
        f"{', '.join(shown)} and others write it"
        if rest > 0
        else f"{', '.join(shown[:-1])} and {shown[-1]} write it"
    )


def spelled_together(paths: Spellings, queries: Spellings) -> Iterator[Alternative]:
    """Yield path and query spelled by one encoder, or by two of one language."""
    by_note: dict[str, list[tuple[str, int, Form]]] = {}
    for text, (cost, form) in queries.alternatives.items():
        if cost <= 2:
            by_note.setdefault(form.note, []).append((text, cost, form))
    families: list[Alternative] = []
    for path, (path_cost, path_form) in paths.alternatives.items():
        if path_cost > 2:
            continue
        names = frozenset(path_form.names)
        languages = frozenset(name.partition(" ")[0] for name in path_form.names)
        for query, query_cost, query_form in by_note.get(path_form.note, ())[:_MAX_FORMS]:
            price = max(path_cost, query_cost)
            if not names.isdisjoint(query_form.names):
                common = tuple(name for name in query_form.names if name in names)
                yield Alternative(
                    price,
                    f"{path}?{query}",
                    partial(_joint, paths, path, queries, query, common, path_form.note),
                )
            elif not languages.isdisjoint(name.partition(" ")[0] for name in query_form.names):
                mistakes = both(partial(paths.describe, path), partial(queries.describe, query))
                families.append(Alternative(price + 1, f"{path}?{query}", mistakes))
    yield from families[:_MAX_FAMILIES]


def _joint(
    paths: Spellings, path: str, queries: Spellings, query: str, names: tuple[str, ...], note: str
) -> tuple[Mistake, ...]:
    (first,) = paths.describe(path, names, "path and the query" if not note else "")
    return (first, *queries.describe(query, names)) if note else (first,)


def respelled(spellings: Spellings) -> Iterator[Alternative]:
    for text, (cost, _) in spellings.alternatives.items():
        yield Alternative(cost, text, partial(spellings.describe, text))


_SUBSTITUTIONS = (
    ("+", "%20"), ("%20", "+"), (" ", "%20"), (" ", "+"), ("%2B", "+"), ("+", "%2B"), ("'", "%27"),
    ("%27", "'"), ("/", "%2F"), ("/", "%2f"), ("@", "%40"), ("%40", "@"), ("~", "%7E"), ("%7E", "~"),
    (":", "%3A"), ("%3A", ":"), (",", "%2C"), ("%2C", ","), ("=", "%3D"), ("!", "%21"), ("%21", "!"),
    ("(", "%28"), (")", "%29"), ("*", "%2A"), ("%2A", "*"), ("&", "%26"), (";", "%3B"), ("$", "%24"),
)  # fmt: skip


def substituted(text: str, part: Part) -> Iterator[Alternative]:
    """Yield the text with one change, for spellings that no single encoder produces."""
    for signed, sent in _SUBSTITUTIONS:
        if sent in text:
            changed = text.replace(sent, signed)
            yield Alternative(2, changed, partial(_otherwise, changed, text, part))
    yield one_mistake(1, each_escape(text, str.lower), *_note("lower", part))
    yield one_mistake(1, each_escape(text, str.upper), *_note("upper", part))
    yield one_mistake(2, text.replace("%", "%25"), *_note("twice", part))
    yield one_mistake(2, text.replace("%25", "%"), *_note("once", part))


def _otherwise(signed: str, sent: str, part: Part) -> tuple[Mistake, ...]:
    where = difference(signed, sent, part)
    return (
        Mistake("encoding", f"the {part} was signed in one encoding and requested in another: it {where}"),
    )


def _note(note: str, part: str) -> tuple[str, str]:
    code, words = _NOTES[note]
    return code, words.format(part=part)
