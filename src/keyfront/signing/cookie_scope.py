"""The scope of a cookie in a browser, and so whether signed cookies can reach what their policy grants (RFC 6265
§5.1.3-4).

This module has no list of public suffixes: a Domain that is one, such as co.uk, is left for the browser to refuse.
"""

from __future__ import annotations

import re

from keyfront.errors import SigningError
from keyfront.signing.resource import glob

_HOST = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?", re.IGNORECASE
)
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+|\[.*\]")
_LOOPBACK = re.compile(r"localhost|.+\.localhost|127\.\d+\.\d+\.\d+|\[::1\]")


def check_domain(domain: str) -> None:
    """:raises SigningError: if `domain` is not a host name, or is one for which browsers accept no cookies."""
    if not isinstance(domain, str):
        raise SigningError(f"domain is a host name as text, not a {type(domain).__name__}")
    plain = domain.removeprefix(".")
    if "://" in domain:
        host = re.split("[/:?]", domain.partition("://")[2], maxsplit=1)[0]
        raise SigningError(
            f"domain is a host name without a scheme: write {host or 'example.com'!r}, not {domain!r}"
        )
    if "/" in domain:
        host = domain.lstrip("/").partition("/")[0]
        raise SigningError(
            f"domain is a host name without a path: write {host or 'example.com'!r}; a path goes into path="
        )
    if "*" in domain:
        bare = domain.replace("*.", "").replace("*", "").strip(".")
        raise SigningError(
            f"a cookie's Domain covers all hosts below it without any *: write {bare!r}, not {domain!r}"
        )
    if domain.startswith("[") or domain.count(":") > 1:
        raise SigningError("browsers take no Domain for an IPv6 address: leave domain out")
    if re.search(r":\d*$", domain):
        raise SigningError(
            f"domain is a host name without a port: write {domain.partition(':')[0]!r}; cookies are sent to all ports"
        )
    if not domain.isascii():
        raise SigningError(
            f"the domain {domain!r} is not ASCII: it cannot stand in a cookie's attributes. Give its xn-- form"
        )
    if not plain or len(plain) > 253 or not _HOST.fullmatch(plain):
        raise SigningError(
            f"{domain[:100]!r} cannot stand in a cookie's attributes: domain is a host name, such as example.com"
        )
    if f".{plain}".lower().endswith(".cloudfront.net"):
        raise SigningError(
            "browsers take no cookies for cloudfront.net: give the distribution an alternate domain name that "
            "you share with your application"
        )


def check_path(path: str) -> None:
    """:raises SigningError: if `path` is not valid as a cookie's Path, or is a pattern."""
    if not isinstance(path, str):
        raise SigningError(f"path is text that begins with /, not a {type(path).__name__}")
    if "*" in path:
        bare = path.partition("*")[0].rstrip("/") or "/"
        raise SigningError(f"a cookie's Path covers all below it without any *: write {bare!r}, not {path!r}")
    if "?" in path or "#" in path:
        raise SigningError(
            f"a cookie's Path has neither a query nor a fragment: write {re.split('[?#]', path)[0]!r}"
        )
    if "://" in path:
        raise SigningError("path is the path of a URL only: the host goes into domain=")
    if any(char <= " " or char in ";,\x7f" for char in path) or not path.isascii():
        raise SigningError(
            f"{path!r} cannot stand in a cookie's attributes: percent-encode it as the URLs are"
        )
    if not path.startswith("/"):
        raise SigningError("a cookie's Path begins with /; browsers ignore any other")


def refuse_useless(resource: str | None, domain: str | None, path: str, secure: bool) -> None:
    """Refuse attributes with which no browser sends the cookies to any URL that they grant.

    `resource` is a policy's Resource or a canned policy's URL, None for every URL.

    :raises SigningError: with the attribute and what to write in its place.
    """
    if resource is None or resource == "*":
        return
    scheme, separator, rest = resource.partition("://")
    if not separator:
        if "/" not in resource:
            return
        scheme, rest = "*", resource
    host, slash, tail = rest.partition("/")
    if "?" in host:  # may start the query
        if domain is not None and not slash and not host.endswith("*"):
            return
        readings = (host.replace("?", "*"), *(host[:at] for at, char in enumerate(host) if char == "?"))
        if domain is not None and not any(
            _may_cover(domain.lower().removeprefix("."), re.sub(r":[0-9*?]+$", "", one.lower()))
            for one in readings
        ):
            raise SigningError(
                f"the domain {domain} does not cover the policy's host {host}: browsers would never send these cookies "
                "there"
            )
        return
    name = re.sub(r":[0-9*?]+$", "", host.lower())
    if secure and not glob(scheme.lower())("https") and not _LOOPBACK.fullmatch(name):
        raise SigningError(
            f"browsers send Secure cookies by https only, and the policy is for {scheme}://: sign for https://, or "
            "pass secure=False (--insecure) for tests over http"
        )
    bare = name.replace("*.", "").replace("*", "").strip(".") or name
    if domain is not None and not _may_cover(domain.lower().removeprefix("."), name):
        raise SigningError(
            f"the domain {domain} does not cover the policy's host {name}: browsers would never send these cookies "
            f"there. Give {bare} or a domain above "
            "it that the application shares, or leave domain out where the application answers at that host itself"
        )
    if not separator or (not slash and name.endswith("*")):
        return
    if not _may_lie_below("/" + re.split(r"\\?\?", tail, maxsplit=1)[0], "?" in tail, path):
        raise SigningError(
            f"the cookies' path {path} covers no URL of the policy's Resource {resource}: browsers would never send "
            "them there. Give a folder that the URLs are in, or leave path out"
        )


def _may_cover(domain: str, host: str) -> bool:
    """Whether a browser sends a cookie of `domain` to a host that the pattern `host` matches."""
    if "*" not in host:
        # Browsers accept a Domain above the host, but not for an IP address, and not a single label such as com.
        above = ("." in domain or domain == "localhost") and not _ADDRESS.fullmatch(host)
        return host == domain or (above and host.endswith(f".{domain}"))
    last = host.rpartition("*")[2]  # the end of every host that it matches
    below = f".{domain}"
    return below.endswith(last) or last.endswith(below) or last == domain


def _may_lie_below(pattern: str, more: bool, path: str) -> bool:
    """Whether a request for a path that `pattern` matches carries a cookie of `path` (RFC 6265 §5.1.4). `more` says
    that a `?` was cut off, which may have stood for a character."""
    literal, star, _ = pattern.partition("*")
    if path == "/" or literal == path or literal.startswith(path if path.endswith("/") else f"{path}/"):
        return True
    return bool(star or more) and path.startswith(literal)
