"""All the ways in which an origin may read a path.

CloudFront matches behaviors against its normalized form of a path, but the origin gets the path as the viewer sent it
(cloudfront-semantics §5.1). Attackers exploit the difference: `/open/..%2Fprivate/1` is under `/open/` here, but an
origin that decodes `%2F` first reads it as `/private/1`. Where part of a site is private, every reading of a path
therefore counts: the viewer must be allowed to see everything that an origin could find by it (`decide`).

Each rule (`_WAYS`) models what some server does. Servers are chained, so the rules are applied in every order until
they produce nothing new: `paths`. All text is latin-1 text, one character per byte, because origins decode bytes, and
so does this module. docs/decisions/0030-paths.md lists the servers.

Readings that no further rule can follow are computed once for each path: `ends` (blanks as plus signs, a script before
its PATH_INFO), `files` (a path without its trailing slash, and a folder whose name has a dot, which may be a file to
an origin that supports PATH_INFO), and `routes` (a script's PATH_INFO in place of the script: `/index.php/a` is the
page `/a` to a front controller).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

from keyfront.model.pattern import normalise_path, percent_decoded

_SUSPECT: Final = re.compile(r"[#%\\;\0-\x20\x7f-\xff]|/[/.(]|\.[^./]*/|\+/|[.+/]\Z|:\$")
_MANIFOLD: Final = re.compile(r"[#%\\;\0-\x20\x7f-\xff]|/[/.(]|[.+](?:/|\Z)|:\$")
_BEYOND: Final = re.compile(r"[#?%\\;\0-\x1f\x7f-\xff]|/[/.(]|\.[^./]*/|[ +]/|[.+/ ]\Z|:\$| HTTP")
"""`_SUSPECT` finds paths that have more than one reading, `_MANIFOLD` those among them for which checking the ends is
not enough, and `_BEYOND` whatever remains to be interpreted in a decoded path. All three take time linear in the
length of the path."""
_BUDGET: Final = 24 * 1024
"""Budget for the readings of one path, in bytes, beyond the first `_FREE`. A path that exceeds it does not name a real
file."""
_FREE: Final = 48
"""Number of readings not counted against the budget for a path of at most `_LONGEST_NAME` bytes. Real file names, with
all the punctuation that people use in them, have fewer."""
_LONGEST_NAME: Final = 3 * 1024 + 256
"""Bytes. An S3 object key has at most 1,024 bytes, each of which may be percent-encoded."""
_MARKS: Final = ("%25", "%2e", "%2E", "%2f", "%2F", "%20", "%3b", "%3B", "%5c", "%5C", ";", "\\")
_MOST: Final = 256
"""Maximum number of these marks in one path. Each of them costs work, so they are counted before any work is done."""


_DEEPEST: Final = 8
"""Maximum number of nested percent-encodings."""


class Readings:
    """All readings of one path.

    `paths` holds the readings, including the path itself; the module docstring explains `ends`, `files`, and `routes`.
    `climbs` says that one of `paths` has a `..` segment, `escapes` that such a segment leads above the root, and
    `drops` that one of the readings leaves out part of the path.
    """

    __slots__ = ("climbs", "drops", "ends", "escapes", "files", "paths", "routes")

    def __init__(
        self,
        paths: frozenset[str],
        ends: frozenset[str],
        files: frozenset[str],
        routes: frozenset[str] = frozenset(),
    ) -> None:
        self.paths = paths
        self.ends = ends
        self.files = files
        self.routes = routes
        self.climbs = self.escapes = False
        self.drops = bool(ends) and any(map(_scripts, paths))
        for path in paths:
            if not self.drops and _DROPPING.search(path):
                self.drops = True
            if ".." in path:
                depth = 0
                for segment in path.split("/"):
                    if segment == "..":
                        self.climbs = True
                        depth -= 1
                        if depth < 0:
                            self.escapes = True
                    elif segment and segment != ".":
                        depth += 1


def readings(path: str) -> Readings | None:
    """All readings of a raw path (latin-1 text, no query), or None if it has only one.

    :raises ValueError: if there are too many readings, or if the path holds an encoded NUL, which no file name
        contains.
    """
    if path == "/" or _SUSPECT.search(path) is None:
        return None
    if _MANIFOLD.search(path) is None:
        only = frozenset((path,))
        return Readings(
            only, frozenset(_ends(path)) - only, frozenset(_files(path)), frozenset(_routes(path))
        )
    if sum(map(path.count, _MARKS)) > _MOST:
        raise ValueError("the path can be read in too many ways")
    decoded = percent_decoded(path)
    if _BEYOND.search(decoded) is None:
        # By far the most common case: escapes that decode to nothing special.
        paths = frozenset((path, decoded, normalise_path(path)))
        return Readings(paths, frozenset((decoded.replace(" ", "+"),)), frozenset())
    if "%00" in path or "\0" in path:
        raise ValueError("the path holds a NUL")
    text, depth = path, 0
    while decoded != text:
        text, decoded, depth = decoded, percent_decoded(decoded), depth + 1
        if depth > _DEEPEST:
            raise ValueError("the path can be read in too many ways")
    found = {path}
    waiting = [path]
    budget = _BUDGET
    free = _FREE if len(path) <= _LONGEST_NAME else 0
    while waiting:
        text = waiting.pop()
        for read in _WAYS:
            other = read(text)
            if other in found:
                continue
            if free:
                free -= 1
            else:
                budget -= len(other) + 64
                if budget < 0:
                    raise ValueError("the path can be read in too many ways")
            found.add(other)
            waiting.append(other)
    paths = frozenset(found)
    ends: set[str] = set()
    files: set[str] = set()
    routes: set[str] = set()
    for each in found:
        ends.update(_ends(each))
        files.update(_files(each))
        routes.update(_routes(each))
        if len(files) > _MOST:
            raise ValueError("the path can be read in too many ways")
    return Readings(paths, frozenset(ends - paths), frozenset(files - paths), frozenset(routes - paths))


# -- rules that others may follow ----------------------------------------------------------------------------


def _slashed(path: str) -> str:
    """Backslashes as slashes: Windows, and parsers that read URLs as browsers do (WHATWG URL §4.4)."""
    return path.replace("\\", "/")


_PARAMETERS: Final = re.compile(r";[^/]*")


def _bare(path: str) -> str:
    """Without the parameters of its segments: Java servlets (RFC 3986 §3.3)."""
    return _PARAMETERS.sub("", path) if ";" in path else path


_TRAILING: Final = re.compile(r"(?:^|(?<=/))[ +]*(\.\.?)[ +]*(?=/|\Z)|(?<![. +])[. +]++(?=/|\Z)")
_STREAM: Final = re.compile(r":[^/:]*:\$[^/]*")


def _trimmed(path: str) -> str:
    """Windows: without dots and blanks at the end of a name (a `+` may be a blank) and without the name of a data
    stream (`1.mp4::$DATA`)."""
    if ":$" in path:
        path = _STREAM.sub("", path)
    if path[-1:] not in (".", " ", "+") and "./" not in path and " /" not in path and "+/" not in path:
        return path
    return _TRAILING.sub(r"\1", path)


_TIGHT: Final = str.maketrans("", "", "\0\t\n\r")


def _tight(path: str) -> str:
    """Without the characters that a URL parser removes wherever they occur (WHATWG URL §4.4), and without NULs, which
    end C strings."""
    return path if path.isprintable() else path.translate(_TIGHT)


def _without_authority(path: str) -> str:
    """What follows two slashes is a host for anything that parses a target as a URL reference (RFC 3986 §4.2):
    JavaScript's `new URL(request.url, base)`, PHP's `parse_url`, Python's `urlsplit`, Java's `URI`."""
    if not path.startswith("//"):
        return path
    rest = path.lstrip("/")
    slash = rest.find("/")
    return rest[slash:] if slash >= 0 else "/"


_OFF_BY_SLASH: Final = re.compile(r"(/[0-9A-Za-z_.~-]*[0-9A-Za-z_~-])\.\.(?=/)")


def _beside_alias(path: str) -> str:
    """`/open../x` is `/data/open/../x` to an nginx with `location /open { alias /data/open/; }`, and to proxies that
    replace a prefix in the same way."""
    return _OFF_BY_SLASH.sub(r"\1/..", path) if "../" in path else path


def _stripped_once(path: str) -> str:
    """A filter that removes `../` only once turns `....//` and `..././` into `../`."""
    return path.replace("../", "") if "....//" in path or "..././" in path else path


_SESSION: Final = re.compile(r"/\((?:[A-Za-z]\([^()/]*\))+\)(?=/)")


def _without_session(path: str) -> str:
    """ASP.NET removes what may be a cookieless session ID: `/(S(a))/x` is `/x`."""
    return _SESSION.sub("", path) if "))/" in path else path


def _until(mark: str) -> Callable[[str], str]:
    return lambda path: path.partition(mark)[0] or "/"


_LINE: Final = re.compile(r"[\0\r\n]| +HTTP/")


def _line(path: str) -> str:
    """The path up to the end of a line or string: a NUL (C), a line break, or what looks like the rest of a request
    line to the server behind a proxy that decodes (nginx with `$uri`)."""
    if path.isprintable() and " HTTP/" not in path:
        return path
    end = _LINE.search(path)
    return path if end is None else path[: end.start()] or "/"


_ESCAPE: Final = re.compile("%[uU]([0-9A-Fa-f]{4})")


def _unicode_escapes(path: str) -> str:
    """`%uXXXX`, as IIS and JavaScript's `unescape` read it."""
    if "%u" not in path and "%U" not in path:
        return path
    return _ESCAPE.sub(lambda found: _latin(chr(int(found[1], 16))), path)


_OVERLONG: Final = re.compile(
    "[\xc0\xc1](.)|\xe0([\x80\x81])(.)|\xf0\x80([\x80\x81])(.)|\xf8\x80\x80([\x80\x81])(.)"
    "|\xfc\x80\x80\x80([\x80\x81])(.)",
    re.DOTALL,
)


def _overlong(path: str) -> str:
    """Overlong encodings of ASCII (`%C0%AF` for a slash), which UTF-8 forbids (RFC 3629 §3)."""
    return path if path.isascii() else _OVERLONG.sub(_shortest, path)


def _shortest(found: re.Match[str]) -> str:
    sequence = found[0]
    before = ord(sequence[0]) & 1 if len(sequence) == 2 else ord(sequence[-2]) & 1
    return chr(before << 6 | ord(sequence[-1]) & 0x3F)


def _latin(text: str) -> str:
    """Text as its UTF-8 bytes, one character per byte. Bytes of the path that were not UTF-8 come back unchanged."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


class _Table(dict[int, str | int]):
    """A lazily filled table for `str.translate`. It never holds more than `_MOST_KNOWN` characters."""

    def __init__(self, translation: Callable[[str], str]) -> None:
        super().__init__()
        self._translation = translation

    def __missing__(self, code: int) -> str | int:
        if len(self) >= _MOST_KNOWN:
            self.clear()
        made: str | int = code if code < 0x80 else self._translation(chr(code))
        self[code] = made
        return made


_MOST_KNOWN: Final = 4096
_LIKE_SLASHES: Final = str.maketrans("⁄∕⧸∖⧹¥₩⃥", "///\\\\\\\\\\")
"""Characters that Windows maps to a slash or a backslash where a code page lacks them, including the yen and won signs
of code pages 932 and 949."""


def _ascii(char: str) -> str:
    if unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f":
        return ""
    made = unicodedata.normalize("NFKC", char).translate(_LIKE_SLASHES)
    return made if made.isascii() else char


_ALIKE: Final = str.maketrans("ıłŁøØđĐħĦŧŦαΓΘΣΦΩδεπστφ∞", "ilLoOdDhHtTaGTSFOdepstf8")


def _letter(char: str) -> str:
    made = "".join([c for c in unicodedata.normalize("NFKD", char) if unicodedata.category(c) != "Mn"])
    made = made.translate(_ALIKE)
    return made if made.isascii() else char


_COMPATIBLE: Final = _Table(_ascii)
_LETTERS: Final = _Table(_letter)


def _translated(path: str, table: _Table) -> str:
    if path.isascii():
        return path
    text = path.encode("latin-1").decode("utf-8", "surrogateescape").translate(table)
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _compatible(path: str) -> str:
    """ASCII in place of characters that stand for it (Unicode's NFKC, including the full-width forms; Windows'
    best-fit mappings), and without the characters that some file systems ignore (HFS+)."""
    return _translated(path, _COMPATIBLE)


def _letters(path: str) -> str:
    """Letters without their accents: Windows' best-fit mappings for code pages that lack them; partly also file
    systems that decompose characters (HFS+, Unicode's NFD)."""
    return _translated(path, _LETTERS)


_WAYS: Final[tuple[Callable[[str], str], ...]] = (
    percent_decoded,
    _slashed,
    _bare,
    _trimmed,
    _until("?"),
    _until("#"),
    _line,
    _tight,
    _unicode_escapes,
    _overlong,
    _compatible,
    _letters,
    _without_authority,
    _beside_alias,
    _without_session,
    _stripped_once,
    normalise_path,
)
_DROPPING: Final = re.compile(r"\A//|[;?#\0\r\n]| HTTP/")

# -- rules that nothing follows ------------------------------------------------------------------------------

_EXTENSION: Final = re.compile(r"\.([A-Za-z0-9]{2,6})(?=/)")
_SCRIPTS: Final = frozenset(
    ["action", "ashx", "asmx", "asp", "aspx", "axd", "cfc", "cfm", "cgi", "dll", "do", "exe", "fcgi", "jsp", "jspx",
     "lua", "phar", "php", "php3", "php4", "php5", "php7", "php8", "phtml", "pl", "py", "rb", "shtml", "svc"]
)  # fmt: skip
"""Extensions of scripts that servers run, passing them the rest of the path as PATH_INFO (RFC 3875 §4.1.5)."""


def _ends(path: str) -> Iterator[str]:
    if " " in path:
        yield path.replace(" ", "+")
    for end in _scripts(path):
        yield path[:end]


def _scripts(path: str) -> list[int]:
    """End positions of the script names that have something after them.

    :raises ValueError: if there are too many.
    """
    found = [match.end() for match in _EXTENSION.finditer(path) if match[1].lower() in _SCRIPTS]
    if len(found) > 8:
        raise ValueError("the path can be read in too many ways")
    return found


def _routes(path: str) -> Iterator[str]:
    """The path that a front controller serves: without the segment that names the script.

    :raises ValueError: if there are too many.
    """
    for end in _scripts(path):
        route = normalise_path(path[: path.rfind("/", 0, end)] + path[end:])
        yield route
        yield route.rstrip("/") or "/"


def _files(path: str) -> Iterator[str]:
    """The path without its trailing slash, and each prefix that ends before a slash and has a dot in its last segment.

    :raises ValueError: if there are too many.
    """
    bare = path.rstrip("/")
    if bare and bare != path:
        yield bare
    dot = path.find(".")
    for _ in range(32):
        if dot < 0:
            return
        slash = path.find("/", dot)
        if slash < 0:
            return
        yield path[:slash]
        dot = path.find(".", slash)
    raise ValueError("the path can be read in too many ways")


# -- what a policy covers ------------------------------------------------------------------------------------
#
# A policy covers a URL as written, so nothing is decoded here. What an origin would leave out is located in the raw
# text, in any spelling, and left out of the URL and the pattern alike.


class _Unit:
    """A byte or character of a fully decoded text, and its position in the raw text."""

    __slots__ = ("char", "end", "start")

    def __init__(self, char: str, start: int, end: int) -> None:
        self.char = char
        self.start = start
        self.end = end


_HEX: Final = frozenset("0123456789ABCDEFabcdef")


def _units(text: str) -> list[_Unit]:
    """The text, percent-decoded until nothing is left to decode, with each character as the ASCII that it may stand
    for.

    One pass: an escape is decoded as soon as its last digit has been read, and the result may be the digit that
    another escape is waiting for. Escapes cannot overlap, so the order makes no difference.
    """
    units: list[_Unit] = []
    for at, char in enumerate(text):
        units.append(_Unit(char, at, at + 1))
        while len(units) > 2 and units[-3].char == "%" and _HEX.issuperset((units[-2].char, units[-1].char)):
            _merge(units, 3, chr(int(units[-2].char + units[-1].char, 16)))
        if len(units) > 5 and units[-6].char == "%" and units[-5].char in ("u", "U"):
            digits = "".join([unit.char for unit in units[-4:]])
            if len(digits) == 4 and _HEX.issuperset(digits):
                _merge(units, 6, "".join(_ascii_of(chr(int(digits, 16)))))
    if any(unit.char > "\x7f" for unit in units):
        units = list(_characters(units))
    return units


def _merge(units: list[_Unit], count: int, char: str) -> None:
    start, end = units[-count].start, units[-1].end
    del units[-count:]
    units.append(_Unit(char, start, end))


def _ascii_of(char: str) -> str:
    made = char if char.isascii() else _ascii(char)
    return made if made.isascii() else "\x80"


def _characters(units: list[_Unit]) -> Iterator[_Unit]:
    """Non-ASCII bytes combined into characters, each replaced by ASCII where it may stand for that."""
    at = 0
    while at < len(units):
        unit = units[at]
        length = 1
        if len(unit.char) == 1 and "\xc0" <= unit.char <= "\xfc":
            lead = ord(unit.char)
            length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4 if lead < 0xF8 else 5 if lead < 0xFC else 6
        some = units[at : at + length]
        text = "".join([each.char for each in some])
        if length > 1 and len(some) == length and all(len(each.char) == 1 for each in some):
            short = _compatible(_overlong(text))
            if short.isascii():
                yield _Unit(short, unit.start, some[-1].end)
                at += length
                continue
        yield unit
        at += 1


Dropping = Callable[[str], str]


def _without_parameters(text: str, *, any_slash: bool) -> str:
    """The text without its parameters: each extends to the next literal slash or, with `any_slash`, to the next slash
    in any spelling."""
    kept: list[str] = []
    begun = -1
    last = 0
    for unit in _units(text):
        if begun < 0:
            if unit.char == ";":
                begun = unit.start
        elif unit.char in ("/", "\\") and (any_slash or text[unit.start : unit.end] == "/"):
            kept += (text[last:begun], "*" * ("*" in text[begun : unit.start]))
            last, begun = unit.start, -1
    if begun < 0:
        return "".join(kept) + text[last:]
    return "".join(kept) + text[last:begun] + "*" * ("*" in text[begun:])


def _without_rest(text: str, marks: str) -> str:
    for unit in _units(text):
        # A literal `?` begins the query of a pattern, or matches any one character.
        if unit.char and unit.char in marks and (unit.end - unit.start > 1 or unit.char != "?"):
            return text[: unit.start] + "*" * ("*" in text[unit.start :])
    return text


def _without_path_info(text: str) -> str:
    units = _units(text)
    decoded = "".join([unit.char[:1] or "\x80" for unit in units])
    scripts = _scripts(decoded)
    if not scripts:
        return text
    end = units[scripts[0]].start
    return text[:end] + "*" * ("*" in text[end:])


def _without_script(text: str) -> str:
    units = _units(text)
    decoded = "".join([unit.char[:1] or "\x80" for unit in units])
    scripts = _scripts(decoded)
    slash = decoded.rfind("/", 0, scripts[0]) if scripts else -1
    if slash < 0:
        return text
    start, end = units[slash].end, units[scripts[0]].end
    return text[:start] + "*" * ("*" in text[start:end]) + text[end:]


def _without_host(text: str) -> str:
    units = _units(text)
    at = 0
    while at < len(units) and units[at].char in ("/", "\\"):
        at += 1
    if at < 2:
        return text
    while at < len(units) and units[at].char not in ("/", "\\"):
        at += 1
    if at == len(units):
        return "*" if "*" in text else "/"
    rest = units[at].start
    return "*" * ("*" in text[:rest]) + text[rest:]


_DROPPINGS: Final[tuple[Dropping, ...]] = (
    _without_host,
    lambda text: _without_parameters(text, any_slash=False),
    lambda text: _without_parameters(text, any_slash=True),
    lambda text: _without_rest(text, "?"),
    lambda text: _without_rest(text, "#"),
    lambda text: _without_rest(text, "\0\r\n"),
    _without_path_info,
    _without_script,
)


def without_parts(path: str, patterns: tuple[str, ...]) -> set[tuple[str, tuple[str, ...]]]:
    """What remains of a raw path at servers that leave out part of it, each with what they would leave of the paths of
    patterns. A `*` in the part left out of a pattern stays.

    :raises ValueError: if there are too many.
    """
    found = {(path, patterns)}
    waiting = [(path, patterns)]
    while waiting:
        if len(found) > 64:
            raise ValueError("the path can be read in too many ways")
        text, others = waiting.pop()
        for number, drop in enumerate(_DROPPINGS):
            left = drop(text)
            if left == text:
                continue
            pair = (left, tuple([_of_pattern(number, other) for other in others]))
            if pair not in found:
                found.add(pair)
                waiting.append(pair)
    found.discard((path, patterns))
    return found


@lru_cache(maxsize=256)
def _of_pattern(number: int, pattern: str) -> str:
    return _DROPPINGS[number](pattern)
