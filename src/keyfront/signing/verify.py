"""Verification of signed URLs and signed cookies: whether they grant the viewer's request.

`verify` judges one request. The order of its checks decides which refusal a viewer sees
(cloudfront-semantics §4.1):

 1. a Key-Pair-Id is given                  MISSING_KEY_PAIR_ID
 2. it names a key that is trusted here     UNKNOWN_KEY
 3. there is a policy and it can be read    MISSING_POLICY, MALFORMED_POLICY
 4. there is a signature, it can be decoded MISSING_SIGNATURE, MALFORMED_SIGNATURE
 5. the signature is that key's             UNSUPPORTED_HASH, SIGNATURE_MISMATCH
 6. the policy covers this URL              WRONG_RESOURCE
 7. now is within its dates                 NOT_YET_VALID, EXPIRED
 8. the viewer is within its network        WRONG_IP

Steps 1 to 5 depend only on the credential, so a credential that has passed them is cached and not checked again; steps
6 to 8 are evaluated on every use. Only credentials that pass are cached, so filling the table requires signatures of a
trusted key. The cache belongs to one KeyRing, whose keys never change, so no credential outlives the trust in its key:
a changed group means a new KeyRing.

Everything is compared raw, as it appears on the request line. The module uses no clock, no randomness, and no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Literal, cast
from urllib.parse import unquote_to_bytes

from keyfront.errors import Denial, Denied, KeyLoadError, PolicyError
from keyfront.signing.keys import HashName, PublicKey, cf_b64decode, load_public_key
from keyfront.signing.policy import Network, Statement, canned_expires, canned_policy, ipv4, parse_policy
from keyfront.signing.raw_url import SIGNING_PARAMETERS
from keyfront.signing.resource import plain_host
from keyfront.signing.tables import Budget, Key, TwoGenerationCache

Mode = Literal["url", "cookies"]

_RESERVED = re.compile("Expires|Policy|Signature|Key-Pair-Id|Hash-Algorithm")
_HASH_NAMES = frozenset({"SHA1", "SHA256"})
# §2: the same five parameters as cookies.
SIGNING_COOKIES = frozenset("CloudFront-" + name for name in SIGNING_PARAMETERS)


# Viewers return, and parsing an address takes longer than the rest of the work for a cached grant.
_viewer = lru_cache(maxsize=16_384)(ipv4)
_LONGEST_ADDRESS = 45


class Grant:
    """What a viewer's signature allows. Immutable; may be shared between requests.

    `mode` says whether the URL or the cookies carried it. `canned` says whether its policy is a canned one, which
    grants only one URL. `expires` and `not_before` are epoch seconds: the grant is valid while `not_before < now <
    expires`. `network` is the IPv4 range that must contain the viewer's address, as two integers. `own_query` is the
    raw query of the request without the five signing parameters, in its original order and encoding. `remembered` is
    true if the signature was verified on an earlier request.
    """

    __slots__ = (
        "_scope",
        "canned",
        "expires",
        "hash_name",
        "key_pair_id",
        "mode",
        "network",
        "not_before",
        "own_query",
        "remembered",
        "simple",
    )

    def __init__(
        self,
        key_pair_id: str,
        hash_name: HashName,
        mode: Mode,
        scope: str | Statement,
        expires: int,
        own_query: str,
        remembered: bool,
    ) -> None:
        self.key_pair_id = key_pair_id
        self.hash_name = hash_name
        self.mode: Mode = mode
        self.expires = expires
        self.own_query = own_query
        self.remembered = remembered
        # A canned policy's one URL, or what a custom policy states.
        self._scope = scope
        if isinstance(scope, str):
            self.canned = self.simple = True
            self.not_before: int | None = None
            self.network: Network | None = None
        else:
            self.canned = False
            self.not_before = scope.not_before
            self.network = scope.network
            self.simple = scope.not_before is None and scope.network is None

    @property
    def resource(self) -> str | None:
        """The granted URL or pattern, as latin-1 text; None for a policy that names none (any URL)."""
        return self._scope if isinstance(self._scope, str) else self._scope.resource

    @property
    def policy_digest(self) -> bytes:
        """The SHA-256 of the policy's bytes (§1.2, §1.3). A canned policy's are those that its signature covers, with
        Expires written without leading zeros."""
        scope = self._scope
        if isinstance(scope, str):
            return sha256(canned_policy(scope, str(self.expires))).digest()
        return scope.digest

    def judge(self, client_ip: str, now: float) -> None:
        """Evaluate steps 7 and 8 again, for the same URL, at another time or for another viewer.

        :raises Denied: NOT_YET_VALID, EXPIRED, or WRONG_IP.
        """
        # §1.3: refused on or before DateGreaterThan; equality with DateLessThan is refused too.
        if self.not_before is not None and now <= self.not_before:
            raise self._denied(Denial.NOT_YET_VALID, f"not valid until after {self.not_before}")
        if now >= self.expires:
            raise self._denied(Denial.EXPIRED, f"expired at {self.expires}")
        # §1.5: an IPv6 viewer is in no IPv4 network.
        if self.network is not None:
            address = _viewer(client_ip) if len(client_ip) <= _LONGEST_ADDRESS else None
            if address is None or not self.network[0] <= address <= self.network[1]:
                raise self._denied(Denial.WRONG_IP, f"{client_ip} is outside the policy's network")

    def judge_url(self, scheme: str, host: str, target: str, client_ip: str, now: float) -> None:
        """Evaluate steps 6 to 8 again, possibly for another URL. The arguments are those of `verify`.

        :raises Denied: WRONG_RESOURCE, NOT_YET_VALID, EXPIRED, or WRONG_IP.
        """
        path, mark, query = target.partition("?")
        own = split_query(query)[1] if mark else None
        if not self._covers(scheme, host, path, own):
            raise self._elsewhere()
        self.judge(client_ip, now)

    def under(self, resource: str) -> Grant:
        """Return the same grant as if its policy named this Resource (latin-1 text)."""
        scope = Statement(resource, self.expires, self.not_before, self.network, self.policy_digest)
        return Grant(
            self.key_pair_id, self.hash_name, self.mode, scope, self.expires, self.own_query, self.remembered
        )

    def _covers(self, scheme: str, host: str, path: str, own: str | None) -> bool:
        """Evaluate step 6. `own` is the request's own query, None if not even its `?` is left."""
        scope = self._scope
        if isinstance(scope, str):
            return scope in _canned_resources(scheme, host, path, own)
        if not is_url(host, path):
            return False
        pattern = scope.pattern
        # §1.3: no Resource means every URL for which this key is trusted.
        return pattern is None or pattern.matches(scheme, plain_host(scheme, host.lower()), path, own or "")

    def _for(self, own: str | None) -> Grant:
        """Return the same grant, marked as remembered, for a request with another query."""
        return Grant(self.key_pair_id, self.hash_name, self.mode, self._scope, self.expires, own or "", True)

    def _elsewhere(self) -> Denied:
        return self._denied(Denial.WRONG_RESOURCE, f"the policy's Resource is {(self.resource or '')[:200]}")

    def _denied(self, denial: Denial, detail: str) -> Denied:
        return Denied(denial, detail, self.key_pair_id)

    def __repr__(self) -> str:
        kind = "canned" if self.canned else "custom"
        return f"<Grant {kind} {self.mode} {self.key_pair_id} {self.hash_name} until {self.expires}>"


def _grant_bytes(grant: Grant) -> int:
    """Return the size of a grant in bytes, without the URL or the Cookie header that is its key. Its policy is counted
    with the policies. A canned policy's URL and the rest of the query are copies of parts of the key."""
    scope = grant._scope
    return len(grant.own_query) + (len(scope) if isinstance(scope, str) else 0)


def _policy_bytes(policy: tuple[str | Statement, int]) -> int:
    scope = policy[0]
    text = scope if isinstance(scope, str) else scope.resource or ""
    # A custom policy's compiled pattern contains the text again, in sections.
    return 270 + 4 * len(text)


class KeyRing:
    """The public keys that some cache behaviors trust, and the credentials verified with them.

    `keys` maps key IDs to keys (PEM text or PublicKey); it never changes. `groups` maps key IDs to the ID of the key
    group that contributed each, for the log. Create one KeyRing for all behaviors that trust the same groups, and a new
    one whenever a group changes: the old cache is discarded with the old KeyRing.

    Memory (measured): a cached URL takes 0.9 KB for RSA and 0.7 KB for ECDSA with a canned policy, and 2.3 and 1.8 KB
    with a custom policy of its own; a Cookie header takes about as much. The cache holds `entries` URLs, as many Cookie
    headers, and as many policies of those in use, and never more than twice that. `size` bytes bounds one generation of
    URLs; half of it bounds one generation of headers, and half one of policies. So a key ring never grows beyond four
    times `size`. Nothing longer than 4096 characters is cached. With a `budget`, which other tables may share, the
    total stays within the budget.

    :raises KeyLoadError: if a key is not of a type that CloudFront accepts.
    """

    __slots__ = ("__weakref__", "_cookies", "_policies", "_urls", "groups", "keys")

    def __init__(
        self,
        keys: Mapping[str, PublicKey | str | bytes],
        groups: Mapping[str, str] | None = None,
        *,
        entries: int = 65_536,
        size: int = 64 << 20,
        budget: Budget | None = None,
    ) -> None:
        if not isinstance(keys, Mapping):
            raise KeyLoadError(
                f"a KeyRing takes a mapping of key ids to public keys, not a {type(keys).__name__}",
                'Give {"K2JCJMDEHXQW5F": pem}',
            )
        self.keys: Mapping[str, PublicKey] = MappingProxyType(
            {id_: key if isinstance(key, PublicKey) else load_public_key(key) for id_, key in keys.items()}
        )
        self.groups: Mapping[str, str] = MappingProxyType(dict(groups or {}))
        self._urls: TwoGenerationCache[Grant] = TwoGenerationCache(entries, size, _grant_bytes, budget)
        self._cookies: TwoGenerationCache[Grant] = TwoGenerationCache(
            entries, size // 2, _grant_bytes, budget
        )
        self._policies: TwoGenerationCache[tuple[str | Statement, int]] = TwoGenerationCache(
            entries, size // 2, _policy_bytes, budget
        )

    @property
    def remembered(self) -> int:
        """The number of cached credentials: signed URLs and Cookie headers."""
        return len(self._urls) + len(self._cookies)

    def __repr__(self) -> str:
        return f"<KeyRing {' '.join(self.keys) or 'without keys'}>"


def verify(
    scheme: str, host: str, target: str, cookie_header: str, keyring: KeyRing, client_ip: str, now: float
) -> Grant:
    """Return what the viewer is granted by the credentials in its URL or, without any there, in its cookies.

    `scheme` is the viewer's, "http" or "https". `host` is the Host header as sent. `target` is the raw origin-form
    request target as latin-1 text (path and query). `cookie_header` is the raw Cookie headers joined by "; ", or "".
    `client_ip` is the viewer's address as text. `now` is in epoch seconds.

    :raises Denied: with the first reason in the order above. No input from a viewer raises anything else.
    """
    own: str | None = None
    if "?" in target:
        # Look up the whole URL first: if this exact URL was verified before, nothing needs to be parsed. If host and
        # path could be confused with each other, the text has two readings and is not looked up.
        url = f"{scheme}://{host}{target}" if target[0] == "/" and "/" not in host else ""
        grant = keyring._urls.get(url)
        if grant is not None:
            if now >= grant.expires or not grant.simple:
                grant.judge(client_ip, now)
            return grant
        path, _, query = target.partition("?")
        given, own = split_query(query)
        # §1.1: any of the five makes it a signed URL, even an incomplete one, and the cookies are ignored.
        if given:
            grant = _authenticate(given, "url", scheme, host, path, own, keyring)
            _judge(grant, scheme, host, path, own, client_ip, now)
            # `_judge` refuses what has two readings; the check here does not rely on it.
            if url:  # pragma: no branch
                keyring._urls.put(url, grant._for(own))
            return grant
    else:
        path = target
    grant = keyring._cookies.get(cookie_header)
    # A canned cookie grants one URL. For any other, the signature must be checked again, and will not fit.
    if grant is not None and (not grant.canned or grant._covers(scheme, host, path, own)):
        _judge(grant, scheme, host, path, own, client_ip, now)
        return grant._for(own) if own else grant
    grant = _authenticate(signing_cookies(cookie_header), "cookies", scheme, host, path, own, keyring)
    _judge(grant, scheme, host, path, own, client_ip, now)
    keyring._cookies.put(cookie_header, grant._for(None))
    return grant


def _judge(
    grant: Grant, scheme: str, host: str, path: str, own: str | None, client_ip: str, now: float
) -> None:
    """Evaluate steps 6 to 8. A canned policy's signature has already proved its URL."""
    if not grant.canned and not grant._covers(scheme, host, path, own):
        raise grant._elsewhere()
    if now >= grant.expires or not grant.simple:
        grant.judge(client_ip, now)


def _authenticate(
    given: Mapping[str, str],
    mode: Mode,
    scheme: str,
    host: str,
    path: str,
    own: str | None,
    keyring: KeyRing,
) -> Grant:
    """Evaluate steps 1 to 5. `given` maps the parameter names to the values of the signing parameters or cookies."""
    # 1, 2
    key_id = given.get("Key-Pair-Id")
    if not key_id:
        raise Denied(Denial.MISSING_KEY_PAIR_ID, "no Key-Pair-Id is given")
    key = keyring.keys.get(key_id)
    if key is None:
        raise Denied(Denial.UNKNOWN_KEY, "no key of that id is trusted here", key_id[:128])

    # 3. Policy and Expires are never mixed: if both are present, Policy counts (§1.1).
    signature = given.get("Signature", "")
    hash_name = given.get("Hash-Algorithm", "SHA1")
    policy = given.get("Policy")
    scopes: list[tuple[str | Statement, bytes]]
    name: Key | None
    if policy is not None:
        name = (key_id, hash_name, policy, signature)
        if (known := keyring._policies.get(name)) is not None:
            return Grant(key_id, cast("HashName", hash_name), mode, *known, own or "", True)
        try:
            data = cf_b64decode(policy)
            statement = parse_policy(data)
        except PolicyError as error:
            raise Denied(Denial.MALFORMED_POLICY, str(error), key_id) from None
        except ValueError:
            raise Denied(Denial.MALFORMED_POLICY, "Policy is not CloudFront base64", key_id) from None
        expires = statement.expires
        scopes = [(statement, data)]
    else:
        text = given.get("Expires", "")
        if not text:
            raise Denied(Denial.MISSING_POLICY, "neither Policy nor Expires is given", key_id)
        try:
            expires = canned_expires(text)
        except PolicyError as error:
            raise Denied(Denial.MALFORMED_POLICY, str(error), key_id) from None
        resources = _canned_resources(scheme, host, path, own)
        if not resources:
            raise Denied(Denial.WRONG_RESOURCE, "the request names no URL", key_id)
        try:
            scopes = [(resource, canned_policy(resource, text)) for resource in resources]
        except UnicodeEncodeError:
            raise Denied(Denial.WRONG_RESOURCE, "the request is not latin-1 text", key_id) from None
        # A URL with a canned policy is cached whole; its policy is worth looking up only if cookies carry it.
        name = (key_id, hash_name, scopes[0][1], signature) if mode == "cookies" else None
        if name is not None and (known := keyring._policies.get(name)) is not None:
            return Grant(key_id, cast("HashName", hash_name), mode, *known, own or "", True)

    # 4
    if not signature:
        raise Denied(Denial.MISSING_SIGNATURE, "no Signature is given", key_id)
    try:
        signed = cf_b64decode(signature)
    except ValueError:
        raise Denied(Denial.MALFORMED_SIGNATURE, "Signature is not CloudFront base64", key_id) from None

    # 5
    if hash_name not in _HASH_NAMES:
        raise Denied(Denial.UNSUPPORTED_HASH, "Hash-Algorithm is neither SHA1 nor SHA256", key_id)
    for scope, data in scopes:
        if key.verify(data, signed, cast("HashName", hash_name)):
            if name is not None:
                keyring._policies.put(name, (scope, expires))
            return Grant(key_id, cast("HashName", hash_name), mode, scope, expires, own or "", False)
    raise Denied(Denial.SIGNATURE_MISMATCH, f"the signature is not {key_id}'s over this policy", key_id)


# ------------------------------------------------------------------------------------------------------------
# Parsing a request


def split_query(query: str) -> tuple[dict[str, str], str | None]:
    """Split a raw query into its signing parameters and the rest, the request's own query.

    Of a repeated parameter, the first counts; all are removed. Values are percent-decoded once, and `+` stays `+`
    (§1.1: the base64 in them contains neither `%` nor space). The rest keeps its order and encoding, including empty
    parameters; it is None if no parameter is left at all.
    """
    given: dict[str, str] = {}
    if _RESERVED.search(query) is None:
        return given, query
    own = []
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if name in SIGNING_PARAMETERS:
            if name not in given:
                given[name] = _unquoted(value) if "%" in value else value
        else:
            own.append(parameter)
    return given, "&".join(own) if own else None


def _unquoted(value: str) -> str:
    return unquote_to_bytes(value.encode("latin-1", "replace")).decode("latin-1")


def signing_cookies(header: str) -> dict[str, str]:
    """Return the values of the signing cookies in a Cookie header, by parameter name (without `CloudFront-`).

    Cookies are split at `;` and taken raw: names are case-sensitive (§2), and quotes and percent signs are part of a
    value. Of a repeated cookie, the first counts: the one that a browser sends for the longest Path.
    """
    given: dict[str, str] = {}
    if "CloudFront-" in header:
        for cookie in header.split(";"):
            name, _, value = cookie.partition("=")
            name = name.strip(" \t")
            if name in SIGNING_COOKIES:
                given.setdefault(name[11:], value.strip(" \t"))
    return given


def is_url(host: str, path: str) -> bool:
    """Whether host and path are valid as their sections of a URL, so that neither can be confused with the other."""
    return path.startswith("/") and host != "" and "/" not in host and "?" not in host


def _canned_resources(scheme: str, host: str, path: str, own: str | None) -> tuple[str, ...]:
    """Return the Resources that a canned policy for this request may have been signed with (§1.2); empty if the request
    does not form a URL.

    The `?` is removed with the last parameter. But if an empty parameter is left (`/a?&Expires=…`, which is what
    botocore makes of `/a?`), either URL may have been signed.
    """
    if not is_url(host, path):
        return ()
    bare = f"{scheme}://{plain_host(scheme, host)}{path}"
    if own:
        return (f"{bare}?{own}",)
    return (bare,) if own is None else (f"{bare}?", bare)
