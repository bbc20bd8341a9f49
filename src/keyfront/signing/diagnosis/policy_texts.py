"""The policy texts that signers have been seen to sign in place of the one that CloudFront rebuilds or receives.

A canned policy has exactly one text for a URL and a time (cloudfront-semantics §1.2), and a signature over any other
text never verifies. Each function here writes one of those other texts. Texts are latin-1, one character for one byte.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from keyfront.signing.diagnosis.mistakes import Mistake
from keyfront.signing.keys import HashName, cf_b64encode, digest
from keyfront.signing.policy import canned_policy

_Write = Callable[[str, str], bytes]


class Writing(NamedTuple):
    """One way to write a canned policy for a URL and a time. `mistake` is None for the correct one."""

    cost: int
    mistake: Mistake | None
    write: _Write


def right(url: str, expires: str) -> bytes:
    return canned_policy(url, expires)


def _utf8(url: str) -> str:
    try:
        return url.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return url


def _document(url: str, expires: str, *, condition_first: bool = False) -> dict[str, Any]:
    condition = {"DateLessThan": {"AWS:EpochTime": int(expires)}}
    statement = {"Resource": _utf8(url), "Condition": condition}
    if condition_first:
        statement = {"Condition": condition, "Resource": _utf8(url)}
    return {"Statement": [statement]}


def _dumped(*, condition_first: bool = False, tail: bytes = b"", **options: Any) -> _Write:
    def write(url: str, expires: str) -> bytes:
        document = _document(url, expires, condition_first=condition_first)
        return json.dumps(document, ensure_ascii=False, **options).encode("utf-8", "surrogateescape") + tail

    return write


def _changed(change: Callable[[bytes], bytes]) -> _Write:
    return lambda url, expires: change(canned_policy(url, expires))


def _replaced(old: str, new: str) -> _Write:
    """Return the correct text with a part replaced; `URL` and `TIME` stand for the URL and the time."""

    def write(url: str, expires: str) -> bytes:
        text = canned_policy("URL", "TIME").decode("latin-1").replace(old, new)
        return text.replace("TIME", expires).replace("URL", url).encode("latin-1")

    return write


def _in_url(change: Callable[[str], str]) -> _Write:
    """Return the correct text with its URL written in another JSON form."""

    def write(url: str, expires: str) -> bytes:
        text = canned_policy("URL", expires).decode("latin-1")
        return text.replace("URL", change(_utf8(url)), 1).encode("utf-8", "surrogateescape")

    return write


def _ascii(text: str) -> str:
    return json.dumps(text)[1:-1]


def _escaped(characters: str, form: str = "\\u{:04x}") -> Callable[[str], str]:
    """Return a function that JSON-escapes more characters than necessary."""

    def change(text: str) -> str:
        text = json.dumps(text, ensure_ascii=False)[1:-1]
        return "".join(form.format(ord(char)) if char in characters else char for char in text)

    return change


def _dotnet(text: str) -> str:
    """Escape as System.Text.Json does: non-ASCII characters and ASCII that is special in HTML, as \\uXXXX in upper
    case."""
    units = text.encode("utf-16-be", "surrogatepass")
    codes = [high << 8 | low for high, low in zip(units[::2], units[1::2], strict=True)]
    return "".join(
        f"\\u{code:04X}"
        if code > 0x7E or chr(code) in "\"&'+<>`"
        else ("\\\\" if code == 0x5C else chr(code))
        for code in codes
    )


_BLANKS = "the policy's text held blanks or line ends when it was signed; a canned policy must have none"
_ORDER = "the policy's members were signed in another order; in a canned policy Resource comes first"
_ESCAPES = "percent-encode the URL first"
_NEWLINE = "the policy's text ended with a newline when it was signed"
_EXTRA = "the signed policy said more than a canned one may; send it as a custom policy, in Policy"
_AGAIN = "a digest of the policy was signed again: the signing function hashes for itself; give it the policy's text"
_BASE64 = "the base64 of the policy was signed; sign the JSON text itself"


def _digest(name: HashName, data: bytes) -> bytes:
    return digest(data, name)


def _hashings() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    """Yield digests of a text, in the forms in which they are signed again."""
    names: tuple[HashName, ...] = ("SHA1", "SHA256")
    for name in names:
        hashed = partial(_digest, name)
        yield name, hashed
        yield f"{name} in hex", lambda data, hashed=hashed: hashed(data).hex().encode()  # type: ignore[misc]
        yield f"{name} in base64", lambda data, hashed=hashed: base64.b64encode(hashed(data))  # type: ignore[misc]


_HASHINGS = tuple(_hashings())
_BASE64S: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: cf_b64encode(data).encode(),
    base64.b64encode,
    base64.urlsafe_b64encode,
)

CANNED: tuple[Writing, ...] = (
    Writing(1, Mistake("policy_newline", _NEWLINE), _changed(lambda data: data + b"\n")),
    Writing(1, Mistake("policy_blanks", _BLANKS), _dumped()),
    Writing(
        1,
        Mistake(
            "policy_escapes",
            "the signer wrote / as \\/ in the policy (PHP's json_encode does; give it JSON_UNESCAPED_SLASHES)",
        ),
        _in_url(lambda text: _ascii(text).replace("/", "\\/")),
    ),
    Writing(
        1,
        Mistake(
            "policy_escapes",
            f"the signer wrote letters beyond ASCII as \\u escapes (botocore does); {_ESCAPES}",
        ),
        _in_url(_ascii),
    ),
    Writing(1, Mistake("policy_time", "the signer wrote the time in quotes"), _replaced("TIME", '"TIME"')),
    Writing(
        1,
        Mistake(
            "milliseconds",
            "the policy was signed with the time in milliseconds, and sent with Expires in seconds",
        ),
        _replaced("TIME", "TIME000"),
    ),
    Writing(
        1,
        Mistake("policy_time", "the signer wrote the time with a fraction; it must be whole seconds"),
        _replaced("TIME", "TIME.0"),
    ),
    Writing(1, Mistake("policy_order", _ORDER), _dumped(separators=(",", ":"), condition_first=True)),
    *(
        Writing(1, Mistake("digest_signed", f"{_AGAIN} (it was {name})"), _changed(hashed))
        for name, hashed in _HASHINGS
    ),
    *(Writing(1, Mistake("base64_signed", _BASE64), _changed(encode)) for encode in _BASE64S),
    Writing(
        1,
        Mistake(
            "url_signed",
            "the bare URL was signed; what is signed is the policy, a JSON text with URL and time",
        ),
        lambda url, _: url.encode("latin-1"),
    ),
    Writing(
        2,
        Mistake("policy_escapes", "the signer wrote & as \\u0026 (Go's json.Marshal does)"),
        _in_url(_escaped("&<>")),
    ),
    Writing(
        2,
        Mistake("policy_escapes", "the signer wrote & and = as \\u escapes (Gson does; disableHtmlEscaping)"),
        _in_url(_escaped("&<>='")),
    ),
    Writing(
        2,
        Mistake(
            "policy_escapes",
            "the signer wrote & + ' or letters beyond ASCII as \\u escapes (.NET's System.Text.Json does; use "
            "JavaScriptEncoder.UnsafeRelaxedJsonEscaping)",
        ),
        _in_url(_dotnet),
    ),
    Writing(
        2,
        Mistake("policy_escapes", "the signer put a quote or backslash into the policy without escaping it"),
        _replaced("", ""),
    ),
    Writing(
        2,
        Mistake("policy_escapes", "the signer wrote / as \\/ in the policy, and letters beyond ASCII bare"),
        _in_url(lambda text: json.dumps(text, ensure_ascii=False)[1:-1].replace("/", "\\/")),
    ),
    Writing(2, Mistake("policy_newline", _NEWLINE), _changed(lambda data: data + b"\r\n")),
    Writing(
        2,
        Mistake("policy_blanks", _BLANKS),
        _replaced('{"Statement":[{"Resource":', '{"Statement": [{"Resource":'),
    ),
    Writing(2, Mistake("policy_blanks", _BLANKS), _dumped(separators=(",", " : "))),
    Writing(2, Mistake("policy_blanks", _BLANKS), _dumped(separators=(", ", " : "))),
    Writing(2, Mistake("policy_blanks", _BLANKS), _dumped(indent=2)),
    Writing(2, Mistake("policy_blanks", _BLANKS), _dumped(indent=4)),
    Writing(2, Mistake("policy_blanks", _BLANKS), _dumped(indent="\t")),
    Writing(3, Mistake("policy_blanks", _BLANKS), _dumped(indent=2, tail=b"\n")),
    Writing(3, Mistake("policy_blanks", _BLANKS), _dumped(indent=4, tail=b"\n")),
    Writing(3, Mistake("policy_blanks", _BLANKS), _dumped(tail=b"\n")),
    Writing(2, Mistake("policy_order", _ORDER), _dumped(condition_first=True)),
    Writing(3, Mistake("policy_order", _ORDER), _dumped(condition_first=True, indent=2)),
    Writing(
        2,
        Mistake("policy_members", _EXTRA),
        _replaced('{"Statement":', '{"Version":"2012-10-17","Statement":'),
    ),
    Writing(
        2,
        Mistake("policy_members", _EXTRA),
        _replaced("TIME}}", 'TIME},"IpAddress":{"AWS:SourceIp":"0.0.0.0/0"}}'),
    ),
    Writing(
        2,
        Mistake(
            "policy_members", "Statement was signed as an object; it is an array with one object in it: [{…}]"
        ),
        _changed(lambda data: data.replace(b"[", b"", 1)[::-1].replace(b"]", b"", 1)[::-1]),
    ),
    Writing(
        2,
        Mistake("policy_newline", "the signed policy began with a byte order mark: save it as plain UTF-8"),
        _changed(lambda data: b"\xef\xbb\xbf" + data),
    ),
)
"""The incorrect ways, in order of cost."""


def custom(data: bytes) -> Iterator[tuple[tuple[Mistake, ...], bytes]]:
    """Yield the texts that may have been signed if `data` was sent as the Policy, the correct one first."""
    yield (), data
    for code, words, text in _custom(data):
        if text != data:
            yield (Mistake(code, words),), text


def _custom(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    bare = data.rstrip()
    yield "policy_newline", "the policy was signed without the white space at its end that was sent", bare
    for end in (b"\n", b"\r\n"):
        yield (
            "policy_newline",
            "the policy was signed with a newline at its end that was not sent",
            bare + end,
        )
    yield (
        "policy_blanks",
        "white space was stripped from the policy before it was signed, but not before it was sent",
        re.sub(rb"[ \t\r\n]+", b"", data),
    )
    yield (
        "policy_newline",
        "the policy was sent with other line ends than it was signed with",
        data.replace(b"\r\n", b"\n"),
    )
    yield (
        "policy_newline",
        "the policy was sent with other line ends than it was signed with",
        data.replace(b"\n", b"\r\n"),
    )
    for name, hashed in _HASHINGS:
        yield "digest_signed", f"{_AGAIN} (it was {name})", hashed(data)
    for encode in _BASE64S:
        yield "base64_signed", _BASE64, encode(data)
    yield (
        "policy_escapes",
        "the policy was signed with \\/ for /, and sent with /",
        data.replace(b"/", b"\\/"),
    )
    yield (
        "policy_escapes",
        "the policy was signed with / for \\/, and sent with \\/",
        data.replace(b"\\/", b"/"),
    )
    try:
        value = json.loads(data)
        written = list(_written(value))
    except (ValueError, RecursionError):
        return
    for code, what, text in written:
        for changed in (text, text.replace("/", "\\/")):
            words = f"the policy was signed {what} and written anew before it was sent"
            yield code, words, changed.encode("utf-8", "surrogatepass")


def _written(value: Any) -> Iterator[tuple[str, str, str]]:
    for reordered in (value, _reordered(value)):
        code, order = ("policy_blanks", "") if reordered is value else ("policy_order", ", in another order,")
        for ascii_ in (True, False):
            for separators, what in (((",", ":"), "without"), ((", ", ": "), "with")):
                yield (
                    code,
                    f"{what} blanks{order}",
                    json.dumps(reordered, separators=separators, ensure_ascii=ascii_),
                )
            for indent in (2, 4, "\t"):
                yield code, f"indented{order}", json.dumps(reordered, indent=indent, ensure_ascii=ascii_)


def _reordered(value: Any) -> Any:
    """Return the value with the members of each object in reverse order."""
    if isinstance(value, dict):
        return {key: _reordered(value[key]) for key in reversed(list(value))}
    return [_reordered(one) for one in value] if isinstance(value, list) else value
