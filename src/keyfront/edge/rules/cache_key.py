"""The cache key, which distinguishes stored responses. Only this module knows how a key is spelled.

    key       = base *selected [stored]
    base      = ["OPTIONS "] distribution-id raw-path
    selected  = LF ( "q" | "c" ) length ":" text                   ; query string, cookies
              / LF "e" length ":" codings                          ; normalized Accept-Encoding
              / LF ( "h" | "o" ) length ":" name length ":" value  ; selected header, override header
    stored    = LF "s" [generation ":" index]                      ; a sliced response in memory, one slice of it
              / LF "v" generation *( LF length ":" value )         ; one variant, by the headers that Vary names
              / LF "f"                                             ; how the origin failed for this key
              / LF "changed"                                       ; when the responses for a path were last changed
    shield    = base ["q" part] [LF "x" variant] LF "o" origin     ; at an Origin Shield, for one of its children

A path has no line break, and every selected text is preceded by its length. Whatever bytes a viewer sends, no two
different selections therefore spell the same key, and none spells a `stored` or `shield` ending. The query comes
first: the *root* of a key, its base and its query part, is what purges and invalidations name.

Keys are plain `str`, built and taken apart by the functions here, because a request that hits does little more than
build one and look it up. Both together take 0.26 µs with `str`, 0.73 µs with a subclass of it (its own allocation, and
no exact-`str` fast path in `dict`), and 2.9 µs with a frozen dataclass, whose hash is Python code and is computed anew
for each of the tables that are searched (CPython 3.11, 1000 keys).
"""

from __future__ import annotations

from typing import Final

from keyfront.edge.rules.encoding import accepted_codings
from keyfront.edge.rules.origin_request import EDGE_PREFIXES
from keyfront.edge.rules.override_headers import overrides_request
from keyfront.edge.rules.selection import (
    SELECTS_NOTHING,
    bytes_names,
    listed_names,
    select_cookies,
    select_query,
)
from keyfront.edge.rules.viewer_hints import Country, hint_value, no_country
from keyfront.edge.semantics.fields import HOP_BY_HOP, NO_OPTIONS, PERSISTENCE_OPTIONS, connection_options
from keyfront.edge.types.messages import Request
from keyfront.edge.types.stored import Slices
from keyfront.model.snapshot import Behavior, Select


def key_suffix(behavior: Behavior, request: Request, query: str, country: Country = no_country) -> str:
    """What the selected headers, cookies, and parameters and the normalized Accept-Encoding add to a cache key.

    Returns "" if nothing is selected or nothing selected was sent. Otherwise each part is a line break, its kind, its
    length, and its text, so no two different selections spell the same suffix, whatever bytes they hold.

    :param query: the viewer's own raw query string, without signing parameters.
    """
    text = query_part(behavior, query) if query else ""
    cookie = request.cookie if behavior.key_cookies.mode != "none" else ""
    gzip, brotli = behavior.accept_gzip, behavior.accept_brotli
    selects = behavior.key_headers.mode != "none"
    overridden = keys_overrides(behavior)
    if not (gzip or brotli or selects or cookie or overridden):
        return text
    # One pass over the headers, since this runs for every request.
    encoding = b""
    repeated = names_fields = False
    for name, value in request.headers:
        if name == b"accept-encoding":
            repeated = repeated or encoding != b""
            encoding = encoding or value
        elif name == b"connection" and value not in PERSISTENCE_OPTIONS:
            names_fields = True
    hidden = connection_options(request.headers) if names_fields else NO_OPTIONS
    if repeated:
        encoding = b",".join([value for name, value in request.headers if name == b"accept-encoding"])
    if cookie and b"cookie" not in hidden:
        cookie = select_cookies(behavior.key_cookies, cookie)
        if cookie:
            text += f"\nc{len(cookie)}:{cookie}"
    if encoding and (gzip or brotli) and b"accept-encoding" not in hidden and request.version != "1.0":
        accepted = accepted_codings(encoding, gzip, brotli, behavior.legacy)
        if accepted is not None:
            text += _ENCODING_PARTS[accepted]
    if selects:
        text += _key_headers(behavior.key_headers, request, hidden, country)
    if overridden:
        text += _override_part(behavior, request, hidden)
    return text


def keys_overrides(behavior: Behavior) -> bool:
    """Whether the behavior forwards headers that it neither lists nor has in its key, and stores the answers.

    Those that make an origin answer for another request (`overrides_request`) are in the key here, unlike in
    CloudFront, and so is Host. Otherwise one viewer could choose what all others get.
    """
    return behavior.caches and behavior.forward_headers.mode in ("all", "allExcept")


def _override_part(behavior: Behavior, request: Request, hidden: frozenset[bytes]) -> str:
    names = listed_names(behavior.key_headers, SELECTS_NOTHING)
    select = behavior.forward_headers
    parts = [
        (name, value.strip(b" \t"))
        for name, value in request.headers
        if overrides_request(name) and name not in hidden and name not in names
    ]
    if b"host" not in names and not (select.mode == "allExcept" and b"host" in bytes_names(select.names)):
        parts.append((b"host", request.host.encode("latin-1")))
    parts.sort(key=_first)
    return "".join([f"\no{len(n)}:{n.decode('latin-1')}{len(v)}:{v.decode('latin-1')}" for n, v in parts])


def query_part(behavior: Behavior, query: str) -> str:
    """What the selected parameters of a raw query string add to a cache key: the first part of `key_suffix`."""
    if behavior.key_query.mode != "none":
        query = select_query(behavior.key_query, query)
        if query:
            return f"\nq{len(query)}:{query}"
    return ""


_OPTIONS: Final = "OPTIONS "
_ENCODING_PARTS: Final = {b"br,gzip": "\ne7:br,gzip", b"br": "\ne2:br", b"gzip": "\ne4:gzip", b"identity": ""}


def _key_headers(select: Select, request: Request, hidden: frozenset[bytes], country: Country) -> str:
    names = bytes_names(select.names)
    mode = select.mode
    parts: list[tuple[bytes, bytes]] = []
    for name, value in request.headers:
        if (
            name in HOP_BY_HOP
            or name in hidden
            or name in (b"cookie", b"host")
            or name.startswith(EDGE_PREFIXES)
        ):
            continue
        if mode == "all" or (name in names) == (mode == "whitelist"):
            parts.append((name, value.strip(b" \t")))
    if mode == "all" or (b"host" in names) == (mode == "whitelist"):
        # Not the header field: an absolute-form target may name another host, or there may be no field.
        parts.append((b"host", request.host.encode("latin-1")))
    if mode != "allExcept":
        for name in names:
            if name.startswith(b"cloudfront-"):
                made = hint_value(name, request, country)
                if made is not None:
                    parts.append((name, made))
    parts.sort(key=_first)
    return "".join([f"\nh{len(n)}:{n.decode('latin-1')}{len(v)}:{v.decode('latin-1')}" for n, v in parts])


def _first(pair: tuple[bytes, bytes]) -> bytes:
    return pair[0]


def base_key(distribution: str, path: str, method: str) -> str:
    """The key of a request without its selected parts. Answers to OPTIONS are stored separately from those to GET and
    HEAD, which share a key."""
    key = distribution + path
    return _OPTIONS + key if method == "OPTIONS" else key


def shield_key(base: str, query: str, variant: str, origin: int) -> str:
    """The key under which an Origin Shield stores a response for its children.

    :param query: the request's `query_part`.
    :param variant: the child's name for its selection beyond the root (`selection_beyond_root`).
    :param origin: the origin's number in its behavior.
    """
    return f"{base}{query}\nx{variant}\no{origin}" if variant else f"{base}{query}\no{origin}"


def variant_key(key: str, generation: str, values: tuple[bytes, ...]) -> str:
    """The key of one variant of a response that varies.

    :param values: the values of the headers that Vary names, as forwarded to the origin.
    """
    parts = "".join([f"\n{len(v)}:{v.decode('latin-1')}" for v in values])
    return f"{key}\nv{generation}{parts}"


def sliced_key(key: str) -> str:
    """The key under which memory stores the description of a sliced response. Under `key` itself, `get_any_variant`
    must find only complete bodies in memory."""
    return key + "\ns"


def slice_key(slices: Slices, index: int) -> str:
    """The key of one slice."""
    return f"{slices.key}\ns{slices.generation}:{index}"


def failure_key(key: str) -> str:
    """The key of an origin failure for `key`."""
    return key + "\nf"


def change_marker(path: str) -> str:
    """The key of the marker that records when the responses for a path (`path_of`) last changed."""
    return path + "\nchanged"


def path_of(key: str) -> str:
    """The base of a key: its method if that is OPTIONS, the distribution's ID, and the raw path. Returns the key
    itself if it has nothing else."""
    return key.partition("\n")[0]


def root_of(key: str) -> str:
    """The base of a key and its query part: what purges name."""
    path, line, rest = key.partition("\n")
    if not line or not rest.startswith("q"):
        return path
    length, colon, text = rest[1:].partition(":")
    return f"{path}\nq{length}{colon}{text[: int(length)]}" if length.isdecimal() else key


def selection_beyond_root(key: str) -> str:
    """The part of a key that comes from the request's headers and cookies."""
    return key[len(root_of(key)) :]


def is_under(key: str, root: str) -> bool:
    """Whether `key` belongs to a root or, if `root` is a base, to the root without a query part."""
    return key.startswith(root + "\n") and ("\n" in root or not key.startswith(root + "\nq"))


def path_and_query(key: str) -> tuple[str, str]:
    """The raw path and the selected part of the raw query string."""
    start = key.index("/")
    end = key.find("\n", start)
    if end < 0:
        return key[start:], ""
    if not key.startswith("q", end + 1):
        return key[start:end], ""
    length, _, rest = key[end + 2 :].partition(":")
    return key[start:end], rest[: int(length)]


def distribution_of(key: str) -> str:
    """The ID of the distribution that a cache key belongs to."""
    return key[: key.index("/")].removeprefix(_OPTIONS)
