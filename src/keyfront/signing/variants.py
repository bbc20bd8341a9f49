"""What a signer may have signed instead of what was requested: the mistakes that are made again and again.

Every SDK and every home-made signer has at some time signed a URL in another spelling than the one that
travels (cloudfront-semantics §1.4, §8). Each is a small rewriting of the request's own URL or of the
policy's text, so where a signature does not fit, the rewritings can be tried, and the one that fits names
the mistake.

Texts are latin-1, one character for one byte.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, unquote_to_bytes

from keyfront.signing.policy import canned_policy

Spelling = tuple[str, str]
"""A mistake in words ("" for none), and the text as it is with that mistake."""

_IMPLIED = {"http": "80", "https": "443"}


def urls(
    scheme: str, host: str, path: str, own: str | None, other_hosts: Iterable[str] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """URLs that may have been signed, each with the mistakes that lead to it: the request's own first, then
    all with one mistake, then all with two. `own` is the request's own query, None where there is no
    `?`."""
    queries = [("", "" if own is None else f"?{own}"), *_queries(own)]
    for mistakes, (a, b, c, d) in _combined(
        [("", scheme), *_schemes(scheme)],
        [("", host), *_hosts(scheme, host, other_hosts)],
        [("", path), *_paths(path)],
        queries,
    ):
        yield mistakes, f"{a}://{b}{c}{d}"


def canned(resource: str, expires: str) -> Iterator[Spelling]:
    """The texts of a canned policy that signers have been seen to sign, as latin-1."""
    right = canned_policy(resource, expires).decode("latin-1")
    yield "", right
    yield "the policy's text ended with a newline when it was signed", right + "\n"
    spaced = right.replace('{"Statement":[{"Resource":', '{"Statement": [{"Resource": ', 1)
    tail = f',"Condition":{{"DateLessThan":{{"AWS:EpochTime":{expires}'
    spaced = spaced.replace(tail, tail.replace('":', '": ').replace(",", ", "))
    yield "the policy's text held blanks when it was signed; a canned policy must have none", spaced
    try:
        unicode = resource.encode("latin-1").decode("utf-8")
    except UnicodeError:
        unicode = resource
    if not unicode.isascii():
        yield (
            "the signer wrote letters beyond ASCII as \\u escapes (botocore does); percent-encode the URL first",
            right.replace(f'"{resource}"', json.dumps(unicode)),
        )
    if "&" in resource:
        yield "the signer wrote & as \\u0026 (Go's json.Marshal does)", right.replace("&", "\\u0026")
    if '"' in resource or "\\" in resource:
        yield (
            "the signer put a quote or backslash into the policy without escaping it",
            right.replace('\\"', '"').replace("\\\\", "\\"),
        )
    number = f'"AWS:EpochTime":{expires}'
    yield "the signer wrote the time in quotes", right.replace(number, f'"AWS:EpochTime":"{expires}"')
    yield (
        "the policy was signed with the time in milliseconds, and sent with Expires in seconds",
        right.replace(number, f"{number}000"),
    )


def custom(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The texts that may have been signed where `data` was sent as the Policy."""
    yield "", data
    yield "the policy was signed without the white space at its end that was sent", data.rstrip()
    yield "the policy was signed with a newline at its end that was not sent", data.rstrip() + b"\n"
    yield (
        "white space was stripped from the policy before it was signed, but not before it was sent",
        re.sub(rb"[ \t\r\n]+", b"", data),
    )
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    for separators, what in (((",", ":"), "without"), ((", ", ": "), "with")):
        text = json.dumps(value, separators=separators).encode()
        yield f"the policy was signed {what} blanks and written anew before it was sent", text


def _combined(*dimensions: list[Spelling]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    plain = [dimension[0][1] for dimension in dimensions]
    yield (), tuple(plain)
    for count in (1, 2):
        for chosen in itertools.combinations(range(len(dimensions)), count):
            for spellings in itertools.product(*(dimensions[at][1:] for at in chosen)):
                texts = list(plain)
                for at, (_, text) in zip(chosen, spellings, strict=True):
                    texts[at] = text
                yield tuple(mistake for mistake, _ in spellings), tuple(texts)


def _distinct(spellings: Iterable[Spelling], right: str) -> list[Spelling]:
    by_text = {right: ""}
    for mistake, text in spellings:
        by_text.setdefault(text, mistake)
    return [(mistake, text) for text, mistake in by_text.items() if mistake]


def _schemes(scheme: str) -> list[Spelling]:
    other = "http" if scheme == "https" else "https"
    return [(f"it was signed for {other}:// and requested by {scheme}://", other)]


def _hosts(scheme: str, host: str, others: Iterable[str]) -> list[Spelling]:
    name, _, port = host.partition(":")
    spellings: list[Spelling] = []
    if port:
        spellings.append((f"it was signed without the port :{port}", name))
    for added in (_IMPLIED.get(scheme, "80"), "8080", "8443", "3000", "8000"):
        spellings.append((f"it was signed with the port :{added}", f"{name}:{added}"))
    swapped = name.removeprefix("www.") if name.startswith("www.") else f"www.{name}"
    for other in (*others, swapped):
        spellings.append((f"it was signed for the host {other} and requested from {host}", other))
    return _distinct(spellings, host)


def _paths(path: str) -> list[Spelling]:
    spellings = list(_spellings(path, "path"))
    if path == "/":
        spellings.append(("it was signed without the / after the host", ""))
    spellings.append(("it was signed without the / at the end of the path", path.rstrip("/")))
    spellings.append(("it was signed with a / at the end of the path", path + "/"))
    spellings.append(("it was signed with // before the path", "/" + path))
    spellings.append(("it was signed with single slashes where the request has //", re.sub("//+", "/", path)))
    spellings.append(("dot segments were taken out of the path before signing", _without_dots(path)))
    # A canned policy for a pattern: all folders above the file, and the endings people use.
    folder = path
    while "/" in folder:
        folder = folder.rpartition("/")[0]
        spellings.append((WILDCARD, f"{folder}/*"))
        spellings.append((WILDCARD, f"{folder}/**"))
    spellings.append((WILDCARD, f"{path}*"))
    spellings.append((WILDCARD, "*"))
    return _distinct(spellings, path)


WILDCARD = (
    "a canned policy was signed for a wildcard; * means nothing there. Sign a custom policy (with the Policy "
    "parameter in place of Expires)"
)


def _without_dots(path: str) -> str:
    out: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if len(out) > 1:
                out.pop()
        elif segment != ".":
            out.append(segment)
    return "/".join(out) or "/"


def _queries(own: str | None) -> list[Spelling]:
    if own is None:
        return _distinct([("it was signed with a ? at its end", "?")], "")
    spellings = [("the query was added after signing", "")]
    parameters = own.split("&")
    if parameters[-1] == "" and len(parameters) > 1:
        spellings.append(("it was signed without the & at the end of its query", own.rstrip("&")))
    spellings.append(("it was signed with a & at the end of its query", own + "&"))
    spellings.extend(_spellings(own, "query"))
    if "=" not in parameters[-1] or any("=" not in parameter for parameter in parameters):
        filled = "&".join(p if "=" in p or not p else p + "=" for p in parameters)
        spellings.append(("it was signed with = after a parameter that was requested without", filled))
    bare = "&".join(p[:-1] if p.endswith("=") and p.count("=") == 1 else p for p in parameters)
    spellings.append(("it was signed without the = that the request has after an empty parameter", bare))
    spellings.append(("it was signed without empty parameters (&&)", "&".join(filter(None, parameters))))
    if len(parameters) > 1:
        kept: Iterable[tuple[str, ...]]
        if len(parameters) <= 6:
            kept = itertools.chain.from_iterable(
                itertools.combinations(parameters, count) for count in range(len(parameters) - 1, 0, -1)
            )
        else:
            kept = (tuple(parameters[:count]) for count in range(len(parameters) - 1, 0, -1))
        for some in kept:
            added = "&".join(p for p in parameters if p not in some)
            spellings.append(
                (
                    f"this was added to the query after signing: {added or 'a repeated parameter'}",
                    "&".join(some),
                )
            )
        orders: Iterable[Iterable[str]] = (
            itertools.permutations(parameters)
            if len(parameters) <= 5
            else (sorted(parameters), sorted(parameters, reverse=True), reversed(parameters))
        )
        for order in orders:
            spellings.append(("the parameters of the query were signed in another order", "&".join(order)))
    return [(mistake, text and f"?{text}") for mistake, text in _distinct(spellings, own)]


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("latin-1")


def _quoted(text: str, safe: str) -> str:
    return quote(text.encode("latin-1"), safe=safe)


def _each_escape(text: str, change: Callable[[str], str]) -> str:
    return re.sub("%[0-9A-Fa-f]{2}", lambda match: change(match[0]), text)


def _spellings(text: str, part: str) -> Iterator[Spelling]:
    for signed, sent in (
        ("+", "%20"), ("%20", "+"), (" ", "%20"), (" ", "+"), ("%2B", "+"), ("+", "%2B"), ("'", "%27"),
        ("%27", "'"), ("/", "%2F"), ("/", "%2f"), ("@", "%40"), ("%40", "@"), ("~", "%7E"), ("%7E", "~"),
        (":", "%3A"), ("%3A", ":"), (",", "%2C"), ("%2C", ","), ("=", "%3D"),
    ):  # fmt: skip
        shown = "a blank" if signed == " " else signed
        yield f"the {part} was signed with {shown} where the request has {sent}", text.replace(sent, signed)
    yield f"the {part} was signed with %xx in lower case", _each_escape(text, str.lower)
    yield f"the {part} was signed with %xx in upper case", _each_escape(text, str.upper)
    yield f"the {part} was percent-encoded once more when it was signed", text.replace("%", "%25")
    yield f"the {part} was percent-encoded once more after it was signed", text.replace("%25", "%")
    yield f"the {part} was signed decoded and requested encoded", _decoded(text)
    separators = "/" if part == "path" else "=&"
    for safe in ("!$&'()*+,;=:@/?~%", "!'()*~", "~", "!*'();:@&=+$,/?~"):
        encoded = _quoted(text, safe + separators)
        yield f"the {part} was signed encoded and requested in another spelling", encoded
        again = _quoted(_decoded(text), safe + separators)
        yield f"the {part} was signed with other characters percent-encoded than the request has", again
