"""Independently written models of how origins read a path, sites to try them on, and how clients encode a file name.

`tests/edge/test_paths.py` and `fuzz/paths.py` compare the edge's verdict with what these origins would open.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote_to_bytes

from keyfront import sign_cookies
from keyfront.edge.rules.decide import Refusal, decide
from keyfront.edge.rules.routing import Plan, Routing
from keyfront.edge.types.messages import Request
from keyfront.model.snapshot import Behavior, KeyGroup, Origin, Snapshot
from tests.sites import ALICE, BOB, keys, site

NOW = time.time()


def verdict(routing: Routing, target: str, cookie: str = "", method: str = "GET") -> Plan | Refusal:
    request = Request(method, target, "d.test", [], cookie=cookie)
    decision = decide(routing, request, NOW, lambda _: "")
    return decision if isinstance(decision, Refusal) else decision[0]


def half_open(*patterns: str, guarded: bool = True, path: str = "", **members: str) -> Snapshot:
    """A site where these patterns' behaviors need a signature and the default behavior does not, or the reverse."""
    trusted = ("group-a",)
    behaviors = [
        Behavior(pattern, "scripted", restricted=guarded, trusted_key_groups=trusted if guarded else ())
        for pattern in patterns
    ]
    default = Behavior("*", "scripted", restricted=not guarded, trusted_key_groups=() if guarded else trusted)
    groups = (KeyGroup("group-a", "a", (ALICE.key_pair_id,)),)
    made = Origin("scripted", "127.0.0.1", path=path)
    return site(made, *behaviors, default, public_keys=keys(ALICE, BOB), key_groups=groups, **members)


# -- origins ---------------------------------------------------------------------------------------------------
#
# Each maps the raw path of a request to the name of a file, as its kind of server does. Bytes throughout.


def resolved(path: bytes) -> bytes:
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            segments = segments[:-1]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return b"/" + b"/".join(segments)


def before(path: bytes, marks: bytes) -> bytes:
    for mark in marks:
        path = path.partition(bytes([mark]))[0]
    return path


def without_parameters(path: bytes) -> bytes:
    return b"/".join([segment.partition(b";")[0] for segment in path.split(b"/")])


def nginx(path: bytes) -> bytes:
    return resolved(unquote_to_bytes(path))


def http_server(path: bytes) -> bytes:
    return resolved(unquote_to_bytes(before(path, b"?#")))


def nginx_uri(path: bytes) -> bytes:
    """`proxy_pass http://backend$uri`: the decoded path is in the request line of the next server's request."""
    line = b"GET " + nginx(path) + b" HTTP/1.0\r\n"
    return http_server(line.splitlines()[0].removeprefix(b"GET ").partition(b" HTTP/")[0])


def apache_php(path: bytes) -> bytes:
    found = nginx(path)
    script = re.search(rb"\.php(?=/)", found)
    return found[: script.end()] if script else found


def servlets(path: bytes) -> bytes:
    return resolved(unquote_to_bytes(without_parameters(path)).replace(b"\\", b"/"))


def servlets_that_decode_first(path: bytes) -> bytes:
    return resolved(without_parameters(unquote_to_bytes(path)))


def windows(path: bytes) -> bytes:
    names = []
    for name in path.replace(b"\\", b"/").split(b"/"):
        bare = re.sub(rb"(?i)::\$data$", b"", name).strip(b" ")
        names.append(bare if bare in (b".", b"..") else bare.rstrip(b". "))
    return resolved(b"/".join(names))


def iis(path: bytes) -> bytes:
    text = re.sub(
        rb"%u([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)).encode("utf-8", "surrogatepass"), path
    )
    text = unquote_to_bytes(text)
    text = re.sub(
        rb"[\xc0\xc1]([\x80-\xbf])",
        lambda found: bytes([(found[0][0] & 1) << 6 | found[1][0] & 0x3F]),
        text,
    )
    wide = text.decode("utf-8", "replace")
    return windows(unicodedata.normalize("NFKC", wide).replace("¥", "\\").encode())


def url_parser(path: bytes) -> bytes:
    """WHATWG: tabs and line breaks removed, backslashes become slashes, `%2e` a dot, `?` and `#` end the path; a file
    server."""
    text = before(re.sub(rb"[\t\n\r]", b"", path).replace(b"\\", b"/"), b"?#")
    return resolved(unquote_to_bytes(resolved(re.sub(rb"(?i)%2e", b".", text))))


def c_strings(path: bytes) -> bytes:
    return nginx(unquote_to_bytes(path).partition(b"\0")[0])


def hfs(path: bytes) -> bytes:
    text = unquote_to_bytes(path).decode("utf-8", "replace")
    text = "".join([char for char in text if unicodedata.category(char) != "Cf"])
    return resolved(unicodedata.normalize("NFC", text).encode())


def best_fit(path: bytes) -> bytes:
    text = unicodedata.normalize("NFKD", unquote_to_bytes(path).decode("utf-8", "replace"))
    letters = "".join([char for char in text if unicodedata.category(char) != "Mn"])
    return windows(letters.replace("\u2044", "/").encode())


def twice(first: Callable[[bytes], bytes], second: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda path: second(first(path))


def forms(path: bytes) -> bytes:
    return resolved(unquote_to_bytes(path.replace(b"+", b" ")))


def url_reference(path: bytes) -> bytes:
    """`new URL(request.url, base).pathname`, and PHP's `parse_url`: a host follows two slashes."""
    text = before(re.sub(rb"[\t\n\r]", b"", path).replace(b"\\", b"/"), b"?#")
    if text.startswith(b"//"):
        text = b"/" + text.lstrip(b"/").partition(b"/")[2]
    return url_parser(text)


def nginx_alias(path: bytes) -> bytes:
    """`location /public { alias /data/public/; }`, with its missing slash."""
    return resolved(re.sub(rb"^/public", b"/public/", nginx(path)))


def asp_net(path: bytes) -> bytes:
    """Sessions without cookies."""
    return iis(re.sub(rb"/\((?:[A-Z]\([^()/]*\))+\)(?=/)", b"", path))


def strips_once(path: bytes) -> bytes:
    return resolved(unquote_to_bytes(path).replace(b"../", b""))


def front_controller(path: bytes) -> bytes:
    return re.sub(rb"^/index\.php(?=/)", b"", nginx(path))


ORIGINS: dict[str, Callable[[bytes], bytes]] = {
    "S3": unquote_to_bytes,
    "nginx": nginx,
    "nginx with $uri": nginx_uri,
    "nginx, $uri, then servlets": twice(nginx, servlets),
    "http.server": http_server,
    "http.server behind one that decodes": twice(unquote_to_bytes, http_server),
    "Apache with PHP": apache_php,
    "Apache with PHP behind nginx with $uri": twice(nginx_uri, apache_php),
    "servlets": servlets,
    "servlets that decode first": servlets_that_decode_first,
    "Windows": twice(unquote_to_bytes, windows),
    "Windows behind one that decodes": twice(unquote_to_bytes, twice(unquote_to_bytes, windows)),
    "Windows with forms": twice(forms, windows),
    "IIS": iis,
    "IIS twice": twice(iis, iis),
    "a URL parser": url_parser,
    "a URL parser behind one that decodes": twice(unquote_to_bytes, url_parser),
    "C": c_strings,
    "C behind one that decodes": twice(unquote_to_bytes, c_strings),
    "HFS+": hfs,
    "best fit": best_fit,
    "a URL parser with a base": url_reference,
    "a URL parser with a base behind nginx with $uri": twice(unquote_to_bytes, url_reference),
    "nginx with an alias": nginx_alias,
    "ASP.NET": asp_net,
    "a front controller": front_controller,
    "takes out ../ once": strips_once,
    "three times": twice(unquote_to_bytes, twice(unquote_to_bytes, nginx)),
}
"""By what opens a file's name at last a trailing slash may be left out, too."""


class World(NamedTuple):
    """A site, the origin files that need a signature, and whether it has a default root object."""

    snapshot: Snapshot
    secret: frozenset[bytes]
    root: bytes = b""


WORLDS: dict[str, World] = {
    "a private folder": World(
        half_open("/private/*"), frozenset({b"/private/1.mp4", b"/private/x/2.txt", b"/private/a b.php"})
    ),
    "open pictures": World(
        half_open("*.jpg", "*.png", guarded=False),
        frozenset({b"/private/1.mp4", b"/1.txt", b"/private/a.php"}),
    ),
    "private films": World(half_open("*.mp4"), frozenset({b"/private/1.mp4", b"/1.mp4"})),
    "a private root": World(
        half_open("/index.html", default_root_object="index.html"),
        frozenset({b"/index.html"}),
        b"/index.html",
    ),
    "a private script": World(half_open("/private.php", "/s/*"), frozenset({b"/private.php", b"/s/a.php"})),
}


def opened(world: World, target: str) -> list[str]:
    """The origins that serve a secret file for this target."""
    path = target.partition("?")[0].encode("latin-1")
    found = []
    for name, origin in ORIGINS.items():
        file = origin(path)
        if world.root and resolved(file) == b"/":
            file = world.root
        if file in world.secret or file.rstrip(b"/") in world.secret:
            found.append(name)
    return found


# -- bypassing the signature check -----------------------------------------------------------------------------

ENDS = [
    "%3f.jpg", "%3F.png", "%23.jpg", "%23", "%253f.jpg", "%25253f.jpg", "%2523x.png", ";.jpg", ";a=b.png", "%3b.jpg",
    "%3b%2f.jpg", "%253b.jpg", "%2500.jpg", "%0a.jpg", "%0d%0aX:.jpg", "%20HTTP/1.0%0d%0aX:.jpg", "%20.jpg%20", ".",
    "%2e", "%20", "+", "/", "%2f", "\\", "%5c", "::$DATA", "::$data", "%3a%3a$DATA", "/.", "/x/..", "/x%2f..", "%3f",
    "?",
    "?.jpg", "%3f?.jpg", "%u003f.jpg", "%u0023.jpg", "%uff1f.jpg", "%c0%bf.jpg", "%c0%a3.jpg", "%ef%bc%9f.jpg",
    "%ef%bc%83.jpg", "%EF%BC%9B.jpg", "%e2%80%8b", "%ef%bb%bf", "/x.jpg", "/.jpg", "%2f.jpg", "/a/b.png", "%09",
    "%%33f.jpg", "%2%33.jpg", "%25%32%33.jpg",
]  # fmt: skip
STARTS = [
    "/public..", "/public%2e%2e", "/public.%2e", "//x", "/%2fx", "/\\x", "//x:80", "///a@x", "/%09/x", "/(S(a))",
    "/(A(a)S(b)F(c))", "/%28S(a))", "/index.php", "/%69ndex.php", "/index%2ephp", "/public/....//",
    "/x/..././", "/x/%2e...//",
]  # fmt: skip
SLASHES = [
    "/", "//", "/./", "/x/../", "%2f", "%2F", "%252f", "%25252f", "\\", "%5c", "%255C", "/;/", ";x/", ";a=b%2f",
    "/%2e/",
    "%u002f", "%u2215", "%uff0f", "%c0%af", "%25c0%25af", "%c1%9c", "%ef%bc%8f", "%e2%88%95", "%e2%81%84", "%ef%bc%bc",
    "/x/%2e%2e/", "/x/..;/", "/x/..%3b/", "/x/%252e%252e/", "/x/.%e2%80%8b./", "/x/%ef%bc%8e%ef%bc%8e/", "/x/%c0%ae./",
    "/x/..%20/", "/x/..+/", "/x%5c..%5c", "/%0a", "%09/", "/x/%2e%0a./", "/x/../", "%c2%a5", "/x/..%2500/",
    "/x/..%3f/../",
]  # fmt: skip


def spelled(text: str, way: int) -> str:
    """A letter in one of the spellings that servers read as that letter."""
    code = ord(text)
    return (
        text,
        f"%{code:02x}",
        f"%25{code:02X}",
        f"%u00{code:02x}",
        f"%%{ord(f'{code:02x}'[0]):02x}{f'{code:02x}'[1]}",
        quote(chr(code + 0xFEE0)) if 0x21 <= code <= 0x7E else text,
        f"%u{code + 0xFEE0:04x}" if 0x21 <= code <= 0x7E else text,
        text + "%e2%80%8d",
        text + "%cc%81" if text.isalpha() else text,
        text + "%0a",
        f"%c{code >> 6:x}%{code & 0x3F | 0x80:02x}",
        f"%25{code >> 4:x}{code & 15:x}",
    )[way % 12]


# -- legitimate names ------------------------------------------------------------------------------------------

_UNRESERVED = "-_.~"
ENCODERS: dict[str, Callable[[str], str]] = {
    "encodeURIComponent": lambda name: quote(name, safe="-_.!~*'()"),
    "encodeURI, and ? and # by hand": lambda name: quote(name, safe="-_.!~*'();:@&=+$,"),
    "a browser's URL": lambda name: re.sub(
        r'[\x00-\x20"#<>?`{}^\x7f-\U0010ffff]', lambda found: quote(found[0], safe=""), name
    ),
    "Python's quote": lambda name: quote(name, safe=""),
    "Python's quote, bytes in Latin-1": lambda name: quote(name.encode("latin-1", "replace"), safe=""),
    "Python's quote_plus": quote_plus,
    "Java's URLEncoder": lambda name: quote_plus(name, safe="*-._").replace("~", "%7E"),
    "Java's URI": lambda name: quote(name, safe="-_.!~*'();:@&=+$,"),
    ".NET's EscapeDataString": lambda name: quote(name, safe=_UNRESERVED),
    ".NET's EscapeUriString": lambda name: quote(name, safe="-_.!~*'();:@&=+$,[]"),
    "Go's PathEscape": lambda name: quote(name, safe="-_.~$&+=:@"),
    "Go's EscapedPath": lambda name: quote(name, safe="-_.~$&+,/:;=@!'()*"),
    "lower-case escapes": lambda name: re.sub("%..", lambda found: found[0].lower(), quote(name, safe="")),
    "everything": lambda name: "".join([f"%{byte:02X}" for byte in name.encode()]),
}


def climbs(name: str) -> bool:
    """Whether the name begins with two dots, or has two dots after something that some servers read as a slash. To an
    origin that ignores what follows (`..#1`), that is the parent folder."""
    for each in (name, name.encode("latin-1", "replace").decode("latin-1")):  # one encoder writes Latin-1
        text = unicodedata.normalize("NFKC", each)
        text = "".join([char for char in text if unicodedata.category(char) not in ("Cf", "Mn")])
        if re.search(r"(?:^|[/\\\u2044\u2215\u2216¥₩])[ +]*\.\.(?!\.)", text):
            return True
    return False


FOLDER = sign_cookies("http://d.test/private/*", ALICE, expires=int(NOW) + 3600, now=NOW, secure=False).header


def opened_by_anyone(target: str) -> bool:
    path = target.encode("latin-1")
    return any(b"/private/" in origin(path) + b"/" for origin in ORIGINS.values())
