"""Properties that hold for all inputs, not only for those in example tests."""

from __future__ import annotations

import json
import string
from urllib.parse import quote

from fuzz.verify import run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyfront.errors import Denied, SigningError
from keyfront.signing.explain import explain
from keyfront.signing.keys import cf_b64encode
from keyfront.signing.policy import Policy
from keyfront.signing.sign import sign_cookies, sign_url
from keyfront.signing.verify import Grant, KeyRing, split_query, verify
from tests.signing.harness import EC, KEYS, NOW, RSA, SOON, reason

RING = KeyRing(KEYS)
LATIN = st.text(st.characters(max_codepoint=255), max_size=60)
ANYTHING = st.text(max_size=60)
IDS = st.sampled_from([*KEYS, "K0", ""])
NAMES = st.sampled_from(
    ["Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm", "a", "", "expires"]
)
BASE64 = st.binary(max_size=80).map(cf_b64encode)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["Statement", "Resource", "Condition", "DateLessThan", "DateGreaterThan", "AWS:EpochTime", "IpAddress",
                 "AWS:SourceIp", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)  # fmt: skip


def policies() -> st.SearchStrategy[str]:
    return JSON.map(lambda value: cf_b64encode(json.dumps(value).encode()))


VALUES = (
    LATIN
    | IDS
    | BASE64
    | policies()
    | st.integers().map(str)
    | st.sampled_from(["SHA1", "SHA256", str(SOON)])
)
PARAMETERS = st.lists(st.tuples(NAMES, VALUES).map("=".join) | LATIN, max_size=7)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(["http", "https"]),
    st.sampled_from(["cdn.test", "cdn.test:443", ""]) | ANYTHING,
    st.sampled_from(["/", "/a", ""]) | ANYTHING,
    PARAMETERS.map("&".join) | st.just("") | ANYTHING,
    PARAMETERS.map(lambda values: "; ".join(f"CloudFront-{value}" for value in values)) | ANYTHING,
    st.sampled_from(["192.0.2.7", "::1", ""]) | ANYTHING,
    st.floats(0, 1e12) | st.just(NOW),
)
def test_verify_grants_or_denies_and_explain_agrees(
    scheme: str, host: str, path: str, query: str, cookies: str, address: str, now: float
) -> None:
    target = f"{path}?{query}" if query else path
    try:
        assert isinstance(verify(scheme, host, target, cookies, RING, address, now), Grant)
        found = ""
    except Denied as denied:
        found = denied.denial.reason
    if address and all(char <= "\xff" for char in target):
        report = explain(
            scheme,
            host,
            target,
            cookie_header=cookies,
            keyring=RING,
            client_ip=address,
            now=now,
            known_keys=KEYS,
        )
        assert report.denial == found
        assert report.granted == all(check.passed is not False for check in report.checks)


WEBBY = st.text(string.ascii_letters + string.digits + "/.~-_%+!*'();:@&=$,?#[] \"<>\\^`{|}é漢", max_size=30)


@settings(max_examples=300, deadline=None)
@given(WEBBY, st.sampled_from([RSA, EC]), st.sampled_from(["SHA1", "SHA256"]), st.booleans())
@example("a?b=1&", RSA, "SHA1", False)
def test_what_is_signed_is_granted(tail: str, signer: object, hash_name: object, bound: bool) -> None:
    try:
        url = sign_url(
            f"https://cdn.test/{tail}", signer, expires=SOON, ip="192.0.2.7" if bound else None,  # type: ignore[arg-type]
            hash_name=hash_name, now=NOW,  # type: ignore[arg-type]
        )  # fmt: skip
    except SigningError:
        return
    url = url.partition("#")[0]
    assert url.isascii()
    assert " " not in url
    assert reason(url) == "granted"
    assert reason(url, ip="192.0.2.8") == ("wrong_ip" if bound else "granted")
    assert reason(url, now=SOON) == "expired"
    assert reason(url.replace("cdn.test", "cdn.tset")) in ("signature_mismatch", "wrong_resource")


SIGNED = {
    "canned": sign_url("https://cdn.test/a/b?c=1&d", RSA, expires=SOON, now=NOW),
    "custom": sign_url(
        "https://cdn.test/a/b?c=1&d", RSA, policy=Policy("https://cdn.test/a/b?c=1&d", SOON), now=NOW
    ),
    "canned, ECDSA": sign_url("https://cdn.test/a/b?c=1&d", EC, expires=SOON, now=NOW),
}


@settings(max_examples=400, deadline=None)
@example("custom", 1, "D", False)
@given(
    st.sampled_from(sorted(SIGNED)),
    st.integers(0, 2000),
    st.characters(min_codepoint=33, max_codepoint=126),
    st.booleans(),
)
def test_no_changed_character_is_overlooked(kind: str, at: int, char: str, insert: bool) -> None:
    """A signed URL with any one character changed or added is refused, unless it still has the same meaning."""
    url = SIGNED[kind]
    start = len("https://")
    at = start + at % (len(url) - start)
    changed = url[:at] + char + url[at + (0 if insert else 1) :]
    if changed == url or _same(changed, url):
        return
    if reason(changed) == "granted":
        # A `?` in the custom policy's Resource is a wildcard, too: that is its meaning, not an oversight.
        assert kind == "custom"
        assert changed[at] != url[at]
        assert url[at] == "?"


def _same(one: str, other: str) -> bool:
    """Whether two URLs have the same part of their own and the same first signing parameters."""

    def policy_of(url: str) -> object:
        before, _, query = url.partition("#")[0].partition("?")
        given, own = split_query(query)
        given.setdefault("Hash-Algorithm", "SHA1")
        scheme, _, rest = before.partition("://")
        host, slash, path = rest.partition("/")
        return scheme, host.lower(), slash + path, given, own  # a host's case has no meaning

    try:
        return policy_of(one) == policy_of(other)
    except ValueError:
        return False


@settings(max_examples=200, deadline=None)
@given(st.text("abc/?*", max_size=8), st.text("abc/", max_size=8))
def test_a_warm_table_says_what_a_cold_one_says(pattern: str, path: str) -> None:
    cookies = sign_cookies(Policy(f"https://cdn.test/{pattern}", SOON), EC, now=NOW).header
    url = f"https://cdn.test/{quote(path)}"
    cold = [reason(url, cookies), reason(f"{url}?x", cookies)]
    assert [reason(url, cookies, keys=RING), reason(f"{url}?x", cookies, keys=RING)] == cold
    assert [reason(url, cookies, keys=RING), reason(f"{url}?x", cookies, keys=RING)] == cold


def test_the_fuzzer_finds_nothing() -> None:
    assert run(2500, None, seed=20261122, tell=lambda _: None) > 0
