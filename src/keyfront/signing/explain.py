"""Why a request was refused, or would be: every check of the gate as a line, and the likely cause.

`verify` stops at the first reason; `explain` looks at everything, also at what `verify` never needs: keys
known to the installation but not trusted here, the URL in the spellings that signers are known to get
wrong, the other hash. It takes its verdict from `verify` itself, and like it has no clock.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from keyfront.errors import Denial, Denied, PolicyError
from keyfront.signing import variants
from keyfront.signing.keys import HashName, PublicKey, cf_b64decode, digest
from keyfront.signing.policy import (
    MAX_EPOCH,
    Statement,
    canned_expires,
    canned_policy,
    ipv4,
    parse_policy,
)
from keyfront.signing.raw_url import SIGNING_PARAMETERS, split_url
from keyfront.signing.resource import plain_host
from keyfront.signing.verify import KeyRing, is_url, signing_cookies, split_query, verify

# How far a clock may be off before "wrong clock" is no longer the first thing to think of, in seconds.
_SKEW = 300
# The guesses tried with a key of a kind that has to verify each one anew (about 0.1 ms each).
_ECDSA_GUESSES = 600


class Check(msgspec.Struct, frozen=True):
    """One check. `passed` is None if it could not be made, because of what failed before it. `expected` and
    `seen` are the same thing in two versions, to be read side by side; `hint` says what to do."""

    name: str
    passed: bool | None
    expected: str = ""
    seen: str = ""
    hint: str = ""


class Report(msgspec.Struct, frozen=True):
    """What became of a request. `denial` is the reason's name ("" if granted), `code` and `message` what
    CloudFront answers, `cause` the likely cause in a sentence or two ("" if granted). `mode` is "url",
    "cookies" or "none"."""

    granted: bool
    denial: str
    code: str
    message: str
    cause: str
    url: str
    mode: str
    checks: tuple[Check, ...]

    def to_json(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()


def explain_url(
    url: str,
    *,
    keyring: KeyRing,
    now: float,
    cookie_header: str = "",
    client_ip: str = "",
    known_keys: Mapping[str, PublicKey] | None = None,
    other_hosts: Iterable[str] = (),
) -> Report:
    """`explain` for a URL as one has it at hand: what a browser would encode of it is encoded, a fragment
    is cut off.

    :raises SigningError: if it is no http or https URL.
    """
    parts = split_url(url.strip())
    target = re.sub("[^!-~]+", lambda match: quote(match[0], safe="", errors="replace"), parts.target)
    return explain(
        parts.scheme.lower(),
        parts.host.lower(),
        target,
        cookie_header=cookie_header,
        keyring=keyring,
        client_ip=client_ip,
        now=now,
        known_keys=known_keys,
        other_hosts=other_hosts,
    )


def explain(
    scheme: str,
    host: str,
    target: str,
    *,
    keyring: KeyRing,
    now: float,
    cookie_header: str = "",
    client_ip: str = "",
    known_keys: Mapping[str, PublicKey] | None = None,
    other_hosts: Iterable[str] = (),
) -> Report:
    """Judge a request as `verify` does, and say why.

    The first five arguments are `verify`'s; `client_ip` may be "" if it is not known, and then an IpAddress
    condition is left open. `known_keys` are all keys of the installation by id, `other_hosts` the other
    names of the same distribution: a signature that fits one of those names the mistake.
    """
    return _Explanation(
        scheme, host, target, cookie_header, keyring, client_ip, now, known_keys or {}, tuple(other_hosts)
    ).report()


class _Explanation:
    """One request under examination. Each check adds its line and leaves what the later ones need; none
    relies on an earlier one having passed."""

    def __init__(
        self,
        scheme: str,
        host: str,
        target: str,
        cookie_header: str,
        keyring: KeyRing,
        client_ip: str,
        now: float,
        known_keys: Mapping[str, PublicKey],
        other_hosts: tuple[str, ...],
    ) -> None:
        self.scheme, self.host, self.target = scheme, _latin(host), _latin(target)
        self.cookie_header, self.keyring, self.client_ip, self.now = cookie_header, keyring, client_ip, now
        self.known_keys = {**known_keys, **keyring.keys}
        self.other_hosts = other_hosts
        self.path, mark, self.query = self.target.partition("?")
        self.own: str | None = None
        parameters: dict[str, str] = {}
        if mark:
            parameters, self.own = split_query(self.query)
        self.url = f"{scheme}://{self.host}{self.target}"
        # The URL without the signing parameters: what a canned policy names and a custom one has to grant.
        self.resource = f"{scheme}://{plain_host(scheme, self.host)}{self.path}"
        if self.own:
            self.resource += f"?{self.own}"
        self.cookies = signing_cookies(cookie_header)
        self.prefix = ""
        self.given: dict[str, str] = {}
        if parameters:
            self.mode, self.given = "url", parameters
        elif self.cookies:
            self.mode, self.given, self.prefix = "cookies", self.cookies, "CloudFront-"
        else:
            self.mode = "none"
        self.key_id = self.given.get("Key-Pair-Id", "")
        self.statement: Statement | None = None
        self.policy: bytes | None = None
        self.until: int | None = None
        self.signature: bytes | None = None
        self.checks: list[Check] = []
        self.causes: list[str] = []

    def report(self) -> Report:
        self._credentials()
        self._trusted_key()
        self._policy()
        self._signature()
        self._hash()
        self._fit()
        self._covers()
        self._starts()
        self._expires()
        self._address()
        denial: Denial | None = None
        ring = KeyRing(self.keyring.keys, entries=1)
        # Where the viewer's address is not known, an IpAddress condition is taken to be met.
        address = self.client_ip or self._allowed_address()
        try:
            verify(self.scheme, self.host, self.target, self.cookie_header, ring, address, self.now)
        except Denied as denied:
            denial = denied.denial
        return Report(
            granted=denial is None,
            denial=denial.reason if denial else "",
            code=denial.code if denial else "",
            message=denial.message if denial else "",
            # Where the key is unknown, whose signature it is may be the better half of the answer.
            cause=" ".join(self.causes[: 2 if denial is Denial.UNKNOWN_KEY else 1]) if denial else "",
            url=self.url,
            mode=self.mode,
            checks=tuple(self.checks),
        )

    def _add(
        self,
        name: str,
        passed: bool | None,
        expected: str = "",
        seen: str = "",
        hint: str = "",
        cause: str = "",
    ) -> None:
        self.checks.append(Check(name, passed, expected, seen, hint))
        if passed is False:
            self.causes.append(cause or hint)

    # 1. What is there at all?

    def _credentials(self) -> None:
        names = [self.prefix + name for name in ("Expires or Policy", "Signature", "Key-Pair-Id")]
        expected = ", ".join(names)
        if self.mode == "none":
            hint = _absence_hint(self.query, self.cookie_header)
            self._add("credentials", False, f"{expected}, in the URL or as cookies", "none of them", hint)
            return
        hints: list[str] = []
        missing = [
            name for name, keys in zip(names, _NEEDED, strict=True) if not any(map(self.given.get, keys))
        ]
        cause = ""
        if missing:
            hints.append(f"Missing or empty: {', '.join(missing)}.")
            cause = hints[0]
        if self.mode == "url" and self.cookies:
            hints.append(
                "There are signed cookies too; any signing parameter in the URL makes them count for nothing."
            )
            cause = " ".join(hints)
        if "Policy" in self.given and "Expires" in self.given:
            hints.append("Both Policy and Expires are given: Policy counts, Expires is passed over.")
        repeated = self._repeated()
        if repeated:
            hints.append(f"Given more than once: {', '.join(repeated)}. The first counts.")
        seen = ", ".join(self.prefix + name for name in self.given)
        self._add("credentials", not missing, expected, seen, " ".join(hints), cause)

    def _repeated(self) -> list[str]:
        pieces = self.query.split("&") if self.mode == "url" else self.cookie_header.split(";")
        names = [piece.partition("=")[0].strip() for piece in pieces]
        return [self.prefix + name for name in self.given if names.count(self.prefix + name) > 1]

    # 2. Whose is it?

    def _trusted_key(self) -> None:
        expected = f"one of {', '.join(self.keyring.keys)}" if self.keyring.keys else "no key is trusted here"
        if not self.key_id:
            self._add("trusted key", None, expected)
            return
        passed = self.key_id in self.keyring.keys
        hint = "" if passed else self._key_hint()
        self._add("trusted key", passed, expected, self.key_id[:128], hint)

    def _key_hint(self) -> str:
        id_ = self.key_id
        if id_ in self.known_keys:
            return (
                f"{id_} is a known key, but it is in no key group that the cache behavior for this path trusts. "
                "Add it to such a group, or sign with a key that is."
            )
        if id_.strip().upper() in self.keyring.keys:
            return "The id is written otherwise: upper and lower case and blanks count."
        if id_ in ("undefined", "null", "None", ""):
            return f"The signer had no key id and sent the word {id_}."
        if "-----BEGIN" in id_ or len(id_) > 64:
            return "This is no id. Key-Pair-Id is the short Id of the public key (K…), not the key."
        if re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", id_):
            return "This is the id of a key group. Key-Pair-Id is the Id of the public key (K…)."
        if id_.startswith("APKA"):
            return "This is an account key pair of the older kind (trusted signers). Key groups hold keys with ids K…."
        return (
            "No key of this id is known here: a typing error, another account's key, or a key deleted since."
        )

    # 3. What does it say?

    def _policy(self) -> None:
        if "Policy" in self.given:
            self._custom_policy(self.given["Policy"])
        elif self.given.get("Expires"):
            self._canned_policy(self.given["Expires"])
        else:
            self._add("policy", None, "Expires (canned policy) or Policy (custom policy)")

    def _canned_policy(self, text: str) -> None:
        expected = "Expires in whole epoch seconds"
        try:
            self.until = canned_expires(text)
        except PolicyError as error:
            self._add("policy", False, expected, text[:64], _epoch_hint(text) or f"{error}.")
            return
        self._add("policy", True, expected, f"{text} ({_date(self.until)})")

    def _custom_policy(self, text: str) -> None:
        expected = _EXAMPLE
        try:
            self.policy = cf_b64decode(text)
        except ValueError:
            hint = _base64_hint(text, self.prefix + "Policy", self.mode)
            self._add("policy", False, expected, text[:200], hint)
            return
        seen = self.policy.decode("utf-8", "replace")[:4096]
        try:
            self.statement = parse_policy(self.policy)
        except PolicyError as error:
            self._add("policy", False, expected, seen, _policy_hint(self.policy, str(error)))
            return
        self.until = self.statement.expires
        self._add("policy", True, "one statement with DateLessThan", seen)

    # 4. Is there a signature?

    def _signature(self) -> None:
        text = self.given.get("Signature", "")
        key = self.known_keys.get(self.key_id)
        kind = key.algorithm if key else ""
        expected = {
            "RSA-2048": "256 bytes in CloudFront base64",
            "ECDSA-P256": "ASN.1 DER of 68 to 72 bytes in CloudFront base64",
        }.get(kind, "CloudFront base64")
        if not text:
            self._add("signature", None, expected)
            return
        try:
            self.signature = cf_b64decode(text)
        except ValueError:
            hint = _base64_hint(text, self.prefix + "Signature", self.mode)
            self._add("signature", False, expected, f"{text[:60]}…", hint)
            return
        # Its shape is told here, though only the next check refuses it.
        self._add(
            "signature", True, expected, f"{len(self.signature)} bytes", _shape_hint(self.signature, kind)
        )

    # 5. Does it fit?

    def _hash(self) -> None:
        text = self.given.get("Hash-Algorithm")
        expected = "SHA1, SHA256, or no Hash-Algorithm for SHA1"
        if text is None or text in ("SHA1", "SHA256"):
            passed = True if self.mode != "none" else None
            self._add("hash algorithm", passed, expected, text or ("none, so SHA1" if passed else ""))
        else:
            hint = "The value is exactly SHA1 or SHA256, without a dash and in upper case."
            self._add("hash algorithm", False, expected, text[:64], hint)

    def _fit(self) -> None:
        if self.signature is None or (self.policy is None and self.until is None):
            self._add("signature fits", None)
            return
        if self.policy is None:
            signed = canned_policy(self.resource, self.given["Expires"]).decode("latin-1")
            expected = f"made over {signed}"
        else:
            expected = "made over the policy as it was sent"
        declared = self.given.get("Hash-Algorithm", "SHA1")
        expected += f", with {declared[:16]} and {self.key_id[:64] or 'the key of Key-Pair-Id'}"
        guess = self._guess(self.signature, declared)
        if guess is None:
            maker, hint = self._misfit(self.signature)
            self._add("signature fits", False, expected, maker, hint)
            return
        mistakes, text, hash_name, key_id = guess
        found = [*mistakes]
        if hash_name != declared and "Hash-Algorithm" in self.given:
            found.append(f"it was signed with {hash_name}, but Hash-Algorithm says {declared[:16]}")
        elif hash_name != declared:
            found.append(f"it was signed with SHA-256, but {self.prefix}Hash-Algorithm=SHA256 is missing")
        if key_id != self.key_id:
            found.append(
                f"it was signed with the key {key_id}, but Key-Pair-Id says {self.key_id[:64] or 'nothing'}"
            )
        hint = " ".join(f"{mistake[:1].upper()}{mistake[1:]}." for mistake in found)
        seen = f"made over {text}, with {hash_name} and {key_id}" if found else "it is"
        self._add("signature fits", not found, expected, seen, hint)

    def _guess(self, signature: bytes, declared: str) -> tuple[tuple[str, ...], str, HashName, str] | None:
        """What was signed, with which hash and key: the fewest mistakes first, and the declared key and hash
        before others."""
        ids = sorted(self.known_keys, key=lambda id_: (id_ != self.key_id, id_ not in self.keyring.keys, id_))
        recovered = [(id_, *made) for id_ in ids if (made := self.known_keys[id_].recover(signature))]
        curves = [id_ for id_ in ids if self.known_keys[id_].algorithm == "ECDSA-P256"]
        hash_names: tuple[HashName, ...] = ("SHA256", "SHA1") if declared == "SHA256" else ("SHA1", "SHA256")
        left = 0 if recovered else _ECDSA_GUESSES
        for mistakes, data in self._texts():
            for id_, hash_name, signed in recovered:
                if digest(data, hash_name) == signed:
                    return mistakes, data.decode("latin-1"), hash_name, id_
            for id_, hash_name in itertools.product(curves, hash_names) if left > 0 else ():
                left -= 1
                if self.known_keys[id_].verify(data, signature, hash_name):
                    return mistakes, data.decode("latin-1"), hash_name, id_
            if not recovered and left <= 0:
                break
        return None

    def _texts(self) -> Iterator[tuple[tuple[str, ...], bytes]]:
        if self.policy is not None:
            for mistake, data in variants.custom(self.policy):
                yield (mistake,) if mistake else (), data
            return
        expires = self.given["Expires"]
        for mistakes, url in self._urls():
            # The text's own mistakes are tried with the right URL and with each single mistake in it.
            for mistake, text in variants.canned(url, expires) if len(mistakes) < 2 else ():
                yield mistakes + ((mistake,) if mistake else ()), text.encode("latin-1")
            if len(mistakes) == 2:
                yield mistakes, canned_policy(url, expires)

    def _urls(self) -> Iterator[tuple[tuple[str, ...], str]]:
        host = plain_host(self.scheme, self.host)
        return variants.urls(self.scheme, host, self.path, self.own, self.other_hosts)

    def _misfit(self, signature: bytes) -> tuple[str, str]:
        """What is known of a signature that fits nothing, and what to do."""
        what = "Policy" if self.policy is not None else "URL or the time in Expires"
        for id_, key in self.known_keys.items():
            if (made := key.recover(signature)) is not None:
                whose = id_ if id_ == self.key_id else f"{id_} (not {self.key_id[:64] or 'the key named'})"
                return (
                    f"made by {id_} with {made[0]}, over another text",
                    f"The signature is whole and was made by {whose}, but over another text: the {what} is not "
                    "what was signed. Compare the expected text with the signer's, letter by letter.",
                )
        named = self.known_keys.get(self.key_id)
        shape = _shape_hint(signature, named.algorithm if named else "")
        return "made by another key, or over another text", shape or (
            "No known key made this signature over any text that could be guessed: the signer's private key is not "
            f"that of {self.key_id[:64] or 'the key named'}, or the signature or the {what} was changed after signing."
        )

    # 6. Does it grant this URL?

    def _covers(self) -> None:
        possible = is_url(self.host, self.path)
        impossible = (
            "" if possible else "No URL has such a host or path: the path begins with /, the host has none."
        )
        if self.statement is None:
            # A canned policy's URL is part of what its signature proves.
            self._add(
                "resource", None if self.until is None else possible, self.resource, self.resource, impossible
            )
            return
        expected = self.statement.resource
        if expected is None:
            self._add(
                "resource", possible, "any URL, for the policy names no Resource", self.resource, impossible
            )
            return
        passed = possible and self._matches(self.resource)
        hint = "" if passed else impossible or self._resource_hint(expected)
        self._add("resource", passed, expected, self.resource, hint)

    def _matches(self, url: str) -> bool:
        pattern = self.statement.pattern if self.statement else None
        if pattern is None:
            return True
        scheme, _, rest = url.partition("://")
        before, _, query = rest.partition("?")
        host, slash, path = before.partition("/")
        return bool(slash) and pattern.matches(scheme, plain_host(scheme, host.lower()), slash + path, query)

    def _resource_hint(self, pattern: str) -> str:
        if self.own and self._matches(self.resource.partition("?")[0]) and "?" not in pattern:
            return (
                "The request has a query, and the policy grants none: only a * at the end of the Resource, or a query "
                "in it, does."
            )
        for mistakes, url in self._urls():
            if len(mistakes) == 1 and mistakes[0] != variants.WILDCARD and self._matches(url):
                return f"{mistakes[0][:1].upper()}{mistakes[0][1:]}."
        if "://" not in pattern and not pattern.startswith("*"):
            return "The Resource begins with neither http://, https:// nor *, so it matches no URL."
        return "The policy is for other URLs. A * stays within its part of the URL: protocol, host, path or query."

    # 7, 8. Does it hold now, and for this viewer?

    def _starts(self) -> None:
        if self.statement is None or self.statement.not_before is None:
            return
        start = self.statement.not_before
        passed = self.now > start
        hint = ""
        if not passed:
            hint = f"It begins to be good in {_span(start - self.now)}." + _clock_hint(start - self.now)
        self._add("not before", passed, f"after {_date(start)}", _date(self.now), hint)

    def _expires(self) -> None:
        if self.until is None:
            self._add("not expired", None, seen=_date(self.now))
            return
        passed = self.now < self.until
        hint = ""
        if not passed:
            hint = f"It expired {_span(self.now - self.until)} ago." + _clock_hint(self.now - self.until)
        self._add("not expired", passed, f"before {_date(self.until)}", _date(self.now), hint)

    def _address(self) -> None:
        network = self.statement.network if self.statement else None
        if network is None:
            return
        expected = f"{_dotted(network[0])} to {_dotted(network[1])}"
        if not self.client_ip:
            self._add("viewer's address", None, expected, "", "The viewer's address is not known here.")
            return
        address = ipv4(self.client_ip)
        passed = address is not None and network[0] <= address <= network[1]
        hint = ""
        if address is None:
            hint = "The viewer came by IPv6; IpAddress knows IPv4 only. Leave the condition out, or serve IPv4 only."
        elif not passed:
            hint = (
                "The edge sees another address than the signer did: a proxy or NAT stands between, or the viewer "
                "changed networks."
            )
        self._add("viewer's address", passed, expected, self.client_ip, hint)

    def _allowed_address(self) -> str:
        network = self.statement.network if self.statement else None
        return "" if network is None else _dotted(network[0])


def _latin(text: str) -> str:
    """Text as a request line has it: what is not latin-1 as the bytes of its UTF-8."""
    return text if all(char <= "\xff" for char in text) else text.encode("utf-8", "replace").decode("latin-1")


_NEEDED = (("Expires", "Policy"), ("Signature",), ("Key-Pair-Id",))

_EXAMPLE = '{"Statement":[{"Resource":"URL","Condition":{"DateLessThan":{"AWS:EpochTime":SECONDS}}}]}'


def _absence_hint(query: str, cookie_header: str) -> str:
    for piece in query.split("&"):
        name = piece.partition("=")[0]
        for right in SIGNING_PARAMETERS:
            if name != right and re.sub("[^a-z]", "", name.lower()) == right.lower().replace("-", ""):
                return f"The URL has a parameter {name}: its name must be {right}, letter by letter."
    if "cloudfront-" in cookie_header.lower():
        return (
            "There are cookies with names like CloudFront-…, but upper and lower case of their names count."
        )
    if "X-Amz-Signature" in query or "AWSAccessKeyId" in query:
        return "This URL is signed for S3, not for CloudFront."
    if cookie_header:
        return "There are cookies, but no CloudFront-… ones. The browser sends those only for their Domain and Path."
    return (
        "Neither the URL nor a cookie carries a signature. If cookies were set: their Domain must cover this host, "
        "their Path this path; Secure ones travel by https only; requests from scripts to another site need "
        "credentials: include and SameSite=None."
    )


def _base64_hint(text: str, name: str, mode: str) -> str:
    if text in ("undefined", "null", "None", "NaN", "[object Object]", "false"):
        return f"The signer had no {name} and sent the word {text}."
    if not text:
        return f"{name} is empty."
    if text[0] in "{[":
        return f"{name} is not base64 at all: it was sent as it is."
    if text[0] in "\"'":
        return f"{name} is in quotes: they count as part of the value."
    if "%" in text:
        return f"{name} is percent-encoded{' twice' if mode == 'url' else ''}: send it as it is."
    if any(char in text for char in "+/= "):
        return (
            f"{name} is in the standard base64 alphabet, or only half converted from it. CloudFront writes "
            "- for +, _ for = and ~ for /."
        )
    if "_" in text.rstrip("_"):
        return f"{name} is in the url-safe base64 of RFC 4648. CloudFront's is another: - for +, _ for = and ~ for /."
    if len(text) % 4:
        return f"{name} lacks its padding (_ for =), or was cut short: its length is no multiple of four."
    return f"{name} is damaged: it is not the base64 of anything."


def _policy_hint(policy: bytes, message: str) -> str:
    if policy[:3] == b"\xef\xbb\xbf":
        return "The policy begins with a byte order mark: save it as plain UTF-8."
    try:
        value = json.loads(policy)
    except (ValueError, RecursionError):
        try:
            twice = cf_b64decode(policy.decode("ascii"))
        except ValueError:
            twice = b""
        if twice[:1] == b"{":
            return "The policy was put into base64 twice."
        return "The policy is not JSON."
    statements = value.get("Statement") if isinstance(value, dict) else None
    if isinstance(statements, dict):
        return "Statement must be an array with one object in it: [{…}]."
    if isinstance(statements, list) and len(statements) > 1:
        return "CloudFront takes exactly one statement in a policy."
    if isinstance(statements, list) and statements and isinstance(statements[0], dict):
        statement = statements[0]
        condition = statement.get("Condition")
        if not isinstance(condition, dict) or "DateLessThan" not in condition:
            return "The policy has no DateLessThan condition; it is the one that every policy must have."
        if isinstance(statement.get("Resource"), list):
            return "Resource is one text, not a list."
        for name in ("DateLessThan", "DateGreaterThan"):
            moment = condition.get(name)
            epoch = moment.get("AWS:EpochTime") if isinstance(moment, dict) else None
            if isinstance(epoch, str):
                return f"The time in {name} is in quotes; it must be a bare number."
            if isinstance(epoch, float):
                return f"The time in {name} has a fraction; it must be whole seconds."
            if isinstance(epoch, int) and epoch > MAX_EPOCH:
                return _epoch_hint(str(epoch))
    return f"{message[:1].upper()}{message[1:]}."


def _epoch_hint(text: str) -> str:
    if text.isascii() and text.isdigit() and len(text) <= 20:
        for unit, scale in (("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)):
            if 10**9 <= int(text) // scale <= MAX_EPOCH // 2:
                return f"The time is in {unit}; CloudFront takes seconds: {int(text) // scale}."
        return "The time is beyond what CloudFront takes (the year 2262)."
    if re.fullmatch(r"\d+\.\d+", text):
        return "The time has a fraction; it must be whole seconds."
    return "The time must be digits only: seconds since 1970."


def _shape_hint(signature: bytes, algorithm: str) -> str:
    size = len(signature)
    if algorithm == "ECDSA-P256" and size == 64:
        return "It has the 64 bytes of a raw r and s pair; CloudFront takes ECDSA signatures as ASN.1 DER."
    if algorithm == "ECDSA-P256" and size in (128, 256, 512):
        return "It has the size of an RSA signature, but the key is an ECDSA key."
    if algorithm == "RSA-2048" and 64 <= size <= 72:
        return "It has the size of an ECDSA signature, but the key is an RSA key."
    if algorithm == "RSA-2048" and size != 256:
        return f"It has {size} bytes; an RSA key of 2048 bits makes 256 (another size of key, or cut short)."
    return ""


def _clock_hint(seconds: float) -> str:
    if seconds <= _SKEW:
        return " So little may be a clock that is wrong: compare those of the signer and of the edge."
    return ""


def _span(seconds: float) -> str:
    whole = int(min(seconds, 10**15))
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if whole >= 2 * size:
            return f"{whole} s ({whole / size:.1f} {name})"
    return f"{whole} s"


def _date(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"


def _dotted(address: int) -> str:
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))
