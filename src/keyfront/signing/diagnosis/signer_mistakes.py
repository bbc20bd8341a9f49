"""Common signer mistakes: what a signer may have signed instead of what was requested.

Every SDK and every homemade signer has at some time signed a URL in another spelling than the one that is sent
(cloudfront-semantics §1.4, §8). Each mistake is a small rewrite of the request's own URL or of the policy's text. If a
signature does not fit, `explain` tries the rewrites, and the one that fits names the mistake.

Each rewrite has a cost, 0 for none. Rewrites are tried alone and combined, in order of total cost, so that likely ones
come first and any number of attempts is useful. Everything is generated lazily.

Texts are latin-1, one character for one byte.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from keyfront.signing.diagnosis.encoders import ENCODERS, NOTHING, Encoder, Part
from keyfront.signing.resource import is_bucket_host, plain_host


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


_IMPLIED = {"http": "80", "https": "443"}
_USUAL = ("80", "443", "8080", "8443")
# Combinations of rewrites that cost more than this are not tried.
MAX_COST = 6
# Maximum number of targets of one cost.
_MAX_TARGETS = 4_000
# Maximum number of query spellings combined with one path spelling, and of encoder pairs from one language.
_MAX_FORMS = 40
_MAX_FAMILIES = 200
# Maximum number of bytes of one part that are re-encoded. This bounds the time for a long URL.
_MAX_ENCODED = 40_000
_LONG, _MANY = 1_500, 60
# Encoders from this index of ENCODERS on are rare.
_RARE = 26


def none() -> tuple[Mistake, ...]:
    return ()


def _one(cost: int, text: str, code: str, words: str) -> Alternative:
    mistake = (Mistake(code, words),)
    return Alternative(cost, text, lambda: mistake)


def _distinct(alternatives: Iterable[Alternative], right: str) -> list[Alternative]:
    """Return the cheapest alternative for each text, without the correct text, in order of cost."""
    by_text: dict[str, Alternative] = {}
    for alternative in sorted(alternatives, key=lambda one: one.cost):
        if alternative.text != right:
            by_text.setdefault(alternative.text, alternative)
    return list(by_text.values())


# ------------------------------------------------------------------------------------------------------------
# Whole URLs


class Request:
    """The URL of a request, and everything that may have been signed in its place.

    `own` is the request's own query, None if there is no `?`. `fragment` is what a user pasted after `#`, which is
    never sent. `other_hosts` are the other host names of the distribution, including those of its origins.
    """

    def __init__(
        self,
        scheme: str,
        host: str,
        path: str,
        own: str | None,
        *,
        fragment: str = "",
        other_hosts: Iterable[str] = (),
    ) -> None:
        self.scheme, self.host, self.path = scheme, plain_host(scheme, host), path
        self.query = "" if own is None else f"?{own}"
        self._fragment = fragment
        self._other_hosts = tuple(other_hosts)

    @property
    def base(self) -> str:
        """Scheme and host."""
        return f"{self.scheme}://{self.host}"

    @property
    def url(self) -> str:
        return f"{self.base}{self.path}{self.query}"

    def signed(self) -> Iterator[Signed]:
        """Yield the URLs that may have been signed, the request's own first, then in order of cost."""
        bases = _by_cost(
            [Alternative(0, self.base, none), *_bases(self.scheme, self.host, self._other_hosts)]
        )
        targets = _Targets(self.path, self.query, self._fragment)
        for total in range(MAX_COST + 1):
            if total == 2:
                for text, mistake in self._others():
                    if text == self.url:
                        continue
                    yield 2, text, (Alternative(2, text, partial(tuple, (mistake,))),)
            for base_cost in range(total + 1):
                for base in bases.get(base_cost, ()):
                    head, parts = base.text, (base,)
                    for text, some in targets.of(total - base_cost):
                        yield total, head + text, parts + some

    def _others(self) -> Iterator[tuple[str, Mistake]]:
        """Yield what is signed in place of a whole URL. None of these is combined with other mistakes."""
        yield from ((pattern, Mistake("canned_wildcard", _WILDCARD)) for pattern in self._patterns())
        target = self.path + self.query
        for end, name in (
            (" ", "a blank"),
            ("\n", "a line end"),
            ("\r\n", "a line end"),
            ("%20", "%20"),
            ("%0A", "%0A"),
        ):
            yield (
                self.url + end,
                Mistake("url_ends_blank", f"it was signed with {name} at its end: trim it first"),
            )
        for quotes in ('""', "''", "<>"):
            words = f"the URL was signed with {quotes[0]} and {quotes[1]} around it"
            yield f"{quotes[0]}{self.url}{quotes[1]}", Mistake("quoted", words)
        if not self.host.startswith("["):
            # Bytes, because a letter beyond ASCII may have no upper-case letter in Latin-1.
            raw = self.host.encode("latin-1")
            for host in (each.decode("latin-1") for each in (raw.upper(), raw.title(), raw.capitalize())):
                words = f"it was signed for the host {host}, and hosts travel in lower case"
                yield f"{self.scheme}://{host}{target}", Mistake("letter_case", words)
            words = "it was signed with a dot at the end of the host"
            yield f"{self.base}.{target}", Mistake("host", words)
        words = f"it was signed for {self.scheme.upper()}:// in upper case"
        yield f"{self.scheme.upper()}://{self.host}{target}", Mistake("letter_case", words)
        raw = self.path.encode("latin-1")
        for path in (raw.lower().decode("latin-1"), raw.upper().decode("latin-1")):
            words = "upper and lower case of the path differ between what was signed and what was requested"
            yield f"{self.base}{path}{self.query}", Mistake("letter_case", words)
        words = "the whole URL was percent-encoded before it was signed: encode the names in its path and query only"
        yield quote(self.url, safe="", encoding="latin-1"), Mistake("separators_encoded", words)
        for word in ("", "undefined", "null", "None", "[object Object]"):
            words = (
                f"the signer had no URL and signed {f'the word {word}' if word else 'nothing in its place'}"
            )
            yield word, Mistake("value_missing", words)
        if self.path.lower().startswith(("/http://", "/https://")):
            words = "the whole signed URL was put behind a host once more: request it as it is"
            yield target[1:], Mistake("nested_url", words)

    def _patterns(self) -> Iterator[str]:
        yield from _PATTERNS
        name, _, parent = self.host.partition(".")
        above = [f"*.{parent}"] if name and parent else []
        for scheme in (self.scheme, "http*", "*"):
            for host in (self.host, f"*.{self.host}", *above):
                yield f"{scheme}://{host}/*"
                yield f"{scheme}://{host}{self.path}"
        folder = self.path
        for _ in range(16):
            folder = folder.rpartition("/")[0]
            if not folder:
                break
            yield f"{self.base}{folder}*"
            yield f"http*://{self.host}{folder}/*"


def _both(
    first: Callable[[], tuple[Mistake, ...]], second: Callable[[], tuple[Mistake, ...]]
) -> Callable[[], tuple[Mistake, ...]]:
    if first is none:
        return second
    if second is none:
        return first
    return lambda: first() + second()


def _by_cost(alternatives: Iterable[Alternative]) -> dict[int, list[Alternative]]:
    by_cost: dict[int, list[Alternative]] = {}
    for alternative in alternatives:
        by_cost.setdefault(alternative.cost, []).append(alternative)
    return by_cost


_Target = tuple[str, tuple[Alternative, ...]]


class _Targets:
    """Path and query together, by cost. The list for a cost is built on first use and cached."""

    def __init__(self, path: str, query: str, fragment: str) -> None:
        self._path, self._query, self._fragment = path, query, fragment
        self._lists: dict[int, list[_Target]] = {0: [(path + query, ())]}
        self._prepared = False
        self._paths: dict[int, list[Alternative]] = {}
        self._queries: dict[int, list[Alternative]] = {}
        self._together: dict[int, list[Alternative]] = {}

    def of(self, cost: int) -> list[_Target]:
        """Return the targets of exactly this cost."""
        if (ready := self._lists.get(cost)) is None:
            ready = self._lists[cost] = list(itertools.islice(self._make(cost), _MAX_TARGETS))
        return ready

    def _make(self, cost: int) -> Iterator[_Target]:
        if not self._prepared:
            self._prepared = True
            self._prepare()
        path, query = self._path, self._query
        for one in self._paths.get(cost, ()):
            yield one.text + query, (one,)
        for one in self._queries.get(cost, ()):
            yield path + one.text, (one,)
        for one in self._together.get(cost, ()):
            yield one.text, (one,)
        for first in range(1, cost):
            for one in self._paths.get(first, ()):
                text = one.text
                for other in self._queries.get(cost - first, ()):
                    yield text + other.text, (one, other)

    def _prepare(self) -> None:
        own = self._query[1:]
        path_spellings = Spellings(self._path, "path")
        query_spellings = Spellings(own, "query")
        self._paths = _by_cost(_distinct(_paths(self._path, path_spellings), self._path))
        self._queries = _by_cost(
            _distinct(_queries(self._query, query_spellings, self._fragment), self._query)
        )
        together = list(_together(path_spellings, query_spellings))
        if own:  # a ? in the file name, which started a query when sent unencoded
            whole = Spellings(self._path + self._query, "path", light=True)
            together.extend(
                one._replace(cost=one.cost + 1) for one in _respelled(whole) if "?" not in one.text
            )
        self._together = _by_cost(together)


# ------------------------------------------------------------------------------------------------------------
# Spellings: one text, percent-encoded in other ways


class Form(NamedTuple):
    """How a text was spelled: the names of the encoders, and any additional changes."""

    names: tuple[str, ...]
    note: str


_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
_TOKEN = re.compile("%[0-9A-Fa-f]{2}|.", re.DOTALL)
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
            if not encoder.lower and (lower := _each_escape(spelled, str.lower)) != spelled:
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
            if any(_ESCAPE.search(data.decode("latin-1")) for data, _ in pieces):
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
        if _each_escape(spelled, str.lower) == _each_escape(self.text, str.lower):
            note = "lower" if spelled == _each_escape(spelled, str.lower) else "upper"
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


def _each_escape(text: str, change: Callable[[str], str]) -> str:
    return _ESCAPE.sub(lambda match: change(match[0]), text)


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


def _shown(text: str) -> str:
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
    one, other = _TOKEN.findall(signed), _TOKEN.findall(sent)
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
            pairs.setdefault((_shown(rest[0]), _shown(rest[1])), position)
            break
        pair = _shown("".join(one[begin:at])), _shown("".join(other[begin:at]))
        pairs.setdefault(pair, position)
        position += sum(map(len, other[begin:at]))
    if not pairs:
        return ""
    shown = [f"{a} where the request has {b}" for a, b in list(pairs)[:3]]
    first = next(iter(pairs.values()))
    more = " and more" if len(pairs) > 3 else ""
    return f"was signed with {', '.join(shown)}{more} (first at character {first} of the {part})"


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


def _together(paths: Spellings, queries: Spellings) -> Iterator[Alternative]:
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
                mistakes = _both(partial(paths.describe, path), partial(queries.describe, query))
                families.append(Alternative(price + 1, f"{path}?{query}", mistakes))
    yield from families[:_MAX_FAMILIES]


def _joint(
    paths: Spellings, path: str, queries: Spellings, query: str, names: tuple[str, ...], note: str
) -> tuple[Mistake, ...]:
    (first,) = paths.describe(path, names, "path and the query" if not note else "")
    return (first, *queries.describe(query, names)) if note else (first,)


def _respelled(spellings: Spellings) -> Iterator[Alternative]:
    for text, (cost, _) in spellings.alternatives.items():
        yield Alternative(cost, text, partial(spellings.describe, text))


_SUBSTITUTIONS = (
    ("+", "%20"), ("%20", "+"), (" ", "%20"), (" ", "+"), ("%2B", "+"), ("+", "%2B"), ("'", "%27"),
    ("%27", "'"), ("/", "%2F"), ("/", "%2f"), ("@", "%40"), ("%40", "@"), ("~", "%7E"), ("%7E", "~"),
    (":", "%3A"), ("%3A", ":"), (",", "%2C"), ("%2C", ","), ("=", "%3D"), ("!", "%21"), ("%21", "!"),
    ("(", "%28"), (")", "%29"), ("*", "%2A"), ("%2A", "*"), ("&", "%26"), (";", "%3B"), ("$", "%24"),
)  # fmt: skip


def _substituted(text: str, part: Part) -> Iterator[Alternative]:
    """Yield the text with one change, for spellings that no single encoder produces."""
    for signed, sent in _SUBSTITUTIONS:
        if sent in text:
            changed = text.replace(sent, signed)
            yield Alternative(2, changed, partial(_otherwise, changed, text, part))
    yield _one(1, _each_escape(text, str.lower), *_note("lower", part))
    yield _one(1, _each_escape(text, str.upper), *_note("upper", part))
    yield _one(2, text.replace("%", "%25"), *_note("twice", part))
    yield _one(2, text.replace("%25", "%"), *_note("once", part))


def _otherwise(signed: str, sent: str, part: Part) -> tuple[Mistake, ...]:
    where = difference(signed, sent, part)
    return (
        Mistake("encoding", f"the {part} was signed in one encoding and requested in another: it {where}"),
    )


def _note(note: str, part: str) -> tuple[str, str]:
    code, words = _NOTES[note]
    return code, words.format(part=part)


# ------------------------------------------------------------------------------------------------------------
# Scheme and host


def _bases(scheme: str, host: str, others: Iterable[str]) -> list[Alternative]:
    name, _, port = host.partition(":") if not host.startswith("[") else (host, "", "")
    hosts = [Alternative(0, host, none)]
    if port:
        hosts.append(_one(1, name, "port", f"it was signed without the port :{port}"))
    for added in (_IMPLIED.get(scheme, "80"), "8080", "8443", "3000", "8000", "80", "443", "5000", "9000"):
        hosts.append(
            _one(
                2 if added in _USUAL else 3,
                f"{name}:{added}",
                "port",
                f"it was signed with the port :{added}",
            )
        )
    for other in others:
        code = "bucket_host" if is_bucket_host(other) else "host"
        hosts.append(_one(1, other, code, _other_host(other, host)))
    swapped = name.removeprefix("www.") if name.startswith("www.") else f"www.{name}"
    hosts.append(_one(1, swapped, "host", _other_host(swapped, host)))
    if "xn--" in name:
        try:
            unicode = name.encode("ascii").decode("idna").encode("utf-8").decode("latin-1")
            words = "it was signed with the host's name in Unicode; it travels in its xn-- form"
            hosts.append(_one(2, unicode, "host", words))
        except UnicodeError:
            pass
    for bucket in dict.fromkeys((name, name.partition(".")[0])):
        for form in (f"{bucket}.s3.amazonaws.com", f"s3.amazonaws.com/{bucket}"):
            hosts.append(_one(3, form, "bucket_host", _other_host(form, host)))
    other_scheme = "http" if scheme == "https" else "https"
    words = f"it was signed for {other_scheme}:// and requested by {scheme}://"
    schemes = [Alternative(0, scheme, none), _one(1, other_scheme, "scheme", words)]
    bases = [
        Alternative(a.cost + b.cost, f"{a.text}://{b.text}", _both(a.mistakes, b.mistakes))
        for a in schemes
        for b in hosts
    ]
    bases.append(
        _one(2, "", "bare_path", f"it was signed for a bare path; sign the whole URL, from {scheme}://")
    )
    bases.append(_one(2, host, "bare_path", "it was signed for a URL without http:// or https://"))
    bases.append(_one(2, f"//{host}", "bare_path", "it was signed for a URL without http: or https:"))
    return _distinct(bases, f"{scheme}://{host}")


def _other_host(signed: str, host: str) -> str:
    words = f"it was signed for the host {signed} and requested from {host}"
    if is_bucket_host(signed.partition("/")[0]):
        words += "; sign the URL of the distribution, not of the bucket behind it"
    return words


# ------------------------------------------------------------------------------------------------------------
# Paths and queries


_WILDCARD = (
    "a canned policy was signed for a wildcard; * means nothing there. Sign a custom policy (with the Policy "
    "parameter in place of Expires)"
)


# Patterns that match everything.
_PATTERNS = ("*", "https://*", "http://*", "http*://*", "*://*", "https://*/*", "http*://*/*", "*://*/*")


def _paths(path: str, spellings: Spellings) -> Iterator[Alternative]:
    yield from _respelled(spellings)
    yield from _substituted(path, "path")
    if path == "/":
        yield _one(1, "", "slash", "it was signed without the / after the host")
    if path.endswith("/"):
        yield _one(1, path.rstrip("/"), "slash", "it was signed without the / at the end of the path")
        for name in ("index.html", "index.htm", "index.php"):
            words = f"it was signed for {name}, and requested without it"
            yield _one(2, path + name, "index_document", words)
    else:
        yield _one(1, path + "/", "slash", "it was signed with a / at the end of the path")
    folder, _, file = path.rpartition("/")
    if file.startswith("index."):
        words = f"it was signed without {file[:60]}, and requested with it"
        yield _one(2, folder + "/", "index_document", words)
    yield _one(2, "/" + path, "slash", "it was signed with // before the path")
    yield _one(
        2, re.sub("//+", "/", path), "slash", "it was signed with single slashes where the request has //"
    )
    yield _one(2, path[1:], "slash", "it was signed without the / before the path")
    yield _one(
        2, _without_dots(path), "dot_segments", "dot segments were taken out of the path before signing"
    )
    if "/" in path[1:]:
        words = (
            "the / of the path were percent-encoded when it was signed: encode each segment, not the whole"
        )
        for escape in ("%2F", "%2f"):
            yield _one(2, "/" + path[1:].replace("/", escape), "separators_encoded", words)
            yield _one(3, path.replace("/", escape), "separators_encoded", words)
    # A canned policy for a pattern: all folders above the file, and common file extensions.
    folder = path
    for _ in range(16):
        if "/" not in folder:
            break
        folder = folder.rpartition("/")[0]
        yield _one(1, f"{folder}/*", "canned_wildcard", _WILDCARD)
        yield _one(3, f"{folder}/**", "canned_wildcard", _WILDCARD)
        if "." in file:
            yield _one(2, f"{folder}/*.{file.rpartition('.')[2]}", "canned_wildcard", _WILDCARD)
    yield _one(2, f"{path}*", "canned_wildcard", _WILDCARD)


def _without_dots(path: str) -> str:
    out: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if len(out) > 1:
                out.pop()
        elif segment != ".":
            out.append(segment)
    return "/".join(out) or "/"


def _queries(query: str, spellings: Spellings, fragment: str) -> Iterator[Alternative]:
    for one in _own_queries(query[1:], spellings) if query else _no_query():
        yield one._replace(text=one.text and f"?{one.text}") if query else one
    if fragment:
        words = "it was signed together with its fragment (#…), which never reaches a server"
        yield _one(1, f"{query}#{fragment}", "fragment", words)


def _no_query() -> Iterator[Alternative]:
    yield _one(1, "?", "empty_query", "it was signed with a ? at its end")
    yield _one(2, "?*", "canned_wildcard", _WILDCARD)


def _own_queries(own: str, spellings: Spellings) -> Iterator[Alternative]:
    yield from _respelled(spellings)
    yield from _substituted(own, "query")
    yield _one(1, "", "query_added", "the query was added after signing")
    yield _one(2, "*", "canned_wildcard", _WILDCARD)
    words = "it was signed with &amp; where it was requested with &: it was escaped for HTML before signing"
    yield _one(1, own.replace("&", "&amp;"), "html_escaped", words)
    parameters = own.split("&")
    if parameters[-1] == "" and len(parameters) > 1:
        yield _one(1, own.rstrip("&"), "empty_query", "it was signed without the & at the end of its query")
    yield _one(1, own + "&", "empty_query", "it was signed with a & at the end of its query")
    if any("=" not in parameter for parameter in parameters):
        filled = "&".join(p if "=" in p or not p else p + "=" for p in parameters)
        words = "it was signed with = after a parameter that was requested without"
        yield _one(1, filled, "empty_query", words)
    bare = "&".join(p[:-1] if p.endswith("=") and p.count("=") == 1 else p for p in parameters)
    words = "it was signed without the = that the request has after an empty parameter"
    yield _one(1, bare, "empty_query", words)
    yield _one(
        1, "&".join(filter(None, parameters)), "empty_query", "it was signed without empty parameters (&&)"
    )
    if len(parameters) > 1:
        yield from _other_parameters(parameters)


def _subsets(parameters: list[str]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yield the parts of a query that may have been signed, each with what was then added: any subset of a short query,
    or a prefix of a long one."""
    count = len(parameters)
    if count > 6:
        for end in range(count - 1, max(0, count - 12), -1):
            yield tuple(parameters[:end]), parameters[end:]
        return
    for size in range(count - 1, 0, -1):
        for some in itertools.combinations(parameters, size):
            yield some, [one for one in parameters if one not in some]


def _other_parameters(parameters: list[str]) -> Iterator[Alternative]:
    for some, more in _subsets(parameters):
        added = "&".join(more)[:200]
        words = f"this was added to the query after signing: {added or 'a repeated parameter'}"
        yield _one(2, "&".join(some), "query_added", words)
    words = "the parameters of the query were signed in another order"
    for order in (sorted(parameters), sorted(parameters, reverse=True), parameters[::-1]):
        yield _one(1, "&".join(order), "query_order", words)
    if len(parameters) <= 5:
        for some in itertools.permutations(parameters):
            yield _one(3, "&".join(some), "query_order", words)
