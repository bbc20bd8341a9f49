"""Request headers that can make an origin answer for a request other than the one that it received.

Frameworks, proxies, PaaS front ends, and service meshes have headers that name the URL, host, scheme, or method that
was "really" requested, the viewer that "really" sent the request, or the desired form of the page. They are meant to
be set by a proxy, but most origins obey them whatever their source. Where such a header is not part of the cache key,
one viewer determines what all others get. Where a path requires a signature, `X-Original-URL: /private/1` on a request
for an open path bypasses the signature check.

Vendors name these headers alike, so names are judged by their words and by the vendors' prefixes; the rest is a list.
docs/decisions/0030-paths.md gives the source of each. Names are lowercase, with `-` in place of whatever a CGI-like
origin reads as its `_` (`origin_request`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_NEVER: Final = frozenset(
    {
        b"access-control-request-headers",
        b"access-control-request-method",
        b"git-protocol",
        b"host",
        b"origin",
        b"x-forwarded-for",
        b"x-goog-upload-protocol",
    }
)
"""The first two are CORS (Fetch §3.3.2) and go to the origin as that standard requires; the protocols are those of git
and of uploads; the others have rules of their own in `origin_request`."""

_WORDS: Final = frozenset(
    b"""
    authority backend copy host hostname hosts https method override pathinfo pathname port prefix proto protocol proxy
    reproxy rewrite route scheme script sendfile ssl symlink tls upstream uri url verb vhost
    """.split()
)
"""`copy` and `symlink` are for object stores (`X-Amz-Copy-Source`, Swift's `X-Copy-From` and `X-Symlink-Target`): with
them, an allowed upload takes on the content of a path that is not allowed. `Proxy` is the proxy setting of CGI scripts
(httpoxy)."""
_WORD_ENDS: Final = (b"host", b"path", b"uri", b"url")
_REQUEST_PREFIXES: Final = (
    b"ali-",  # Alibaba Cloud CDN
    b"next-",  # Next.js: next-url, next-router-*, next-action
    b"path-",  # CGI: PATH_INFO, PATH_TRANSLATED
    b"x-accel-",  # nginx
    b"x-appservice-",  # Azure App Service, like x-arr- and x-waws-
    b"x-arr-",
    b"x-cf-",  # Cloud Foundry
    b"x-envoy-",
    b"x-forwarded-",
    b"x-invoke-",  # Next.js, like x-matched-, x-middleware-, x-next-, x-nextjs-, x-now- and x-vercel-
    b"x-istio-",
    b"x-lighttpd-",
    b"x-litespeed-",
    b"x-matched-",
    b"x-middleware-",
    b"x-next-",
    b"x-nextjs-",
    b"x-nf-",  # Netlify
    b"x-now-",
    b"x-nuxt-",
    b"x-original-request-",
    b"x-original-u",
    b"x-replaced-",  # Traefik
    b"x-rewrite-",
    b"x-sendfile",
    b"x-vercel-",
    b"x-waws-",
)
_REQUEST_NAMES: Final = frozenset(
    b"""
    cf-visitor cloudfront-forwarded-proto destination document-uri forwarded front-end-https query-string request-line
    request-target server-name server-port translate x-amz-rename-source x-domain x-forwarded x-nuxt x-object-manifest
    x-original x-orig x-query-string x-request-line x-request-target x-server-name
    """.split()
)

_ADDRESS: Final = re.compile(
    rb"(?:^|.*-)(?:client|connecting|custom|originating|peer|proxyuser|real|remote|source|src|user|viewer)-?"
    rb"(?:ip|ipv[46]|ip-?addr(?:ess)?|addr(?:ess)?|ipaddress)(?:-.*)?$"
    rb"|(?:x-)?(?:forwarded|forwarder|original|forward)-for(?:-.*)?$|forwarded-for-ip$|x-azure-socketip$|x-host-ip$|x-ip$"
)

_IDENTITY_PREFIXES: Final = (
    b"cf-access-",
    b"client-cert",  # RFC 9440
    b"remote-",
    b"ssl-client-",
    b"tailscale-",
    b"x-amzn-oidc-",
    b"x-anonymous-",
    b"x-appengine-",
    b"x-auth-",
    b"x-authenticated-",
    b"x-authentik-",
    b"x-azure-",
    b"x-client-cert",
    b"x-consumer-",  # Kong, like x-credential-
    b"x-credential-",
    b"x-goog-authenticated-",
    b"x-goog-iap-",
    b"x-jwt-",
    b"x-ms-client-principal",
    b"x-ms-token-",
    b"x-pomerium-",
    b"x-remote-",
    b"x-user-",
    b"x-webauth-",
)
_IDENTITY_NAMES: Final = frozenset(b"x-auth x-user x-userid x-userinfo x-username".split())

_VARIANT_PREFIXES: Final = (b"hx-", b"turbo-", b"x-inertia", b"x-pjax", b"x-turbo", b"x-up-")
_VARIANT_NAMES: Final = frozenset(b"rsc surrogate-capability x-wap-profile".split())
_VARIANT_ENDS: Final = (b"-user-agent", b"-ua")


_LONGEST_KNOWN: Final = 64


def overrides_request(name: bytes) -> bool:
    """Whether a header of this name gives an origin another URL, host, port, scheme, or method."""
    return _known(name) if len(name) <= _LONGEST_KNOWN else _overrides(name)


def _overrides(name: bytes) -> bool:
    if name in _NEVER or name.startswith((b"sec-", b"content-")) or name.endswith(b"-"):
        return False
    if name in _REQUEST_NAMES or name.startswith(_REQUEST_PREFIXES):
        return True
    if name.endswith(b"-protocol-version"):
        return False  # of protocols carried over HTTP: Connect, MCP
    return any(word in _WORDS or word.endswith(_WORD_ENDS) for word in name.split(b"-"))


_known = lru_cache(maxsize=4096)(_overrides)


def names_client(name: bytes) -> bool:
    """Whether a header of this name gives an origin another address of the viewer. The edge knows that address and
    sends it in X-Forwarded-For."""
    return name not in _NEVER and _ADDRESS.match(name) is not None


def varies_answer(name: bytes) -> bool:
    """Whether a header of this name tells an origin who the viewer is, as only a trusted proxy in front of it should,
    or requests another form of the page."""
    return (
        name.startswith(_IDENTITY_PREFIXES + _VARIANT_PREFIXES)
        or name in _IDENTITY_NAMES
        or name in _VARIANT_NAMES
        or (name.startswith(b"x-") and name.endswith(_VARIANT_ENDS))
    )
