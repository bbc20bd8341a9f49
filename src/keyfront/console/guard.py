"""The rules that protect the console in a browser. Pure.

- Every response carries HEADERS. The Content-Security-Policy allows scripts, styles, images, forms, and requests of
  this origin only, and nothing inline (W3C CSP Level 3).
- A request that changes something must come from a page of this origin: `is_same_origin`, from the headers Origin
  (RFC 6454) and Sec-Fetch-Site (W3C Fetch Metadata). In addition, its form carries the session's token.
- After log-in, a browser is sent to a path of the console only: `local_path`.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

BASE = "/console"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS: tuple[tuple[str, str], ...] = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # `no-referrer` would make browsers send `Origin: null` with forms (Fetch, "append a request Origin header").
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)

_PORTS = {"http": 80, "https": 443}


def is_same_origin(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a request comes from a page of the host that it is sent to. A request that does not say so is refused.

    The schemes are not compared: behind a proxy that ends TLS, this server sees `http`.

    :param headers: the request's headers, names in lower case.
    """
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    sites = [value for name, value in headers if name == b"sec-fetch-site"]
    if len(hosts) != 1 or len(origins) > 1 or any(site != b"same-origin" for site in sites):
        return False
    if not origins:
        return bool(sites)
    try:
        parts = urlsplit(origins[0])
        default = _PORTS[parts.scheme]
        ours = urlsplit(f"//{hosts[0]}")
        return (parts.hostname, parts.port or default) == (ours.hostname, ours.port or default)
    except (ValueError, KeyError):
        return False


def local_path(path: str) -> str:
    """`path` if it is a path of the console, otherwise the console's first page.

    A browser takes a backslash for a slash, ignores tabs and line ends, and reads two slashes as a host (WHATWG URL).
    """
    good = path.startswith(BASE + "/") and path.isascii() and path.isprintable()
    if not good or "\\" in path or "//" in path.partition("?")[0] or "/." in path.partition("?")[0]:
        return BASE + "/"
    return path[:2048]
