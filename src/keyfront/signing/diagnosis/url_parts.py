"""Mistakes in one part of a URL: scheme and host, path, or query. Everything but its encoding (`spellings.py`)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from keyfront.signing.diagnosis.mistakes import Alternative, both, distinct, none, one_mistake
from keyfront.signing.diagnosis.spellings import Spellings, respelled, substituted
from keyfront.signing.resource import is_bucket_host

_IMPLIED = {"http": "80", "https": "443"}
_USUAL = ("80", "443", "8080", "8443")


def bases_of(scheme: str, host: str, others: Iterable[str]) -> list[Alternative]:
    name, _, port = host.partition(":") if not host.startswith("[") else (host, "", "")
    hosts = [Alternative(0, host, none)]
    if port:
        hosts.append(one_mistake(1, name, "port", f"it was signed without the port :{port}"))
    for added in (_IMPLIED.get(scheme, "80"), "8080", "8443", "3000", "8000", "80", "443", "5000", "9000"):
        hosts.append(
            one_mistake(
                2 if added in _USUAL else 3,
                f"{name}:{added}",
                "port",
                f"it was signed with the port :{added}",
            )
        )
    for other in others:
        code = "bucket_host" if is_bucket_host(other) else "host"
        hosts.append(one_mistake(1, other, code, _other_host(other, host)))
    swapped = name.removeprefix("www.") if name.startswith("www.") else f"www.{name}"
    hosts.append(one_mistake(1, swapped, "host", _other_host(swapped, host)))
    if "xn--" in name:
        try:
            unicode = name.encode("ascii").decode("idna").encode("utf-8").decode("latin-1")
            words = "it was signed with the host's name in Unicode; it travels in its xn-- form"
            hosts.append(one_mistake(2, unicode, "host", words))
        except UnicodeError:
            pass
    for bucket in dict.fromkeys((name, name.partition(".")[0])):
        for form in (f"{bucket}.s3.amazonaws.com", f"s3.amazonaws.com/{bucket}"):
            hosts.append(one_mistake(3, form, "bucket_host", _other_host(form, host)))
    other_scheme = "http" if scheme == "https" else "https"
    words = f"it was signed for {other_scheme}:// and requested by {scheme}://"
    schemes = [Alternative(0, scheme, none), one_mistake(1, other_scheme, "scheme", words)]
    bases = [
        Alternative(a.cost + b.cost, f"{a.text}://{b.text}", both(a.mistakes, b.mistakes))
        for a in schemes
        for b in hosts
    ]
    bases.append(
        one_mistake(
            2, "", "bare_path", f"it was signed for a bare path; sign the whole URL, from {scheme}://"
        )
    )
    bases.append(one_mistake(2, host, "bare_path", "it was signed for a URL without http:// or https://"))
    bases.append(one_mistake(2, f"//{host}", "bare_path", "it was signed for a URL without http: or https:"))
    return distinct(bases, f"{scheme}://{host}")


def _other_host(signed: str, host: str) -> str:
    words = f"it was signed for the host {signed} and requested from {host}"
    if is_bucket_host(signed.partition("/")[0]):
        words += "; sign the URL of the distribution, not of the bucket behind it"
    return words


WILDCARD = (
    "a canned policy was signed for a wildcard; * means nothing there. Sign a custom policy (with the Policy "
    "parameter in place of Expires)"
)
# Patterns that match everything.
PATTERNS = ("*", "https://*", "http://*", "http*://*", "*://*", "https://*/*", "http*://*/*", "*://*/*")


def paths_of(path: str, spellings: Spellings) -> Iterator[Alternative]:
    yield from respelled(spellings)
    yield from substituted(path, "path")
    if path == "/":
        yield one_mistake(1, "", "slash", "it was signed without the / after the host")
    if path.endswith("/"):
        yield one_mistake(1, path.rstrip("/"), "slash", "it was signed without the / at the end of the path")
        for name in ("index.html", "index.htm", "index.php"):
            words = f"it was signed for {name}, and requested without it"
            yield one_mistake(2, path + name, "index_document", words)
    else:
        yield one_mistake(1, path + "/", "slash", "it was signed with a / at the end of the path")
    folder, _, file = path.rpartition("/")
    if file.startswith("index."):
        words = f"it was signed without {file[:60]}, and requested with it"
        yield one_mistake(2, folder + "/", "index_document", words)
    yield one_mistake(2, "/" + path, "slash", "it was signed with // before the path")
    yield one_mistake(
        2, re.sub("//+", "/", path), "slash", "it was signed with single slashes where the request has //"
    )
    yield one_mistake(2, path[1:], "slash", "it was signed without the / before the path")
    yield one_mistake(
        2, _without_dots(path), "dot_segments", "dot segments were taken out of the path before signing"
    )
    if "/" in path[1:]:
        words = (
            "the / of the path were percent-encoded when it was signed: encode each segment, not the whole"
        )
        for escape in ("%2F", "%2f"):
            yield one_mistake(2, "/" + path[1:].replace("/", escape), "separators_encoded", words)
            yield one_mistake(3, path.replace("/", escape), "separators_encoded", words)
    # A canned policy for a pattern: all folders above the file, and common file extensions.
    folder = path
    for _ in range(16):
        if "/" not in folder:
            break
        folder = folder.rpartition("/")[0]
        yield one_mistake(1, f"{folder}/*", "canned_wildcard", WILDCARD)
        yield one_mistake(3, f"{folder}/**", "canned_wildcard", WILDCARD)
        if "." in file:
            yield one_mistake(2, f"{folder}/*.{file.rpartition('.')[2]}", "canned_wildcard", WILDCARD)
    yield one_mistake(2, f"{path}*", "canned_wildcard", WILDCARD)


def _without_dots(path: str) -> str:
    out: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if len(out) > 1:
                out.pop()
        elif segment != ".":
            out.append(segment)
    return "/".join(out) or "/"


def queries_of(query: str, spellings: Spellings, fragment: str) -> Iterator[Alternative]:
    for one in _own_queries(query[1:], spellings) if query else _no_query():
        yield one._replace(text=one.text and f"?{one.text}") if query else one
    if fragment:
        words = "it was signed together with its fragment (#…), which never reaches a server"
        yield one_mistake(1, f"{query}#{fragment}", "fragment", words)


def _no_query() -> Iterator[Alternative]:
    yield one_mistake(1, "?", "empty_query", "it was signed with a ? at its end")
    yield one_mistake(2, "?*", "canned_wildcard", WILDCARD)


def _own_queries(own: str, spellings: Spellings) -> Iterator[Alternative]:
    yield from respelled(spellings)
    yield from substituted(own, "query")
    yield one_mistake(1, "", "query_added", "the query was added after signing")
    yield one_mistake(2, "*", "canned_wildcard", WILDCARD)
    words = "it was signed with &amp; where it was requested with &: it was escaped for HTML before signing"
    yield one_mistake(1, own.replace("&", "&amp;"), "html_escaped", words)
    parameters = own.split("&")
    if parameters[-1] == "" and len(parameters) > 1:
        yield one_mistake(
            1, own.rstrip("&"), "empty_query", "it was signed without the & at the end of its query"
        )
    yield one_mistake(1, own + "&", "empty_query", "it was signed with a & at the end of its query")
    if any("=" not in parameter for parameter in parameters):
        filled = "&".join(p if "=" in p or not p else p + "=" for p in parameters)
        words = "it was signed with = after a parameter that was requested without"
        yield one_mistake(1, filled, "empty_query", words)
    bare = "&".join(p[:-1] if p.endswith("=") and p.count("=") == 1 else p for p in parameters)
    words = "it was signed without the = that the request has after an empty parameter"
    yield one_mistake(1, bare, "empty_query", words)
    yield one_mistake(
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
        yield one_mistake(2, "&".join(some), "query_added", words)
    words = "the parameters of the query were signed in another order"
    for order in (sorted(parameters), sorted(parameters, reverse=True), parameters[::-1]):
        yield one_mistake(1, "&".join(order), "query_order", words)
    if len(parameters) <= 5:
        for some in itertools.permutations(parameters):
            yield one_mistake(3, "&".join(some), "query_order", words)
