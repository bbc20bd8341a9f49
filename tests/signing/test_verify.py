"""The rules of the signature check one by one: order of checks, precedence, parameters, cookies, and what is
remembered."""

from __future__ import annotations

import gc
import time
import weakref
from datetime import timedelta

import pytest

from keyfront.errors import Denial, Denied
from keyfront.signing.keys import cf_b64encode
from keyfront.signing.policy import Policy, canned_policy
from keyfront.signing.sign import sign_cookies, sign_url
from keyfront.signing.tables import TwoGenerationCache
from keyfront.signing.verify import KeyRing, signing_cookies, split_query, verify
from tests.rows import rows
from tests.signing.harness import EC, NOW, OTHER, RSA, SOON, ask, reason, ring

HOUR = timedelta(hours=1)
URL = sign_url("https://cdn.test/a?b=1", RSA, expires=HOUR, now=NOW)
WILD = sign_url("https://cdn.test/a?b=1", RSA, expires=HOUR, resource="https://cdn.test/*", now=NOW)
COOKIES = sign_cookies("https://cdn.test/*", RSA, expires=HOUR, now=NOW).header
CANNED = sign_cookies("https://cdn.test/a?b=1", RSA, expires=HOUR, canned=True, now=NOW).header


def parameters(**changed: str | None) -> str:
    """The URL with parameters changed; None removes one."""
    query = URL.partition("?")[2].split("&")
    values = dict(part.split("=", 1) for part in query)
    values |= {name.replace("_", "-"): value for name, value in changed.items() if value is not None}
    gone = {name.replace("_", "-") for name, value in changed.items() if value is None}
    return "https://cdn.test/a?" + "&".join(
        f"{name}={value}" for name, value in values.items() if name not in gone
    )


# Each is wrong in everything that follows the check that refuses it.
IN_ORDER = {
    "missing_key_pair_id": parameters(Key_Pair_Id=None, Expires="x", Signature="!"),
    "unknown_key": parameters(Key_Pair_Id="K0", Expires="x", Signature="!"),
    "missing_policy": parameters(Expires=None, Signature="!"),
    "malformed_policy": parameters(Expires="x", Signature=None, Hash_Algorithm="MD5"),
    "missing_signature": parameters(Signature=None, Hash_Algorithm="MD5"),
    "malformed_signature": parameters(Signature="!", Hash_Algorithm="MD5"),
    "unsupported_hash": parameters(Hash_Algorithm="MD5", b="2"),
    "signature_mismatch": parameters(b="2", Expires="1"),
}


@rows("expected", IN_ORDER)
def test_the_first_reason_counts(expected: str) -> None:
    assert reason(IN_ORDER[expected], now=NOW + 9999) == expected


def test_the_order_of_resource_dates_and_address() -> None:
    def custom(resource: str, starts: int, expires: int) -> str:
        policy = Policy(resource, expires, starts=starts, ip="198.51.100.1")
        return sign_url("https://cdn.test/a", RSA, policy=policy, now=NOW).replace("/a?", "/b?")

    late = int(NOW) - 10
    assert reason(custom("https://cdn.test/a", late - 10, late)) == "wrong_resource"
    assert reason(custom("https://cdn.test/*", late - 10, late)) == "expired"
    assert reason(custom("https://cdn.test/*", SOON, SOON + 10)) == "not_yet_valid"
    assert reason(custom("https://cdn.test/*", late, SOON)) == "wrong_ip"
    assert reason(custom("https://cdn.test/*", late, SOON), ip="198.51.100.1") == "granted"


def test_a_denial_names_its_key_and_keeps_the_viewer_out_of_the_log() -> None:
    with pytest.raises(Denied) as raised:
        ask(parameters(b="2"))
    assert raised.value.key_pair_id == RSA.key_pair_id
    with pytest.raises(Denied) as raised:
        ask(parameters(Key_Pair_Id="K" * 5000))
    assert raised.value.denial is Denial.UNKNOWN_KEY
    assert len(raised.value.key_pair_id) == 128


# ------------------------------------------------------------------------------------------------------------
# Which credentials count


@rows("marker", ["Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm"])
@rows("value", ["", "=", "=1"])
def test_any_signing_parameter_makes_the_cookies_count_for_nothing(marker: str, value: str) -> None:
    assert reason("https://cdn.test/a?b=1", COOKIES) == "granted"
    assert reason(f"https://cdn.test/a?b=1&{marker}{value}", COOKIES) != "granted"


@rows(
    "query",
    ["expires=1", "hash-algorithm=SHA256", "Expires%3D1", "xExpires=1", "xHash-Algorithm=1", "a=Signature=1"],
)
def test_anything_else_leaves_them_in_force(query: str) -> None:
    keys = ring()
    for _ in range(2):
        grant = ask(f"https://cdn.test/a?{query}", COOKIES, keys=keys)
        assert grant.mode == "cookies"
        assert grant.hash_name == "SHA1"
        assert grant.own_query == query


@pytest.mark.parametrize(
    "query", ["Hash-Algorithm=SHA256", "Hash-Algorithm", "b=1&Hash-Algorithm=", "&Hash-Algorithm=x&"]
)
def test_a_hash_algorithm_alone_makes_a_signed_url_without_its_other_parts(query: str) -> None:
    """The guide's current page lists it among the parameters that count (§1.1)."""
    keys = ring()
    assert ask("https://cdn.test/a", COOKIES, keys=keys).mode == "cookies"
    for cookies in (COOKIES, ""):
        for _ in range(2):
            with pytest.raises(Denied) as raised:
                ask(f"https://cdn.test/a?{query}", cookies, keys=keys)
            assert raised.value.denial is Denial.MISSING_KEY_PAIR_ID


def test_a_signed_url_is_not_helped_by_cookies() -> None:
    assert reason(parameters(b="2"), COOKIES) == "signature_mismatch"
    assert ask(URL, COOKIES.replace("Policy=", "Policy=x")).mode == "url"


def test_policy_counts_where_expires_is_given_too() -> None:
    both = WILD + "&Expires=1"
    assert ask(both).canned is False
    assert reason(WILD.replace("Policy=", "Policy=x") + f"&Expires={SOON}") == "malformed_policy"
    canned_with_policy = URL + "&Policy="
    assert reason(canned_with_policy) == "malformed_policy"
    assert ask("https://cdn.test/a", COOKIES + "; CloudFront-Expires=1").canned is False


def test_of_repeated_parameters_the_first_counts() -> None:
    assert reason(URL + "&Signature=x&Expires=1&Key-Pair-Id=x&Hash-Algorithm=SHA1") == "granted"
    assert reason(URL.replace("?b=1&", "?b=1&Expires=1&")) == "signature_mismatch"
    assert reason(URL.replace("?b=1&", "?Signature=&b=1&")) == "missing_signature"


def test_of_repeated_cookies_the_first_counts() -> None:
    bad = "CloudFront-Policy=x; CloudFront-Signature=x; CloudFront-Key-Pair-Id=x"
    assert reason("https://cdn.test/a", f"{COOKIES}; {bad}") == "granted"
    assert reason("https://cdn.test/a", f"{bad}; {COOKIES}") == "unknown_key"


# ------------------------------------------------------------------------------------------------------------
# Parsing requests


@rows(
    ("query", "given", "own"),
    [
        ("", {}, ""),
        ("a=1", {}, "a=1"),
        ("Expires=1", {"Expires": "1"}, None),
        ("Expires", {"Expires": ""}, None),
        ("Expires=1&", {"Expires": "1"}, ""),
        ("&Expires=1", {"Expires": "1"}, ""),
        ("a&Expires=1&&b&", {"Expires": "1"}, "a&&b&"),
        ("a=1&a=2&Policy=x&a=1", {"Policy": "x"}, "a=1&a=2&a=1"),
        ("Signature=a%7Eb%2Dc&x=%7E", {"Signature": "a~b-c"}, "x=%7E"),
        ("Signature=a%257E", {"Signature": "a%7E"}, None),
        ("Signature=a+b%20c", {"Signature": "a+b c"}, None),
        ("Signature=%&Policy=%zz", {"Signature": "%", "Policy": "%zz"}, None),
        ("Signature=%C3%A9", {"Signature": "Ã©"}, None),
        ("Signature=é%7E", {"Signature": "é~"}, None),
        ("Signature=\ud800%7E", {"Signature": "?~"}, None),
        ("Signature==a=", {"Signature": "=a="}, None),
        ("Expires=1&Expires=2", {"Expires": "1"}, None),
        ("%45xpires=1&expires=2&Expires =3", {}, "%45xpires=1&expires=2&Expires =3"),
        ("a=Expires&Hash-Algorithm=SHA1", {"Hash-Algorithm": "SHA1"}, "a=Expires"),
        ("a;Expires=1", {}, "a;Expires=1"),
        ("=Expires&Signature", {"Signature": ""}, "=Expires"),
    ],
)
def test_split_query(query: str, given: dict[str, str], own: str | None) -> None:
    assert split_query(query) == (given, own)


@rows(
    ("header", "given"),
    [
        ("", {}),
        ("a=1", {}),
        ("CloudFront-Policy=p", {"Policy": "p"}),
        ("a=1;CloudFront-Policy=p;b", {"Policy": "p"}),
        ("  CloudFront-Policy =  p\t; x", {"Policy": "p"}),
        ("CloudFront-Policy=p=q", {"Policy": "p=q"}),
        ('CloudFront-Policy="p"', {"Policy": '"p"'}),
        ("CloudFront-Policy=%7E", {"Policy": "%7E"}),
        ("CloudFront-Policy", {"Policy": ""}),
        ("cloudfront-policy=p; CLOUDFRONT-POLICY=p", {}),
        ("CloudFront-Policy=1; CloudFront-Policy=2", {"Policy": "1"}),
        ("CloudFront-Other=1; xCloudFront-Policy=2", {}),
        ("CloudFront-Policy=p, CloudFront-Expires=1", {"Policy": "p, CloudFront-Expires=1"}),
        (
            "CloudFront-Expires=1;; ;CloudFront-Hash-Algorithm=SHA256",
            {"Expires": "1", "Hash-Algorithm": "SHA256"},
        ),
    ],
)
def test_signing_cookies(header: str, given: dict[str, str]) -> None:
    assert signing_cookies(header) == given


def test_a_policy_that_was_seen_with_another_url_grants_this_ones_query() -> None:
    keys = ring()
    for path in ("/a?b=1", "/c?d=2&e", "/c"):
        url = WILD.replace("/a?b=1", path).replace("/c&", "/c?")
        assert ask(url, keys=keys).own_query == path.partition("?")[2]


def test_canned_cookies_grant_one_url() -> None:
    keys = ring()
    for _ in range(2):
        assert ask("https://cdn.test/a?b=1", CANNED, keys=keys).canned
        assert ask("https://cdn.test/a?b=1", CANNED, keys=keys).own_query == "b=1"
        for other in (
            "https://cdn.test/a",
            "https://cdn.test/a?b=1&",
            "https://cdn.test/A?b=1",
            "http://cdn.test/a?b=1",
        ):
            assert reason(other, CANNED, keys=keys) == "signature_mismatch"


@rows(
    ("host", "target"),
    [
        ("cdn.test/a", "?b=1"),
        ("cdn.test", "a?b=1"),
        ("cdn.test/", "a?b=1"),
        ("", "/a?b=1"),
        ("cdn.test", "*"),
        ("cdn.test", ""),
        ("cdn.test", "https://cdn.test/a"),
        ("cdn.test?", "/a"),
        ("cdn", ".test/a?b=1"),
        ("cdn.test/folder", "/a"),
    ],
)
def test_host_and_path_cannot_pose_as_each_other(host: str, target: str) -> None:
    tail = URL.partition("?b=1&")[2]
    signed = f"{target}{'&' if '?' in target else '?'}{tail}"
    warm = ring()
    for url, cookies in (
        (URL, ""),
        (URL.replace("/a?", "/folder/a?"), COOKIES),
        ("https://cdn.test/a?b=1", CANNED),
    ):
        assert reason(url, cookies, keys=warm) in ("granted", "signature_mismatch")
    for keys in (ring(), warm):
        for url, cookies in ((signed, ""), (target, COOKIES), (target, CANNED)):
            with pytest.raises(Denied):
                verify("https", host, url, cookies, keys, "192.0.2.7", NOW)


def test_a_remembered_url_cannot_be_cut_elsewhere() -> None:
    keys = ring()
    url = sign_url("https://cdn.test/folder/a?b=1", RSA, expires=HOUR, now=NOW)
    assert reason(url, keys=keys) == "granted"
    for cut in range(len("https://"), len(url)):
        host, target = url[len("https://") : cut], url[cut:]
        if host == "cdn.test":
            continue
        with pytest.raises(Denied):
            verify("https", host, target, "", keys, "192.0.2.7", NOW)


def test_a_policy_without_resource_still_asks_for_a_url() -> None:
    tail = sign_url("https://cdn.test/a", RSA, policy=Policy(None, SOON), now=NOW).partition("?")[2]
    cookies = sign_cookies(Policy(None, SOON), RSA, now=NOW).header
    keys = ring()
    assert reason(f"https://cdn.test/b?{tail}", keys=keys) == "granted"
    for host, target in (
        ("cdn.test/a", "/b"),
        ("cdn.test", ""),
        ("", "/a"),
        ("cdn.test", "*"),
        ("a?b", "/c"),
    ):
        for url, header in ((f"{target}?{tail}", ""), (target, cookies)):
            for _ in range(2):
                with pytest.raises(Denied):
                    verify("https", host, url, header, keys, "192.0.2.7", NOW)


def test_what_a_stranger_wrote_is_not_compiled() -> None:
    """A policy is parsed before its signature is checked: parsing must cost next to nothing."""
    for resource in (
        "http://" + "?" * 5000,
        "http://d/" + "*?a" * 1600,
        "http://" + "?*" * 2500 + "/" + "?*" * 2500,
    ):
        policy = cf_b64encode(Policy(resource, SOON).to_bytes(NOW))
        url = f"https://cdn.test/a?Policy={policy}&Signature=AAAA&Key-Pair-Id={RSA.key_pair_id}"
        began = time.process_time()
        assert reason(url) == "signature_mismatch"
        assert time.process_time() - began < 0.02


def test_default_ports_are_dropped_and_others_are_not() -> None:
    assert reason(URL.replace("cdn.test", "cdn.test:443")) == "granted"
    assert reason(URL.replace("cdn.test", "cdn.test:80")) == "signature_mismatch"
    assert reason("https://cdn.test:443/x", COOKIES) == "granted"
    assert reason("https://cdn.test:444/x", COOKIES) == "wrong_resource"
    assert reason("https://CDN.Test/x", COOKIES) == "granted"


def test_the_question_mark_goes_with_the_last_parameter() -> None:
    def canned(resource: str) -> str:
        signature = cf_b64encode(RSA.sign(canned_policy(resource, str(SOON)), "SHA1"))
        return f"Expires={SOON}&Signature={signature}&Key-Pair-Id={RSA.key_pair_id}"

    assert reason(f"https://cdn.test/a?{canned('https://cdn.test/a')}") == "granted"
    assert reason(f"https://cdn.test/a?{canned('https://cdn.test/a?')}") == "signature_mismatch"
    # A lone empty parameter remains: the signer may have seen either form.
    assert reason(f"https://cdn.test/a?&{canned('https://cdn.test/a?')}") == "granted"
    assert reason(f"https://cdn.test/a?&{canned('https://cdn.test/a')}") == "granted"
    assert reason(f"https://cdn.test/a?&{canned('https://cdn.test/a?&')}") == "signature_mismatch"
    assert reason(f"https://cdn.test/a?&&{canned('https://cdn.test/a?&')}") == "granted"


def test_a_url_cannot_pose_as_the_rest_of_its_policy() -> None:
    """A signed custom policy must not verify as the canned policy of a URL with quotes in it."""
    policy = (
        '{"Statement":[{"Resource":"https://cdn.test/x","Condition":{"DateLessThan":{"AWS:EpochTime":%d}}}]}'
    )
    data = policy % SOON
    signature = cf_b64encode(RSA.sign(data.encode(), "SHA1"))
    target = (
        '/x","Condition":{"DateLessThan":{"AWS:EpochTime":1}}}],"Statement":[{"Resource":"https://cdn.test/x'
    )
    url = f"https://cdn.test{target}?Expires={SOON}&Signature={signature}&Key-Pair-Id={RSA.key_pair_id}"
    assert reason(url) == "signature_mismatch"
    # By contrast, a signer that escapes as JSON does (botocore) and a client that sends unescaped quotes agree.
    quoted = canned_policy('https://cdn.test/"a"\\', str(SOON))
    assert b'\\"a\\"\\\\' in quoted
    signature = cf_b64encode(RSA.sign(quoted, "SHA1"))
    url = f'https://cdn.test/"a"\\?Expires={SOON}&Signature={signature}&Key-Pair-Id={RSA.key_pair_id}'
    assert reason(url) == "granted"


def test_raw_bytes_beyond_ascii_are_compared_raw() -> None:
    utf8 = "https://cdn.test/é".encode().decode("latin-1")
    policy = canned_policy(utf8, str(SOON))
    assert "é".encode() in policy
    signature = cf_b64encode(RSA.sign(policy, "SHA1"))
    tail = f"?Expires={SOON}&Signature={signature}&Key-Pair-Id={RSA.key_pair_id}"
    assert reason(utf8 + tail) == "granted"
    assert reason("https://cdn.test/é" + tail) == "signature_mismatch"
    assert reason("https://cdn.test/漢" + tail) == "wrong_resource"
    data = canned_policy("https://cdn.test/é*".encode().decode("latin-1"), str(SOON))
    signature = cf_b64encode(RSA.sign(data, "SHA1"))
    signed = f"?Policy={cf_b64encode(data)}&Signature={signature}&Key-Pair-Id={RSA.key_pair_id}"
    assert reason(utf8 + "t" + signed) == "granted"
    assert reason("https://cdn.test/e" + signed) == "wrong_resource"


# ------------------------------------------------------------------------------------------------------------
# What is remembered


def test_remembers_what_it_granted_and_nothing_else() -> None:
    keys = ring()
    assert not ask(URL, keys=keys).remembered
    assert ask(URL, keys=keys).remembered
    assert not ask("https://cdn.test/x", COOKIES, keys=keys).remembered
    assert ask("https://cdn.test/y", COOKIES, keys=keys).remembered
    # The policy is remembered separately: with another Cookie header around it, or a URL with it, no new check is
    # needed.
    assert ask("https://cdn.test/y", f"theme=dark; {COOKIES}", keys=keys).remembered
    # It is the same policy and signature as the URL's.
    assert ask(WILD, keys=keys).remembered == (WILD.partition("Signature=")[2][:344] in COOKIES)
    assert keys.remembered == 4
    before = keys.remembered
    for bad in (parameters(b="2"), parameters(Signature="x"), parameters(Key_Pair_Id="K0")):
        for _ in range(3):
            assert reason(bad, keys=keys) != "granted"
    assert reason(WILD.replace("cdn.test", "x.test"), keys=keys) == "wrong_resource"
    for late in (SOON, SOON + 1):
        assert reason(URL, keys=keys, now=late) == "expired"
    assert keys.remembered == before


def test_judges_dates_address_and_resource_at_every_use() -> None:
    keys = ring()
    bound = sign_url(
        "https://cdn.test/a", RSA, expires=SOON, starts=int(NOW) - 10, ip="192.0.2.0/24", now=NOW
    )
    cookies = sign_cookies(
        "https://cdn.test/*", EC, expires=SOON, starts=int(NOW) - 10, ip="192.0.2.0/24", now=NOW
    ).header
    for url, header in ((bound, ""), ("https://cdn.test/a", cookies), ("https://cdn.test/a?b=1", cookies)):
        assert reason(url, header, keys=keys) == "granted"
        assert reason(url, header, keys=keys, now=SOON) == "expired"
        assert reason(url, header, keys=keys, now=NOW - 10) == "not_yet_valid"
        assert reason(url, header, keys=keys, ip="198.51.100.1") == "wrong_ip"
        assert reason(url, header, keys=keys, ip="2001:db8::1") == "wrong_ip"
        assert reason(url, header, keys=keys, ip="::ffff:192.0.2.200") == "granted"
        assert reason(url, header, keys=keys) == "granted"
    assert reason("https://other.test/a", cookies, keys=keys) == "wrong_resource"
    assert reason("http://cdn.test/a", cookies, keys=keys) == "wrong_resource"


def test_a_remembered_url_is_that_url_on_that_host_only() -> None:
    keys = ring()
    assert reason(URL, keys=keys) == "granted"
    assert reason(URL.replace("https", "http"), keys=keys) == "signature_mismatch"
    assert reason(URL.replace("cdn.test", "cdn.tes"), keys=keys) == "signature_mismatch"
    # What was remembered for a URL does not count for a Cookie header, and vice versa.
    assert reason("https://cdn.test/a", URL, keys=keys) == "missing_key_pair_id"
    assert reason("https://cdn.test/a", COOKIES, keys=keys) == "granted"
    assert reason(f"https://cdn.test/{COOKIES}?", keys=keys) == "missing_key_pair_id"


def test_trust_ends_with_the_key_ring() -> None:
    before = ring(RSA, EC)
    assert reason(URL, keys=before) == "granted"
    assert reason(URL, keys=ring(EC)) == "unknown_key"
    # The same id may name another key later: nothing of the old one remains.
    assert reason(URL, keys=KeyRing({RSA.key_pair_id: OTHER.public_key})) == "signature_mismatch"
    with pytest.raises(TypeError):
        before.keys["K1"] = EC.public_key  # type: ignore[index]
    gone = weakref.ref(before)
    del before
    gc.collect()
    assert gone() is None


def test_keys_may_be_pem() -> None:
    keys = KeyRing({RSA.key_pair_id: RSA.public_key.pem}, {RSA.key_pair_id: "group-1"})
    assert keys.groups[ask(URL, keys=keys).key_pair_id] == "group-1"
    assert repr(keys) == f"<KeyRing {RSA.key_pair_id}>"
    assert reason(URL, keys=KeyRing({})) == "unknown_key"


def test_the_table_keeps_what_is_used_and_stays_bounded() -> None:
    table: TwoGenerationCache[int] = TwoGenerationCache(100, 10**9)
    for number in range(100):
        table.put(f"key {number}", number)
    for _ in range(5):  # a working set of its size is never evicted, in whatever order it is used
        for number in reversed(range(100)):
            assert table.get(f"key {number}") == number
    for number in range(10_000):
        table.put(f"once {number}", number)
        assert table.get("key 7") == 7
        assert len(table) <= 200
    assert table.get("key 8") is None
    assert table.get("once 1") is None


def test_the_table_is_bounded_in_bytes_too() -> None:
    table: TwoGenerationCache[int] = TwoGenerationCache(10**6, 100_000)
    for number in range(1000):
        table.put(f"{number:04}" + "x" * 1000, number)
        table.put(("K1", "SHA1", f"{number:04}" + "x" * 1000, b""), number)
    assert 70 <= len(table) <= 2 * 72
    table.put("y" * 4097, 1)
    assert table.get("y" * 4097) is None


def test_long_credentials_are_granted_but_not_remembered() -> None:
    keys = ring()
    url = sign_url("https://cdn.test/" + "a" * 5000, RSA, expires=SOON, now=NOW)
    for _ in range(2):
        assert not ask(url, keys=keys).remembered
    assert keys.remembered == 0


def test_a_grant_says_what_it_allows() -> None:
    grant = ask(WILD)
    assert (grant.resource, grant.canned, grant.expires) == ("https://cdn.test/*", False, SOON)
    assert (grant.not_before, grant.network, grant.own_query) == (None, None, "b=1")
    assert repr(grant) == f"<Grant custom url {RSA.key_pair_id} SHA1 until {SOON}>"
    assert ask(URL).resource == "https://cdn.test/a?b=1"
    anything = sign_url("https://cdn.test/a", RSA, policy=Policy(None, SOON), now=NOW)
    assert ask(anything).resource is None
    bound = ask(sign_url("https://cdn.test/a", RSA, expires=SOON, ip="192.0.2.77/24", now=NOW))
    assert bound.network == (0xC0000200, 0xC00002FF)


def test_a_grant_judges_another_url() -> None:
    custom, canned = ask(WILD), ask(URL)
    custom.judge_url("https", "cdn.test", "/other?x&Signature=1", "192.0.2.7", NOW)
    canned.judge_url("https", "cdn.test", "/a?b=1&Signature=1", "192.0.2.7", NOW)
    for grant, target in ((canned, "/a"), (canned, "/a?b=1&c"), (canned, "/a?b=2")):
        with pytest.raises(Denied) as raised:
            grant.judge_url("https", "cdn.test", target, "192.0.2.7", NOW)
        assert raised.value.denial is Denial.WRONG_RESOURCE
    with pytest.raises(Denied):
        custom.judge_url("http", "cdn.test", "/other", "192.0.2.7", NOW)
    with pytest.raises(Denied):
        custom.judge_url("https", "cdn.test", "/other", "192.0.2.7", SOON)


def test_a_remembered_url_costs_next_to_nothing() -> None:
    """Not a benchmark, only a bound: a remembered grant must be far from the 30 µs of a signature check."""
    keys = ring()
    ask(URL, keys=keys)
    target = URL.removeprefix("https://cdn.test")
    best = min(_timed(keys, target) for _ in range(5))
    assert best < 10e-6


def _timed(keys: KeyRing, target: str) -> float:
    began = time.process_time()
    for _ in range(2000):
        verify("https", "cdn.test", target, "", keys, "192.0.2.7", NOW)
    return (time.process_time() - began) / 2000
