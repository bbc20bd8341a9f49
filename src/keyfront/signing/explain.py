"""The explanation of why a request was or would be refused: every signature check as a line, and the likely cause.

`verify` stops at the first reason. `explain` checks everything, including what `verify` never needs: keys known to the
installation but not trusted here, the URL in spellings that signers are known to get wrong, other hashes, and URLs that
were assembled wrongly. It takes its verdict from `verify` itself and, like `verify`, does not read a clock.

A cause is named only if it is visible or proven. A spelling, a host, or a text is named only if the signature verifies
over it, or the policy grants it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from keyfront.errors import Denial, Denied, PolicyError
from keyfront.signing.diagnosis import assembly, comparison, values
from keyfront.signing.diagnosis.mistakes import Mistake, mistakes_of
from keyfront.signing.diagnosis.search import Candidate, Search, canned_candidates, custom_candidates, how
from keyfront.signing.diagnosis.signer_mistakes import Request
from keyfront.signing.keys import PublicKey, cf_b64decode
from keyfront.signing.policy import Statement, canned_expires, canned_policy, ipv4, parse_policy
from keyfront.signing.raw_url import SIGNING_PARAMETERS, split_url
from keyfront.signing.resource import ResourcePattern, is_bucket_host, plain_host
from keyfront.signing.verify import KeyRing, is_url, signing_cookies, split_query, verify

# Maximum clock skew, in seconds, for which "wrong clock" is the first cause to suspect.
_SKEW = 300
# Limits for matching a custom policy's Resource: URLs tried, and their total characters.
_MAX_MATCHES = 1_000
_MAX_MATCHED = 150_000


class Cause(msgspec.Struct, frozen=True):
    """One cause of a refusal. `code` is stable (docs/guide/explain.md lists the codes). `text` is one or two sentences
    that say what is wrong and what to do."""

    code: str
    text: str


class Check(msgspec.Struct, frozen=True):
    """One check. `passed` is None if the check could not be made because an earlier one failed. `expected` and `seen`
    are two versions of the same value, for side-by-side comparison. `hint` says what to do."""

    name: str
    passed: bool | None
    expected: str = ""
    seen: str = ""
    hint: str = ""


class Report(msgspec.Struct, frozen=True):
    """The result for a request. `denial` is the reason's name ("" if granted), `code` and `message` are CloudFront's
    response, and `cause` is the likely cause in one or two sentences ("" if granted). `mode` is "url", "cookies", or
    "none". `causes` are the parts of `cause`, each with its code."""

    granted: bool
    denial: str
    code: str
    message: str
    cause: str
    url: str
    mode: str
    checks: tuple[Check, ...]
    causes: tuple[Cause, ...] = ()

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
    """Run `explain` on a URL as pasted by a user: characters that a browser would encode are encoded, and a fragment is
    removed.

    :raises SigningError: if it is not an http or https URL.
    """
    scheme, host, target = requested(url)
    viewer = _Presented(scheme, host, target, cookie_header, client_ip, split_url(url.strip()).fragment[1:])
    return _Explanation(viewer, _Known(keyring, known_keys or {}, tuple(other_hosts)), now).report()


def requested(url: str) -> tuple[str, str, str]:
    """The scheme, Host, and target that a browser sends for a URL as pasted by a user.

    :raises SigningError: if it is not an http or https URL.
    """
    parts = split_url(url.strip())
    target = re.sub("[^!-~]+", lambda match: quote(match[0], safe="", errors="replace"), parts.target)
    return parts.scheme.lower(), parts.host.lower(), target


def explain(  # noqa: PLR0913 - public API of the SDK: `verify`'s request, and options by keyword
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
    """Judge a request as `verify` does, and explain the verdict.

    The first five arguments are those of `verify`. `client_ip` may be "" if it is unknown; an IpAddress condition is
    then left undecided. `known_keys` are all keys of the installation by ID. `other_hosts` are the other host names of
    the same distribution: if the signature fits one of them, the report says so.
    """
    viewer = _Presented(scheme, host, target, cookie_header, client_ip)
    return _Explanation(viewer, _Known(keyring, known_keys or {}, tuple(other_hosts)), now).report()


class _Presented(NamedTuple):
    """What a viewer presents. `client_ip` is empty if it is unknown."""

    scheme: str
    host: str
    target: str
    cookie_header: str
    client_ip: str
    fragment: str = ""


class _Known(NamedTuple):
    """What the installation knows: the keys trusted for the request, all its keys by ID, and the other host names of
    the distribution."""

    keyring: KeyRing
    keys: Mapping[str, PublicKey]
    other_hosts: tuple[str, ...]


class _Explanation:
    """One request under examination. Each check adds its line and stores what later checks need; none relies on an
    earlier one having passed."""

    def __init__(self, viewer: _Presented, known: _Known, now: float) -> None:
        self.scheme, self.host, self.target = viewer.scheme, _latin(viewer.host), _latin(viewer.target)
        self.cookie_header, self.client_ip, self.now = viewer.cookie_header, viewer.client_ip, now
        self.keyring = known.keyring
        self.known_keys = {**known.keys, **known.keyring.keys}
        self.fragment = _latin(viewer.fragment)
        self.path, mark, self.query = self.target.partition("?")
        self.own: str | None = None
        parameters: dict[str, str] = {}
        if mark:
            parameters, self.own = split_query(self.query)
        self.url = f"{self.scheme}://{self.host}{self.target}"
        # Of a pasted fragment, only the signer's own part: `#top`, not the parameters.
        own_fragment = re.split("[?&]", self.fragment, maxsplit=1)[0]
        self.request = Request(
            self.scheme,
            self.host,
            self.path,
            self.own,
            fragment=own_fragment,
            other_hosts=[_latin(other) for other in known.other_hosts],
        )
        # The URL without the signing parameters: a canned policy names it, and a custom one must grant it.
        self.resource = f"{self.scheme}://{plain_host(self.scheme, self.host)}{self.path}"
        if self.own:
            self.resource += f"?{self.own}"
        self.cookies = signing_cookies(self.cookie_header)
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
        self.failures: list[tuple[Mistake, ...]] = []

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
        denial = self._verdict(self.target, self.cookie_header)
        causes: list[Cause] = []
        if denial is not None:
            # If the key is unknown, the result of the next check (whose signature it is) may be more helpful.
            failures = self.failures[: 2 if denial is Denial.UNKNOWN_KEY else 1]
            found = [*self._more_than_one(), *(mistake for failure in failures for mistake in failure)]
            causes = [Cause(mistake.code, _sentence(mistake.text)) for mistake in dict.fromkeys(found)]
        return Report(
            granted=denial is None,
            denial=denial.reason if denial else "",
            code=denial.code if denial else "",
            message=denial.message if denial else "",
            cause=" ".join(cause.text for cause in causes),
            url=self.url,
            mode=self.mode,
            checks=tuple(self.checks),
            causes=tuple(causes),
        )

    def _verdict(self, target: str, cookie_header: str) -> Denial | None:
        """Return the verdict of `verify` on this request."""
        # If the viewer's address is unknown, an IpAddress condition counts as met.
        address = self.client_ip or self._allowed_address()
        ring = KeyRing(self.keyring.keys, entries=1)
        try:
            verify(self.scheme, self.host, target, cookie_header, ring, address, self.now)
        except Denied as denied:
            return denied.denial
        return None

    def _add(
        self,
        name: str,
        passed: bool | None,
        expected: str = "",
        seen: str = "",
        hint: str = "",
        mistakes: tuple[Mistake, ...] = (),
    ) -> None:
        """Add a check. A failed check has `mistakes`; their texts form its hint unless `hint` is given."""
        hint = hint or " ".join(_sentence(mistake.text) for mistake in mistakes)
        self.checks.append(Check(name, passed, expected, seen, hint))
        if passed is False:
            self.failures.append(mistakes or (Mistake("unknown", hint),))

    # 1. Which credentials are present?

    def _credentials(self) -> None:
        names = [self.prefix + name for name in ("Expires or Policy", "Signature", "Key-Pair-Id")]
        expected = ", ".join(names)
        if self.mode == "none":
            where = f"{expected}, in the URL or as cookies"
            self._add("credentials", False, where, "none of them", mistakes=(self._absence(),))
            return
        hints: list[str] = []
        missing = [
            name for name, keys in zip(names, _NEEDED, strict=True) if not any(map(self.given.get, keys))
        ]
        mistakes: list[Mistake] = []
        if missing:
            mistakes.extend(self._why_missing())
            mistakes.append(Mistake("parameters_missing", f"Missing or empty: {', '.join(missing)}."))
        if self.mode == "url" and self.cookies:
            words = (
                "There are signed cookies too; any signing parameter in the URL makes them count for nothing."
            )
            hints.append(words)
            if missing:
                mistakes.append(Mistake("cookies_ignored", words))
        if "Policy" in self.given and "Expires" in self.given:
            hints.append("Both Policy and Expires are given: Policy counts, Expires is passed over.")
        repeated = self._repeated()
        if repeated:
            hints.append(f"Given more than once: {', '.join(repeated)}. The first counts.")
        seen = ", ".join(self.prefix + name for name in self.given)
        hint = " ".join(dict.fromkeys((*(mistake.text for mistake in mistakes), *hints)))
        self._add("credentials", not missing, expected, seen, hint, tuple(mistakes))

    def _absence(self) -> Mistake:
        """Return why there is no signature."""
        found = assembly.misplaced(self.path, self.query, self.fragment)
        found = found or assembly.signed_elsewhere(self.query)
        found = found or assembly.misspelt(self._own_names(), SIGNING_PARAMETERS, sure=False)
        found = found or assembly.misspelt_cookie(self.cookie_header)
        if found is not None:
            return found
        if self.cookie_header:
            return Mistake(
                "no_signed_cookies",
                "There are cookies, but no CloudFront-… ones. The browser sends those only for their Domain and Path.",
            )
        return Mistake(
            "no_signature",
            "Neither the URL nor a cookie carries a signature. If cookies were set: their Domain must cover this host, "
            "their Path this path; Secure ones travel by https only; requests from scripts to another site need "
            "credentials: include and SameSite=None.",
        )

    def _why_missing(self) -> Iterator[Mistake]:
        """Yield what happened to parameters that are missing while others are present."""
        missing = {
            keys[0] if len(keys) == 1 else name
            for keys in _NEEDED
            if not any(map(self.given.get, keys))
            for name in keys
        }
        if self.mode == "cookies":
            if (mistake := assembly.misspelt_cookie(self.cookie_header)) is not None:
                yield mistake
            return
        mistake = assembly.misplaced(self.path, self.query, self.fragment)
        mistake = mistake or assembly.signed_elsewhere(self.query)
        mistake = mistake or assembly.misspelt(self._own_names(), missing, sure=True)
        if mistake is not None:
            yield mistake

    def _own_names(self) -> list[str]:
        return [piece.partition("=")[0] for piece in (self.own or "").split("&")]

    def _repeated(self) -> list[str]:
        pieces = self.query.split("&") if self.mode == "url" else self.cookie_header.split(";")
        names = [piece.partition("=")[0].strip() for piece in pieces]
        return [self.prefix + name for name in self.given if names.count(self.prefix + name) > 1]

    def _more_than_one(self) -> Iterator[Mistake]:
        """For a refused request, yield whether another of several signatures or cookies would have been accepted."""
        repeated = self._repeated()
        if self.mode == "url" and "Signature" in repeated:
            yield Mistake(
                "signed_twice",
                "The URL was signed when it had been signed already: it has more than one Signature, and of each "
                "parameter the first counts. Sign the plain URL.",
            )
        elif self.mode == "cookies" and repeated:
            for header in assembly.cookie_choices(self.cookie_header):
                if self._verdict(self.target, header) is None:
                    yield Mistake(
                        "stale_cookies",
                        f"There are old and new cookies of one name ({', '.join(repeated)}): the first counts, and a "
                        "later one would have been granted. Set cookies always with the same Domain and Path, and "
                        "delete those that were set with others.",
                    )
                    return

    # 2. Which key does it name?

    def _trusted_key(self) -> None:
        expected = f"one of {', '.join(self.keyring.keys)}" if self.keyring.keys else "no key is trusted here"
        if not self.key_id:
            self._add("trusted key", None, expected)
            return
        passed = self.key_id in self.keyring.keys
        mistakes = () if passed else (self._key_mistake(),)
        self._add("trusted key", passed, expected, self.key_id[:128], mistakes=mistakes)

    def _key_mistake(self) -> Mistake:
        id_ = self.key_id
        if id_ in self.known_keys:
            return Mistake(
                "key_not_trusted",
                f"{id_} is a known key, but it is in no key group that the cache behavior for this path trusts. "
                "Add it to such a group, or sign with a key that is.",
            )
        if "?" in id_:
            return Mistake(
                "second_question_mark",
                "A second ? follows the key id, so the rest is read as part of the id. The URL already has a query: "
                "further parameters are joined by &.",
            )
        tail = _AFTER_ID.fullmatch(id_)
        if tail and tail[1] in self.known_keys and tail[2].strip():
            return Mistake(
                "key_id_followed",
                f"The key id {tail[1]} is followed by {tail[2][:20]!r}, which is not part of the URL: it was copied "
                "along with it, or appended.",
            )
        if id_.strip().upper() in self.keyring.keys:
            return Mistake(
                "key_id_case", "The id is written otherwise: upper and lower case and blanks count."
            )
        if (mistake := values.key_id_mistake(id_)) is not None:
            return mistake
        if not self.known_keys:
            return Mistake(
                "no_keys",
                f"No public key was given to check with, so nothing can be said about the signature. Give the public "
                f"key of {id_[:64]}: --public-key {id_[:64]}=FILE, or keyring= in a program.",
            )
        if id_.startswith("APKA"):
            return Mistake(
                "key_id_of_account",
                "This is an account key pair of the older kind (trusted signers). Key groups hold keys with ids K….",
            )
        return Mistake(
            "key_unknown",
            "No key of this id is known here: a typing error, another account's key, or a key deleted since.",
        )

    # 3. What does the policy say?

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
        except PolicyError:
            self._add("policy", False, expected, text[:64], mistakes=(values.epoch_mistake(text),))
            return
        self._add("policy", True, expected, f"{text} ({_date(self.until)})")

    def _custom_policy(self, text: str) -> None:
        expected = _EXAMPLE
        try:
            self.policy = cf_b64decode(text)
        except ValueError:
            mistake = values.base64_mistake(text, self.prefix + "Policy", self.mode)
            self._add("policy", False, expected, text[:200], mistakes=(mistake,))
            return
        seen = self.policy.decode("utf-8", "replace")[:4096]
        try:
            self.statement = parse_policy(self.policy)
        except PolicyError as error:
            mistake = values.policy_mistake(self.policy, str(error))
            if mistake.code == "policy_not_json" and re.fullmatch("(?:[0-9a-fA-F]{2}){32,}", text):
                words = f"{self.prefix}Policy is in hex; CloudFront takes base64."
                mistake = Mistake("base64_is_hex", words)
            self._add("policy", False, expected, seen, mistakes=(mistake,))
            return
        self.until = self.statement.expires
        self._add("policy", True, "one statement with DateLessThan", seen)

    # 4. Is there a signature?

    def _signature(self) -> None:
        text = self.given.get("Signature", "")
        kind = self._kind()
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
            mistake = values.base64_mistake(text, self.prefix + "Signature", self.mode)
            self._add("signature", False, expected, f"{text[:60]}…", mistakes=(mistake,))
            return
        # Report its shape here, although only the next check refuses it.
        shape = values.shape_mistake(text, self.signature, kind)
        self._add("signature", True, expected, f"{len(self.signature)} bytes", shape.text if shape else "")

    def _kind(self) -> str:
        key = self.known_keys.get(self.key_id)
        return key.algorithm if key else ""

    # 5. Does the signature fit?

    def _hash(self) -> None:
        text = self.given.get("Hash-Algorithm")
        expected = "SHA1, SHA256, or no Hash-Algorithm for SHA1"
        if text is None or text in ("SHA1", "SHA256"):
            passed = True if self.mode != "none" else None
            self._add("hash algorithm", passed, expected, text or ("none, so SHA1" if passed else ""))
        else:
            words = "The value is exactly SHA1 or SHA256, without a dash and in upper case."
            self._add(
                "hash algorithm",
                False,
                expected,
                text[:64],
                mistakes=(Mistake("hash_algorithm_value", words),),
            )

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
        ids = sorted(self.known_keys, key=lambda id_: (id_ != self.key_id, id_ not in self.keyring.keys, id_))
        search = Search(self.signature, {id_: self.known_keys[id_] for id_ in ids}, declared)
        found = search.find(self._candidates())
        if found is None:
            self._misfit(expected, search)
            return
        mistakes = [*found.mistakes]
        if found.how is not None:
            mistakes.append(found.how)
        elif found.hash_name != declared and "Hash-Algorithm" in self.given:
            words = f"it was signed with {found.hash_name}, but Hash-Algorithm says {declared[:16]}"
            mistakes.append(Mistake("hash_algorithm", words))
        elif found.hash_name != declared:
            words = f"it was signed with SHA-256, but {self.prefix}Hash-Algorithm=SHA256 is missing"
            mistakes.append(Mistake("hash_algorithm", words))
        if found.key_id != self.key_id:
            says = self.key_id[:64] or "nothing"
            words = f"it was signed with the key {found.key_id}, but Key-Pair-Id says {says}"
            mistakes.append(Mistake("other_key", words))
        text = found.data.decode("latin-1")[:4096]
        seen = f"made over {text}, with {found.hash_name} and {found.key_id}" if mistakes else "it is"
        self._add("signature fits", not mistakes, expected, seen, mistakes=tuple(mistakes))

    def _candidates(self) -> Iterator[Candidate]:
        if self.policy is not None:
            return custom_candidates(self.policy)
        return canned_candidates(self.request, self.given["Expires"], self.key_id)

    def _misfit(self, expected: str, search: Search) -> None:
        """Report a signature that fits nothing: what is known about it, and what to do."""
        what = "Policy" if self.policy is not None else "URL or the time in Expires"
        if (maker := search.maker) is not None:
            id_, imprint = maker
            whose = id_ if id_ == self.key_id else f"{id_} (not {self.key_id[:64] or 'the key named'})"
            mistake = Mistake(
                "other_text",
                f"The signature is whole and was made by {whose}, but over another text: the {what} is not "
                "what was signed. Compare the expected text with the signer's, letter by letter.",
            )
            unusual = how(imprint)
            seen = f"made by {id_} with {imprint.described()}, over another text"
            self._add(
                "signature fits", False, expected, seen, mistakes=(mistake, *((unusual,) if unusual else ()))
            )
            return
        if self.key_id not in self.known_keys:
            words = f"It cannot be checked: the public key of {self.key_id[:64] or 'the key named'} is not known here."
            self._add("signature fits", None, expected, "", words)
            return
        shape = values.shape_mistake(self.given.get("Signature", ""), self.signature or b"", self._kind())
        mistake = shape or Mistake(
            "no_fit",
            "No known key made this signature over any text that could be guessed: the signer's private key is not "
            f"that of {self.key_id[:64]}, or the signature or the {what} was changed after signing.",
        )
        self._add(
            "signature fits",
            False,
            expected,
            "made by another key, or over another text",
            mistakes=(mistake,),
        )

    # 6. Does the policy grant this URL?

    def _covers(self) -> None:
        possible = is_url(self.host, self.path)
        impossible = Mistake(
            "impossible_url", "No URL has such a host or path: the path begins with /, the host has none."
        )
        if self.statement is None:
            # A canned policy's signature already proves its URL.
            passed = None if self.until is None else possible
            mistakes = (impossible,) if not possible else ()
            self._add("resource", passed, self.resource, self.resource, mistakes=mistakes)
            return
        expected = self.statement.resource
        if expected is None:
            mistakes = (impossible,) if not possible else ()
            words = "any URL, for the policy names no Resource"
            self._add("resource", possible, words, self.resource, mistakes=mistakes)
            return
        passed = possible and self._matches(self.resource)
        found: tuple[Mistake, ...] = () if possible else (impossible,)
        if possible and not passed:
            found = self._resource_mistakes(expected)
        self._add("resource", passed, expected, self.resource, mistakes=found)

    def _matched_by(self, resource: str) -> bool:
        query = self.own or ""
        return ResourcePattern(resource).matches(
            self.scheme, plain_host(self.scheme, self.host.lower()), self.path, query
        )

    def _matches(self, url: str) -> bool:
        pattern = self.statement.pattern if self.statement else None
        if pattern is None:
            return True
        scheme, _, rest = url.partition("://")
        before, _, query = rest.partition("?")
        host, slash, path = before.partition("/")
        return bool(slash) and pattern.matches(scheme, plain_host(scheme, host.lower()), slash + path, query)

    def _resource_mistakes(self, pattern: str) -> tuple[Mistake, ...]:
        if self.own and self._matches(self.resource.partition("?")[0]) and "?" not in pattern:
            return (
                Mistake(
                    "query_added",
                    "The request has a query, and the policy grants none: only a * at the end of the Resource, or a "
                    "query in it, does.",
                ),
            )
        if "%2A" in pattern.upper() and self._matched_by(re.sub("%2[aA]", "*", pattern)):
            words = (
                "The * of the policy was percent-encoded (%2A), and so it is not a wildcard: write it bare."
            )
            return (Mistake("encoding", words),)
        left = _MAX_MATCHED
        unsure = _unsure(pattern)
        for count, (_, url, parts) in enumerate(self.request.signed()):
            left -= len(url) + len(pattern)
            if count >= _MAX_MATCHES or left < 0:
                break
            if (
                self._matches(url)
                and (mistakes := mistakes_of(parts))
                and unsure.isdisjoint(mistake.code for mistake in mistakes)
            ):
                return mistakes
        found = comparison.differences(pattern, self.scheme, self.host, self.path, self.own or "")
        host = pattern.partition("://")[2].partition("/")[0]
        if is_bucket_host(host):
            words = (
                f"The policy is for the bucket's host {host[:100]}: sign the URL of the distribution, {self.scheme}://"
                f"{self.host}/…, not of the bucket behind it."
            )
            found = [Mistake("bucket_host", words), *(one for one in found if one.code != "host")]
        return tuple(found) or (
            Mistake(
                "other_path",
                "The policy is for other URLs. A * stays within its part of the URL: protocol, host, path or query.",
            ),
        )

    # 7, 8. Is it valid now, and for this viewer?

    def _starts(self) -> None:
        if self.statement is None or self.statement.not_before is None:
            return
        start = self.statement.not_before
        passed = self.now > start
        words = f"It begins to be good in {_span(start - self.now)}." + _clock_hint(start - self.now)
        mistakes = () if passed else (Mistake("not_yet_valid", words),)
        self._add("not before", passed, f"after {_date(start)}", _date(self.now), mistakes=mistakes)

    def _expires(self) -> None:
        if self.until is None:
            self._add("not expired", None, seen=_date(self.now))
            return
        passed = self.now < self.until
        words = f"It expired {_span(self.now - self.until)} ago." + _clock_hint(self.now - self.until)
        mistakes = () if passed else (Mistake("expired", words),)
        self._add("not expired", passed, f"before {_date(self.until)}", _date(self.now), mistakes=mistakes)

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
        mistakes: tuple[Mistake, ...] = ()
        if address is None:
            words = "The viewer came by IPv6; IpAddress supports IPv4 only. Omit the condition, or serve IPv4 only."
            mistakes = (Mistake("viewer_ipv6", words),)
        elif not passed:
            words = (
                "The edge sees another address than the signer did: a proxy or NAT stands between, or the viewer "
                "changed networks."
            )
            mistakes = (Mistake("viewer_address", words),)
        self._add("viewer's address", passed, expected, self.client_ip, mistakes=mistakes)

    def _allowed_address(self) -> str:
        network = self.statement.network if self.statement else None
        return "" if network is None else _dotted(network[0])


def _unsure(pattern: str) -> frozenset[str]:
    """Return the causes that a match with the policy's Resource does not prove. In a custom policy, wildcards are real
    wildcards; where a part has one, other texts of that part also match."""
    codes = {"canned_wildcard", "bare_path", "value_missing", "nested_url"}
    host, _, tail = pattern.partition("://")[2].partition("/")
    if "*" in host or "?" in host:
        codes |= {"host", "bucket_host", "port"}
    if "*" in tail.partition("?")[0]:
        codes |= {"slash", "index_document", "dot_segments"}
    if "*" in tail.partition("?")[2]:
        codes |= {"query_order", "empty_query"}
    return frozenset(codes)


# A key ID, followed by characters that no ID contains.
_AFTER_ID = re.compile(r"([A-Za-z0-9_-]+)([^A-Za-z0-9_-].*)", re.DOTALL)


def _latin(text: str) -> str:
    """Return text as it appears on a request line: characters outside latin-1 become the bytes of their UTF-8."""
    return text if all(char <= "\xff" for char in text) else text.encode("utf-8", "replace").decode("latin-1")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!")) else ".")


_NEEDED = (("Expires", "Policy"), ("Signature",), ("Key-Pair-Id",))

_EXAMPLE = '{"Statement":[{"Resource":"URL","Condition":{"DateLessThan":{"AWS:EpochTime":SECONDS}}}]}'


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
