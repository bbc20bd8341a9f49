# ruff: noqa: E501
"""A generated corpus of URLs signed in one encoding and sent in another: every encoder against every other, over
names with every character that encoders disagree on.

`encode` is written independently from the encoders' documentation and shares no code with
keyfront.signing.diagnosis.encoders, so that it detects a wrong table there.
"""

from __future__ import annotations

import itertools
import random
import string
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote, quote_plus

_ALNUM = string.ascii_letters + string.digits


def _percent(safe: str, *, space: str = "%20", lower: bool = False) -> Callable[[str], str]:
    def encode(text: str) -> str:
        out = []
        for char in text:
            if char == " ":
                out.append(space)
            elif char in _ALNUM or char in safe:
                out.append(char)
            else:
                for byte in char.encode():
                    out.append(f"%{byte:02x}" if lower else f"%{byte:02X}")
        return "".join(out)

    return encode


def _raw_beyond(safe: str) -> Callable[[str], str]:
    plain = _percent(safe)
    return lambda text: "".join(char if ord(char) > 127 else plain(char) for char in text)


def _go(mode: str) -> Callable[[str], str]:
    """net/url's shouldEscape, branch by branch."""

    def encode(text: str) -> str:
        out = []
        for byte in text.encode():
            char = chr(byte)
            if mode == "query" and char == " ":
                out.append("+")
                continue
            if char in _ALNUM or char in "-_.~":
                escape = False
            elif char in "$&+,/:;=?@":
                escape = {"query": True, "segment": char in "/;,?", "path": char == "?"}[mode]
            else:
                escape = True
            out.append(f"%{byte:02X}" if escape else char)
        return "".join(out)

    return encode


_PATH_SET = ' "#<>?`{}'  # WHATWG URL, path percent-encode set (besides C0 and non-ASCII), as in Node 20
_QUERY_SET = " \"#<>'"  # special-query percent-encode set


def _whatwg(set_: str) -> Callable[[str], str]:
    return lambda text: "".join(
        quote(char, safe="") if ord(char) > 126 or char in set_ else char for char in text
    )


WAYS: dict[str, Callable[[str], str]] = {
    "JavaScript encodeURI": _percent(";,/?:@&=+$-_.!~*'()#"),
    "JavaScript encodeURIComponent": _percent("-_.!~*'()"),
    "browsers (URL class) path": _whatwg(_PATH_SET),
    "browsers (URL class) query": _whatwg(_QUERY_SET),
    "JavaScript URLSearchParams": _percent("*-._", space="+"),
    "PHP rawurlencode": _percent("-_.~"),
    "PHP urlencode": _percent("-_.", space="+"),
    "PHP http_build_query": _percent("-_.", space="+"),
    "Ruby ERB::Util.url_encode": _percent("-_.~"),
    "Ruby CGI.escape": _percent("-_.~", space="+"),
    "Rack escape": _percent("*-._", space="+"),
    "Rack build_query": _percent("*-._", space="+"),
    "Rack escape_path": _percent("-_.!~*'();/?:@&=+$,[]"),
    "Go url.PathEscape": _go("segment"),
    "Go url.QueryEscape": _go("query"),
    "Go URL.String": _go("path"),
    "Java URLEncoder": _percent("*-._", space="+"),
    "Java URI.toASCIIString path": _percent("-_.!~*'():@&=+$,;/"),
    "Java URI.toString path": _raw_beyond("-_.!~*'():@&=+$,;/"),
    "Java URI.toASCIIString query": _percent("-_.!~*'();/?:@&=+$,[]"),
    ".NET Uri.EscapeUriString": _percent("-_.~!*'();/?:@&=+$,#[]"),
    ".NET Uri.EscapeDataString": _percent("-_.~"),
    ".NET HttpUtility.UrlEncode": _percent("-_.!*()", space="+", lower=True),
    ".NET WebUtility.UrlEncode": _percent("-_.!*()", space="+"),
    "Python quote": quote,
    "Python quote(safe='')": lambda text: quote(text, safe=""),
    "Python quote_plus": quote_plus,
    "Python urlencode": quote_plus,
    "Python requests (requote_uri)": lambda text: quote(text, safe="!#$%&'()*+,/:;=?@[]~"),
    "nothing encoded": lambda text: text,
}
# Other spellings of an encoding: the letters' Unicode form, lowercase hex, applied twice.
_ONLY_PATH = ("path", "Go url.PathEscape", "Go URL.String", "Rack escape_path")
_ONLY_QUERY = ("query", "URLSearchParams", "urlencode", "http_build_query", "build_query")

NAMES = (
    "a b", "a  b c", "Müller", "Mu\u0308ller", "grüße aus köln", "été 2020", "日本語", "photo 😀", "😀👍", "a+b", "a+b c",
    "R&B", "rock & roll", "it's", "'quoted'", "a(1)", "a (1)", "wow!", "a*b", "~home", "a,b", "a;b", "k=v", "me@home",
    "12:30", "$5", "[1]", "a[b] c", "{id}", "a|b", "a^b", "a`b", "100%", "50% off", "a#b", "what?", "a!b'c(d)e*f",
    "a&b=c+d e", "Ünï (1)+[x] & y's, z; ~w @2:30 $5 = 100% {q}|r^s`t!*", "ß+é ñ'ü", "résumé (final) v2.0+draft",
    "C++ & C#", "naïve café, n°5", "smörgåsbord [2024]", "a b&c d=e f", "x~y z", "semi;colon, comma", "Ōsaka 大阪 (1)",
)  # fmt: skip


class Case(NamedTuple):
    """A URL's target as signed and as sent, both as text; `ways` names the encoding of each."""

    name: str
    signed: str
    sent: str
    path_way: str
    query_way: str
    sent_way: str
    forms: str


def _ways(part: str) -> list[str]:
    skip = _ONLY_QUERY if part == "path" else _ONLY_PATH
    return [
        way
        for way in WAYS
        if not any(way.endswith(one) for one in skip if one in ("path", "query")) and (way not in skip)
    ]


def _applied(way: str, name: str, form: str) -> str:
    if form == "NFC":
        name = unicodedata.normalize("NFC", name)
    if form == "NFD":
        name = unicodedata.normalize("NFD", name)
    text = WAYS[way](name)
    if form == "twice":
        text = WAYS[way](text)
    if form == "lower":
        text = _lower(text)
    return text


def _lower(text: str) -> str:
    head, *rest = text.split("%")
    return head + "".join("%" + piece[:2].lower() + piece[2:] for piece in rest)


def cases(seed: int, count: int) -> Iterator[Case]:
    """`count` cases, the same for the same seed."""
    chance = random.Random(seed)
    every = list(
        itertools.product(NAMES, ("path", "query", "both"), ("", "", "", "NFC", "NFD", "lower", "twice"))
    )
    made = 0
    while made < count:
        name, part, form = chance.choice(every)
        path_ways, query_ways = _ways("path"), _ways("query")
        path_way = query_way = chance.choice(path_ways if part == "path" else query_ways)
        sent_path_way = sent_query_way = chance.choice(path_ways if part == "path" else query_ways)
        if part == "both":
            path_way, sent_path_way = chance.choice(path_ways), chance.choice(path_ways)
            if path_way in query_ways and chance.random() < 0.5:
                query_way = path_way
            if sent_path_way in query_ways and chance.random() < 0.5:
                sent_query_way = sent_path_way
        signed_path = "/files/" + (_applied(path_way, name, form) if part != "query" else "a.jpg")
        sent_path = "/files/" + (WAYS[sent_path_way](name) if part != "query" else "a.jpg")
        signed_query = sent_query = ""
        if part != "path":
            signed_query = "?q=" + _applied(query_way, name, form) + "&n=1"
            sent_query = "?q=" + WAYS[sent_query_way](name) + "&n=1"
        signed, sent = signed_path + signed_query, sent_path + sent_query
        if signed == sent or "#" in sent or any(char <= " " or char == "\x7f" for char in sent):
            continue
        made += 1
        yield Case(name, signed, sent, path_way if part != "query" else "", query_way if part != "path" else "",
                   f"{sent_path_way} / {sent_query_way}", form)  # fmt: skip


PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
TEXTS = [*PRINTABLE.replace(".", ""), *NAMES, "é", "e\u0301", "漢字", "😀", "a/b c?d=e&f"]
