"""The signer of URLs and cookies (cloudfront-semantics §1, §2, §8).

    from keyfront import load_signer, sign_url, sign_cookies

    signer = load_signer("K2JCJMDEHXQW5F", Path("private_key.pem"))       # once
    url = sign_url("https://d111111abcdef8.cloudfront.net/a b.jpg", signer, expires=timedelta(hours=1))
    cookies = sign_cookies("https://d111111abcdef8.cloudfront.net/films/*", signer,
    expires=timedelta(hours=6))

What is signed is what will be sent: URLs are first written as clients write them on the request line (`raw_url.py`), so
the result works unchanged in a browser, in curl, and in every HTTP library.

The clock is read only here, and only if `now` is not given.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, Protocol

from keyfront.errors import ExpiredWarning, NoSuchKey, PolicyError, SigningError
from keyfront.signing import cookie_scope, raw_url
from keyfront.signing.diagnosis.values import key_id_mistake
from keyfront.signing.key_files import load_private_key
from keyfront.signing.keys import HashName, PrivateKey, PublicKey, cf_b64encode
from keyfront.signing.policy import (
    Moment,
    Policy,
    Statement,
    canned_policy,
    check_resource,
    epoch_of,
    parse_policy,
)
from keyfront.signing.resource import is_bucket_host, plain_host


class Signer(Protocol):
    """Anything that can sign with a private key that CloudFront trusts: a key in memory, a KMS, an HSM.

    `key_pair_id` is CloudFront's ID for the public key. `sign` returns the signature over `data`: RSASSA-PKCS1-v1_5 for
    RSA, ASN.1 DER for ECDSA. It hashes `data` itself, and raises SigningError for a hash that it cannot use.

    These members are required. A signer may also have the following, which are used if present:

    - `hash_names`, a tuple of the hashes that it can use (KMS and many HSMs refuse SHA-1); without it, both;
    - `hash_name`, the default hash;
    - `max_lifetime` in seconds: a policy that is valid for longer is not signed;
    - `pinned()`, if the key may change at any time: it returns a Signer for one signature, whose `key_pair_id` and
      `public_key`, read after `sign`, are those of the key that signed. If `sign` raises NoSuchKey, the key has been
      removed since, and `pinned()` is called once more.
    """

    @property
    def key_pair_id(self) -> str: ...

    @property
    def public_key(self) -> PublicKey: ...

    def sign(self, data: bytes, hash_name: HashName) -> bytes: ...


class LocalSigner:
    """A Signer whose private key is in this process's memory. Use one for any number of signatures, from any thread."""

    __slots__ = ("_key", "key_pair_id", "public_key")

    def __init__(self, key_pair_id: str, key: PrivateKey) -> None:
        """:raises SigningError: if `key_pair_id` is not a valid ID, or `key` is not a PrivateKey."""
        if not isinstance(key, PrivateKey):
            raise SigningError(
                f"a LocalSigner takes the key's id and a PrivateKey, not a {type(key).__name__}: use "
                "load_signer(id, key) for a key's text, bytes or path"
            )
        self.key_pair_id = checked_id(key_pair_id)
        self.public_key = key.public_key
        self._key = key

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        return self._key.sign(data, hash_name)

    def __repr__(self) -> str:
        return f"<LocalSigner {self.key_pair_id} {self.public_key.algorithm}>"


def load_signer(
    key_pair_id: str, source: bytes | str | os.PathLike[str], passphrase: bytes | str | None = None
) -> LocalSigner:
    """Return a signer for a private key's text or file; see `load_private_key` for the forms of `source`.

    :raises KeyLoadError: if the key cannot be read.
    """
    return LocalSigner(key_pair_id, load_private_key(source, passphrase))


def sign_url(  # noqa: PLR0913 - public API of the SDK: one URL, one signer, and options by keyword
    url: str,
    signer: Signer,
    *,
    expires: Moment | None = None,
    starts: Moment | None = None,
    ip: str | None = None,
    resource: str | None = None,
    policy: Policy | str | bytes | None = None,
    hash_name: HashName | None = None,
    as_is: bool = False,
    now: float | None = None,
) -> str:
    """Return `url` with the parameters that CloudFront or Keyfront needs to serve it.

    With `expires` alone the policy is canned: this one URL, until then. With `starts`, `ip` or `resource` (a pattern,
    so that the same signature serves other URLs) it is custom. A complete `policy` may be given
    instead; as text or bytes, it is signed unchanged.

    `hash_name` is SHA256 for ECDSA keys and SHA1 for RSA keys unless given, or unless the signer has another
    default or only the other. `as_is` signs the URL untouched, for clients that send exactly what they are
    given; otherwise it is written as all clients send it. `now` is epoch seconds, the clock's if not given.

    A signature that has already expired is made nevertheless, with an ExpiredWarning.

    :raises PolicyError: if the policy is invalid, does not cover the URL, or ends later than the signer's
        `max_lifetime` after `now`.
    :raises SigningError: if the URL cannot be sent as it is, already has signing parameters, or is a bucket's, or if
        the signer cannot sign.
    :raises CustodyError: if the signer's key is elsewhere and not available (`CustodyUnavailable`: a retry may help).
    """
    if not isinstance(url, str):
        raise SigningError(f"a URL is text, not a {type(url).__name__}: sign one at a time, as str(url)")
    target = raw_url.as_is(url) if as_is else raw_url.as_sent(url)
    raw_url.refuse_signed(target)
    _refuse_bucket(target.host)
    if policy is not None:
        if not (expires is None and starts is None and ip is None and resource is None):
            raise PolicyError("give either a policy, or what to make one of: expires, starts, ip, resource")
        terms = _custom(policy, now)
    elif expires is None:
        raise PolicyError("give expires (an aware datetime, a timedelta or epoch seconds), or a policy")
    elif starts is None and ip is None and resource is None:
        if _means_wildcard(target) and not as_is:
            raise PolicyError(_NO_WILDCARD.format("The policy made of expires alone"))
        terms = _canned(target, expires, now)
    else:
        if resource is None and target.query and not as_is and not _means_wildcard(target):
            # In a pattern a * would be a wildcard; to every server %2A is the same character.
            target.query = target.query.replace("*", "%2A")
        if resource is None and "*" in str(target):
            raise PolicyError(_NO_WILDCARD.format("The URL to be signed"))
        made = Policy(resource or str(target), expires, starts=starts, ip=ip, as_is=as_is)
        terms = _custom(made, now)
    if terms.statement is not None and not _covers(terms.statement, target):
        raise PolicyError(f"the policy's Resource {terms.statement.resource} does not grant {target}")
    _warn_if_over(terms, now)
    return target.with_parameters(
        "&".join(f"{name}={value}" for name, value in _signed(terms, signer, hash_name, now).items())
    )


_NO_WILDCARD = (
    "{} grants one URL, letter by letter: a * in it is not a wildcard. To grant many URLs pass resource= with "
    "the pattern; if the URL really holds a *, write it %2A"
)


def _means_wildcard(target: raw_url.RawUrl) -> bool:
    """Whether a * in a URL was probably meant as a wildcard: any in the path, or one that is the whole query or its
    last parameter. Others in a query are literal, such as filename*=UTF-8''…"""
    return "*" in target.host or "*" in target.path or (target.query or "").rpartition("&")[2] == "*"


def _refuse_bucket(host: str) -> None:
    """:raises SigningError: for the host of a bucket, which no viewer requests for content that CloudFront protects."""
    if is_bucket_host(host):
        raise SigningError(
            f"{host} is the host of a bucket, the origin behind the distribution: sign the URL that viewers use, of "
            "the distribution's domain name or one of its aliases"
        )


def _warn_if_over(terms: _Terms, now: float | None) -> None:
    if terms.expires <= (time.time() if now is None else now):
        warnings.warn(
            f"this has expired already (at epoch second {terms.expires}): every request with it is refused",
            ExpiredWarning,
            stacklevel=3,
        )


class SignedCookies:
    """Signed cookies, to be set as they are.

    `values` maps cookie names to values, in CloudFront's order; `attributes` are the keyword arguments that
    Starlette's, Flask's and Django's `response.set_cookie(name, value, **attributes)` take; `set_cookie`
    are ready values of Set-Cookie headers, one a cookie; `header` is the Cookie header that a browser will
    send.
    """

    __slots__ = ("attributes", "set_cookie", "values")

    def __init__(self, values: Mapping[str, str], attributes: Mapping[str, str | bool | int]) -> None:
        self.values: Mapping[str, str] = MappingProxyType(dict(values))
        self.attributes: Mapping[str, str | bool | int] = MappingProxyType(dict(attributes))
        tail = "".join(
            f"; {_ATTRIBUTES[name]}" + ("" if value is True else f"={value}")
            for name, value in attributes.items()
            if value or name == "max_age"
        )
        self.set_cookie = tuple(f"{name}={value}{tail}" for name, value in values.items())

    @property
    def header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.values.items())

    def __repr__(self) -> str:
        return f"<SignedCookies {', '.join(self.values)}>"


_ATTRIBUTES = {
    "domain": "Domain",
    "path": "Path",
    "secure": "Secure",
    "httponly": "HttpOnly",
    "samesite": "SameSite",
    "partitioned": "Partitioned",
    "max_age": "Max-Age",
    "expires": "Expires",
}


def sign_cookies(  # noqa: PLR0913 - public API of the SDK: as `sign_url`, and the attributes of the cookies
    resource: str | Policy | bytes,
    signer: Signer,
    *,
    expires: Moment | None = None,
    starts: Moment | None = None,
    ip: str | None = None,
    canned: bool = False,
    hash_name: HashName | None = None,
    domain: str | None = None,
    path: str = "/",
    secure: bool = True,
    http_only: bool = True,
    same_site: Literal["Lax", "Strict", "None"] | None = None,
    partitioned: bool = False,
    now: float | None = None,
) -> SignedCookies:
    """Return cookies that grant the URLs of `resource`: a pattern (with `expires`, and perhaps `starts` and `ip`), a
    Policy, or a policy's own bytes. With `canned`, `resource` is one URL and the cookies grant nothing else.

    The cookies are session cookies without Max-Age, as CloudFront's guide advises: what counts is the
    policy's date. `domain` must cover the distribution's host name; for cookies set by `www.example.com`
    and sent to `cdn.example.com` it is `example.com`. `hash_name` and `now` are as for `sign_url`.

    Attributes with which no browser would send the cookies to any URL of `resource` are refused: a `domain` or `path`
    that covers none of them, or Secure cookies for a resource that is http only (for hosts other than localhost).

    :raises PolicyError: if the policy is invalid, or ends later than the signer's `max_lifetime` after `now`.
    :raises SigningError: if the attributes contradict each other, or the signer cannot sign.
    :raises CustodyError: as for `sign_url`.
    """
    given: object = resource
    if not isinstance(given, str | Policy | bytes):
        check_resource(given)
        raise PolicyError(f"a resource is a URL's text, a Policy or bytes, not a {type(given).__name__}")
    if isinstance(resource, str):
        if expires is None:
            raise PolicyError("give expires (an aware datetime, a timedelta or epoch seconds)")
        if not canned:
            terms = _custom(Policy(resource, expires, starts=starts, ip=ip), now)
        elif starts is None and ip is None:
            target = raw_url.as_sent(resource)
            if _means_wildcard(target):
                raise PolicyError(_NO_WILDCARD.format("A canned policy"))
            terms = _canned(target, expires, now)
        else:
            raise PolicyError("a canned policy has no starts and no ip")
    elif canned or not (expires is None and starts is None and ip is None):
        raise PolicyError("a policy states what it grants: omit expires, starts, ip and canned")
    else:
        terms = _custom(resource, now)
    attributes = _cookie_attributes(domain, path, secure, http_only, same_site, partitioned)
    cookie_scope.refuse_useless(terms.resource, domain, path, secure)
    signed = _signed(terms, signer, hash_name, now)
    _warn_if_over(terms, now)
    return SignedCookies({f"CloudFront-{name}": value for name, value in signed.items()}, attributes)


def expired_cookies(
    *,
    domain: str | None = None,
    path: str = "/",
    secure: bool = True,
    http_only: bool = True,
    same_site: Literal["Lax", "Strict", "None"] | None = None,
    partitioned: bool = False,
) -> SignedCookies:
    """Return cookies that delete signed cookies from a browser, at logout: all five of CloudFront's, empty and expired.

    Pass the same attributes as to `sign_cookies`: a browser deletes only the cookie of the same name, domain, and path,
    and accepts `SameSite=None` and `Partitioned` only on Secure ones. A copy that someone else has stays valid until
    its policy expires.

        for line in expired_cookies(domain="example.com").set_cookie:
            response.headers.append("Set-Cookie", line)

    :raises SigningError: as `sign_cookies`, if the attributes contradict each other.
    """
    attributes: dict[str, str | bool | int] = {
        **_cookie_attributes(domain, path, secure, http_only, same_site, partitioned),
        "max_age": 0,
        "expires": "Thu, 01 Jan 1970 00:00:00 GMT",
    }
    return SignedCookies(dict.fromkeys(_COOKIES, ""), attributes)


_COOKIES = tuple(
    f"CloudFront-{name}" for name in ("Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm")
)


def _cookie_attributes(
    domain: str | None, path: str, secure: bool, http_only: bool, same_site: str | None, partitioned: bool
) -> dict[str, str | bool]:
    if domain is not None:
        cookie_scope.check_domain(domain)
    cookie_scope.check_path(path)
    if not secure and (same_site == "None" or partitioned):
        raise SigningError("browsers take SameSite=None and Partitioned only from Secure cookies")
    if same_site not in (None, "Lax", "Strict", "None"):
        raise SigningError(f"SameSite is Lax, Strict or None, not {same_site!r}")
    attributes: dict[str, str | bool] = {"domain": domain} if domain else {}
    attributes |= {"path": path, "secure": secure, "httponly": http_only}
    if same_site:
        attributes["samesite"] = same_site
    if partitioned:
        attributes["partitioned"] = True
    return attributes


# ------------------------------------------------------------------------------------------------------------


class _Terms:
    """What to sign: the parameter that carries it (Expires or Policy), its value, the signed bytes, the second at which
    it expires, the URL or pattern that it grants (None: every URL), and for a custom policy its statement."""

    __slots__ = ("data", "expires", "name", "resource", "statement", "value")

    def __init__(
        self,
        name: str,
        value: str,
        data: bytes,
        expires: int,
        resource: str | None,
        statement: Statement | None = None,
    ) -> None:
        self.name = name
        self.resource = resource
        self.value = value
        self.data = data
        self.expires = expires
        self.statement = statement


def _canned(target: raw_url.RawUrl, expires: Moment, now: float | None) -> _Terms:
    end = epoch_of(expires, time.time() if now is None else now)
    text = str(end)
    _refuse_bucket(target.host)
    return _Terms("Expires", text, canned_policy(str(target), text), end, str(target))


def _custom(policy: Policy | str | bytes, now: float | None) -> _Terms:
    if isinstance(policy, Policy):
        data = policy.to_bytes(time.time() if now is None else now)
    else:
        data = policy.encode("utf-8") if isinstance(policy, str) else policy
    statement = parse_policy(data)
    if statement.resource is not None:
        _refuse_bucket(statement.resource.partition("://")[2].partition("/")[0])
    return _Terms("Policy", cf_b64encode(data), data, statement.expires, statement.resource, statement)


def _covers(statement: Statement, target: raw_url.RawUrl) -> bool:
    scheme = target.scheme.lower()
    return statement.pattern is None or statement.pattern.matches(
        scheme, plain_host(scheme, target.host.lower()), target.path, target.query or ""
    )


def _signed(terms: _Terms, signer: Signer, hash_name: HashName | None, now: float | None) -> dict[str, str]:
    """Return the signing parameters, made by one key."""
    pinned: Callable[[], Signer] | None = getattr(signer, "pinned", None)
    if pinned is None:
        return _signed_by(terms, signer, hash_name, now)
    try:
        return _signed_by(terms, pinned(), hash_name, now)
    except NoSuchKey:  # gone since it was pinned: there may be another key now
        return _signed_by(terms, pinned(), hash_name, now)


def _signed_by(
    terms: _Terms, signer: Signer, hash_name: HashName | None, now: float | None
) -> dict[str, str]:
    """Return the signing parameters, in botocore's order; SHA1 is omitted (§3.2)."""
    longest: float | None = getattr(signer, "max_lifetime", None)
    if longest is not None:
        lifetime = terms.expires - (time.time() if now is None else now)
        if lifetime > longest:
            raise PolicyError(
                f"this would be valid for {lifetime:.0f} seconds, and what is signed with this key may be for "
                f"{longest:.0f} at most: that is how long the key is sure to be trusted when its successor signs"
            )
    hash_name = hash_for(signer, hash_name)
    signature = signer.sign(terms.data, hash_name)
    # Common mistakes of remote signers: the wrong key, or r‖s instead of DER.
    if signer.public_key.algorithm == "RSA-2048":
        fits = len(signature) == 256
    else:
        fits = signature[:1] == b"\x30" and 8 <= len(signature) <= 72
    if not fits:
        raise SigningError(
            f"the signer did not return a {signer.public_key.algorithm} signature as CloudFront takes it "
            "(RSA: 256 bytes; ECDSA: ASN.1 DER)"
        )
    parameters = {
        terms.name: terms.value,
        "Signature": cf_b64encode(signature),
        "Key-Pair-Id": checked_id(signer.key_pair_id),
    }
    if hash_name != "SHA1":
        parameters["Hash-Algorithm"] = hash_name
    return parameters


def hash_for(signer: Signer, hash_name: HashName | None) -> HashName:
    """Return the hash that `signer` uses if `hash_name` is requested, or if none is.

    :raises SigningError: if it cannot use that hash.
    """
    able: tuple[HashName, ...] = getattr(signer, "hash_names", ("SHA1", "SHA256"))
    if hash_name is not None:
        if hash_name not in ("SHA1", "SHA256"):
            raise SigningError(f"the hash is SHA1 or SHA256, not {hash_name!r}")
        if hash_name not in able:
            raise SigningError(f"this signer cannot sign with {hash_name}, only with {' or '.join(able)}")
        return hash_name
    usual: HashName | None = getattr(signer, "hash_name", None)
    if usual is None:
        usual = "SHA1" if signer.public_key.algorithm == "RSA-2048" else "SHA256"
    return usual if usual in able else able[0]


def checked_id(key_pair_id: str) -> str:
    """:raises SigningError: if `key_pair_id` cannot be the ID of a public key: empty, the word `undefined` or `None`, a
    key group's ID (a UUID), an AWS access key ID, a distribution's ID, an ARN, a key, or text with spaces."""
    text = key_pair_id if isinstance(key_pair_id, str) else str(key_pair_id)
    mistake = key_id_mistake(text)
    if mistake is not None or not all(char.isascii() and (char.isalnum() or char in "-_") for char in text):
        why = f": {mistake.text.rstrip('.')}" if mistake is not None else ""
        # A value that may be a key is not shown.
        shown = "this" if mistake is not None and mistake.code == "key_id_is_a_key" else repr(text[:40])
        raise SigningError(
            f"{shown} is not a key pair id{why}. It is the Id of the public key in CloudFront, such as "
            "K2JCJMDEHXQW5F"
        )
    return text


# ------------------------------------------------------------------------------------------------------------


class CloudFrontSigner:
    """botocore's CloudFrontSigner, so that code which uses it can switch by changing one import. The results are
    identical to the byte, and so is the behavior (§8.1): the URL is signed unchanged, a datetime without a time zone
    means UTC, and there is no Hash-Algorithm. New code should use `sign_url`."""

    def __init__(self, key_id: str, rsa_signer: Callable[[bytes], bytes]) -> None:
        """`rsa_signer` takes the policy's bytes and returns their RSA-SHA1 signature."""
        self.key_id = key_id
        self.rsa_signer = rsa_signer

    def generate_presigned_url(
        self, url: str, date_less_than: datetime | None = None, policy: str | bytes | None = None
    ) -> str:
        """Return `url`, signed with a canned policy until `date_less_than`, or with the custom `policy` unchanged.

        :raises ValueError: unless exactly one of the two is given.
        """
        if (date_less_than is None) == (policy is None):
            raise ValueError("Need to provide either date_less_than or policy, but not both")
        if date_less_than is not None:
            data = self.build_policy(url, date_less_than).encode("utf-8")
            carrier = f"Expires={_utc_epoch(date_less_than)}"
        else:
            data = policy.encode("utf-8") if isinstance(policy, str) else policy or b""
            carrier = f"Policy={cf_b64encode(data)}"
        signature = cf_b64encode(self.rsa_signer(data))
        separator = "&" if "?" in url else "?"
        return f"{url}{separator}{carrier}&Signature={signature}&Key-Pair-Id={self.key_id}"

    def build_policy(
        self,
        resource: str,
        date_less_than: datetime,
        date_greater_than: datetime | None = None,
        ip_address: str | None = None,
    ) -> str:
        """Return a custom policy as compact JSON; an address without a mask gets `/32`."""
        condition: dict[str, object] = {"DateLessThan": {"AWS:EpochTime": _utc_epoch(date_less_than)}}
        if ip_address:
            condition["IpAddress"] = {"AWS:SourceIp": ip_address if "/" in ip_address else f"{ip_address}/32"}
        if date_greater_than:
            condition["DateGreaterThan"] = {"AWS:EpochTime": _utc_epoch(date_greater_than)}
        statement = {"Resource": resource, "Condition": condition}
        return json.dumps({"Statement": [statement]}, separators=(",", ":"))


def _utc_epoch(moment: datetime) -> int:
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
