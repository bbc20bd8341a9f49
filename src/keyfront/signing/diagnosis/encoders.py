"""The percent-encoders in common use, each as the set of characters that it leaves unencoded.

A signature covers a URL byte by byte (cloudfront-semantics §1.4), and every language's standard library leaves a
different set of characters unencoded. `explain` decodes the URL that was sent, encodes it again as each of these
encoders would, and looks for the spelling that was signed.

An encoder here applies to one piece of text: a path segment, the name or value of a query parameter, or a whole path or
query if the real encoder is used that way. Text is the bytes of UTF-8, or of latin-1 if a signer used that.

`ENCODERS` is in order of likelihood. tests/signing/test_encoders.py compares these tables with the real functions of
Node, Python, and Java; the tables for PHP, Ruby, Go, .NET, and others follow their documentation and source.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec

_ALNUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
UNRESERVED = _ALNUM + "-._~"
"""RFC 3986 §2.3: characters that never need encoding."""
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

Part = Literal["path", "query"]


class Encoder(msgspec.Struct, frozen=True, dict=True):
    """One way to percent-encode.

    `names` are the functions that encode this way, under the names their users know. `safe` holds the ASCII characters
    that are left unencoded. `space` is the encoding of a space. `lower` means that hex digits are lowercase. `beyond`
    is the treatment of non-ASCII characters: percent-encoded, left unencoded, or written as JavaScript's `escape` does.
    `parts` says where the encoder is used.
    """

    names: tuple[str, ...]
    safe: str
    space: str = "%20"
    lower: bool = False
    beyond: Literal["percent", "raw", "escape"] = "percent"
    parts: tuple[Part, ...] = ("path", "query")

    @cached_property
    def _table(self) -> list[str]:
        hex_ = "%{:02x}" if self.lower else "%{:02X}"
        table = [hex_.format(byte) for byte in range(256)]
        for char in self.safe:
            table[ord(char)] = char
        table[0x20] = self.space
        if self.beyond == "raw":
            table[0x80:] = map(chr, range(0x80, 0x100))
        return table

    @cached_property
    def _safe(self) -> frozenset[int]:
        return frozenset(map(ord, self.safe))

    def writes(self, special: frozenset[int]) -> tuple[object, ...]:
        """Return how this encoder writes the bytes `special`. Two encoders with equal results write texts of these
        bytes alike."""
        kept = special & self._safe
        return (
            kept,
            self.space if 0x20 in special else "",
            self.lower and len(kept) + (0x20 in special) < len(special),
            self.beyond if special and max(special) > 0x7F else "",
        )

    def leaves_alone(self, char: str) -> bool:
        """Whether an ASCII character is left unencoded."""
        return ord(char) in self._safe

    def encode(self, data: bytes) -> str:
        """Return `data` as this encoder writes it, as latin-1 text."""
        if self.beyond == "escape":
            return _js_escape(data, self._table)
        return "".join(map(self._table.__getitem__, data))


def _js_escape(data: bytes, table: list[str]) -> str:
    """Encode as ECMAScript Annex B.2.1 specifies: code units up to U+00FF as %XX, others as %uXXXX."""
    try:
        units = data.decode("utf-8").encode("utf-16-be")
    except UnicodeDecodeError:
        return "".join(map(table.__getitem__, data))
    return "".join(
        table[low] if not high else f"%u{high:02X}{low:02X}"
        for high, low in zip(units[::2], units[1::2], strict=True)
    )


NOTHING = "nothing encoded"
"""The name for text that no encoder has changed."""

_FORM = "*-._"  # application/x-www-form-urlencoded leaves these unencoded, besides letters and digits
_RFC2396 = UNRESERVED + "!*'()"
_PCHAR = UNRESERVED + "!$&'()*+,;=:@"


def _without(characters: str) -> str:
    return "".join(char for char in _PRINTABLE if char not in characters)


_PATH: tuple[Part, ...] = ("path",)
_QUERY: tuple[Part, ...] = ("query",)

ENCODERS: tuple[Encoder, ...] = (
    Encoder(
        (
            "PHP rawurlencode",
            "Python quote(safe='')",
            "Ruby ERB::Util.url_encode",
            ".NET Uri.EscapeDataString",
            "PHP http_build_query with PHP_QUERY_RFC3986",
            "npm qs",
            "curl --data-urlencode",
            "the AWS SDKs",
        ),
        UNRESERVED,
    ),
    Encoder(
        (
            "JavaScript encodeURIComponent",
            "Node querystring.stringify",
            "Android Uri.encode",
            "Dart Uri.encodeComponent",
            ".NET Framework Uri.EscapeDataString before 4.5",
        ),
        _RFC2396,
    ),
    Encoder(("JavaScript encodeURI",), _RFC2396 + ";/?:@&=+$,#"),
    Encoder(("browsers (URL class)",), _without('"#<>?`{}^'), parts=_PATH),
    Encoder(("browsers (URL class) before 2024",), _without('"#<>?`{}'), parts=_PATH),
    Encoder(("browsers (URL class)",), _without("\"#<>'"), parts=_QUERY),
    Encoder(("Python quote", "Python quote(safe='/')"), UNRESERVED + "/"),
    Encoder(
        (
            "Python quote_plus",
            "Python urlencode",
            "Ruby CGI.escape",
            "Go url.QueryEscape",
            "Go url.Values.Encode",
            "Dart Uri.encodeQueryComponent",
        ),
        UNRESERVED,
        space="+",
    ),
    Encoder(("PHP urlencode", "PHP http_build_query", "Python 2 urlencode"), _ALNUM + "-._", space="+"),
    Encoder(
        (
            "JavaScript URLSearchParams",
            "Java URLEncoder",
            "Ruby URI.encode_www_form_component",
            "Rack escape",
            "Rack build_query",
        ),
        _ALNUM + _FORM,
        space="+",
    ),
    Encoder(("only blanks and letters beyond ASCII encoded",), _PRINTABLE),
    Encoder(("only blanks encoded",), _PRINTABLE, beyond="raw"),
    Encoder((NOTHING,), _PRINTABLE, space=" ", beyond="raw"),
    Encoder(("Go url.PathEscape",), UNRESERVED + "$&+=:@", parts=_PATH),
    Encoder(("Go URL.String",), UNRESERVED + "$&+,/:;=@", parts=_PATH),
    Encoder(("Java URI.toASCIIString",), _RFC2396 + ":@&=+$,;/", parts=_PATH),
    Encoder(("Java URI.toString",), _RFC2396 + ":@&=+$,;/", beyond="raw", parts=_PATH),
    Encoder(("Java URI.toASCIIString",), _RFC2396 + ";/?:@&=+$,[]", parts=_QUERY),
    Encoder(("Java URI.toString",), _RFC2396 + ";/?:@&=+$,[]", beyond="raw", parts=_QUERY),
    Encoder((".NET Uri.EscapeUriString",), _RFC2396 + ";/?:@&=+$,#[]"),
    Encoder((".NET HttpUtility.UrlEncode",), _ALNUM + "-_.!*()", space="+", lower=True),
    Encoder((".NET WebUtility.UrlEncode",), _ALNUM + "-_.!*()", space="+"),
    Encoder(("Python requests (requote_uri)",), _RFC2396 + "#$%&+,/:;=?@[]"),
    Encoder(("Ruby URI.escape", "Rack escape_path"), _RFC2396 + ";/?:@&=+$,[]"),
    Encoder(
        (
            "Spring UriUtils.encodePathSegment",
            "Guava urlPathSegmentEscaper",
        ),
        _PCHAR,
    ),
    Encoder(("Python urllib3",), _PCHAR + "/%", parts=_PATH),
    Encoder(("Python urllib3",), _PCHAR + "/?%", parts=_QUERY),
    Encoder(("Spring UriUtils.encodePath",), _PCHAR + "/", parts=_PATH),
    Encoder(("Swift urlQueryAllowed",), _PCHAR + "/?", parts=_QUERY),
    Encoder(("OkHttp addPathSegment",), _without('"<>^`{}|/\\?#%'), parts=_PATH),
    Encoder(("Swift urlPathAllowed",), _PCHAR.replace(";", "") + "/", parts=_PATH),
    Encoder(("npm qs with RFC1738",), UNRESERVED + "()", space="+", parts=_QUERY),
    Encoder((".NET HttpUtility.UrlPathEncode",), _PRINTABLE, lower=True),
    Encoder(("Python 2 quote",), _ALNUM + "_.-/"),
    Encoder(
        ("Python 2 quote(safe='')", "Ruby ERB::Util.url_encode before 2.5", "PHP rawurlencode before 5.3"),
        _ALNUM + "_.-",
    ),
    Encoder(("JavaScript escape",), _ALNUM + "@*_+-./", beyond="escape"),
)
