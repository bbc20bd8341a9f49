# ruff: noqa: E501
"""Explanations of denials: each common mistake is made on purpose, and must be found and named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from keyfront.errors import SigningError
from keyfront.signing.explain import Report, explain, explain_url
from keyfront.signing.keys import HashName, cf_b64encode
from keyfront.signing.policy import canned_policy
from keyfront.signing.sign import CloudFrontSigner, LocalSigner, sign_cookies
from tests.rows import rows
from tests.signing.harness import EC, KEYS, NOW, OTHER, RSA, SOON, ring

DATE = datetime.fromtimestamp(SOON, UTC)


def signed(
    url: str, signer: LocalSigner, *, hash_name: HashName = "SHA1", id_: str = "", policy: str | None = None
) -> str:
    """A URL signed as a naive signer does it: whatever it gets, unchanged."""
    naive = CloudFrontSigner(id_ or signer.key_pair_id, lambda data: signer.sign(data, hash_name))
    if policy is not None:
        return naive.generate_presigned_url(url, policy=policy)
    return naive.generate_presigned_url(url, DATE)


def look(url: str, cookies: str = "", *, ip: str = "192.0.2.7", now: float = NOW) -> Report:
    report = explain_url(
        url,
        keyring=ring(),
        now=now,
        cookie_header=cookies,
        client_ip=ip,
        known_keys=KEYS,
        other_hosts=("d111111abcdef8.cloudfront.net",),
    )
    assert report.granted == all(check.passed is not False for check in report.checks)
    assert report.granted == (report.cause == "")
    return report


# (what was signed, what is requested instead, what the cause must say)
SPELLINGS: dict[str, tuple[str, tuple[str, str], str]] = {
    "http for https": ("http://cdn.test/a", ("http:", "https:"), "signed for http:// and requested by https://"),
    "https for http": ("https://cdn.test/a", ("https:", "http:"), "signed for https:// and requested by http://"),
    "another host": ("https://www.cdn.test/a", ("www.", ""), "signed for the host www.cdn.test"),
    "the distribution's own name": (
        "https://d111111abcdef8.cloudfront.net/a", ("d111111abcdef8.cloudfront.net", "cdn.test"),
        "signed for the host d111111abcdef8.cloudfront.net",
    ),
    "a port dropped": ("https://cdn.test:8443/a", (":8443", ""), "signed with the port :8443"),
    "a port added": ("https://cdn.test/a", ("cdn.test", "cdn.test:9000"), "signed without the port :9000"),
    "+ for %20 in the query": ("https://cdn.test/a?b=c+d", ("c+d", "c%20d"), "+ where the request has %20"),
    "%20 for + in the query": ("https://cdn.test/a?b=c%20d", ("c%20d", "c+d"), "%20 where the request has +"),
    "a bare blank": ("https://cdn.test/a b", (" ", "%20"), "a blank where the request has %20"),
    "bare UTF-8, signed raw": ("https://cdn.test/a", ("/a?", "/%61?"), "decoded and requested encoded"),
    "several characters decoded": ("https://cdn.test/a b(c)'d", ("a b(c)'d", "a%20b%28c%29%27d"), "path was signed decoded"),
    "encoded, requested decoded": ("https://cdn.test/a%21b", ("%21", "!"), "%21 where the request has !"),
    "an apostrophe": ("https://cdn.test/a?b='c'", ("'c'", "%27c%27"), "signed with ' where the request has %27"),
    "a slash encoded": ("https://cdn.test/a/b/c", ("a/b/c", "a%2Fb%2Fc"), "/ where the request has %2F"),
    "lower-case escapes": ("https://cdn.test/%c3%a9", ("%c3%a9", "%C3%A9"), "%xx in lower case"),
    "upper-case escapes": ("https://cdn.test/%C3%A9", ("%C3%A9", "%c3%a9"), "%xx in upper case"),
    "encoded twice": ("https://cdn.test/a%2520b", ("%2520", "%20"), "percent-encoded once more when it was signed"),
    "dot segments": ("https://cdn.test/b/c", ("/b/c", "/a/../b/./c"), "dot segments"),
    "no slash after the host": ("https://cdn.test", ("cdn.test?", "cdn.test/?"), "without the / after the host"),
    "a double slash": ("https://cdn.test//a", ("test//a", "test/a"), "signed with // before the path"),
    "double slashes collapsed": ("https://cdn.test/a/b", ("a/b", "a//b"), "single slashes"),
    "another order": ("https://cdn.test/a?b=1&c=2&d=3", ("b=1&c=2&d=3", "d=3&b=1&c=2"), "signed in another order"),
    "a query added": ("https://cdn.test/a", ("/a?", "/a?utm=1&"), "query was added after signing"),
    "a parameter added": ("https://cdn.test/a?b=1", ("b=1", "b=1&utm=2"), "added to the query after signing: utm=2"),
    "a parameter added before": ("https://cdn.test/a?b=1", ("b=1", "utm=2&b=1"), "after signing: utm=2"),
    "a trailing & lost": ("https://cdn.test/a?b=1&", ("b=1&&", "b=1&"), "signed with a & at the end"),
    "a trailing & gained": ("https://cdn.test/a?b=1", ("b=1&", "b=1&&"), "signed without the & at the end"),
    "a flag filled": ("https://cdn.test/a?b=1&flag", ("flag", "flag="), "without the ="),
    "a flag emptied": ("https://cdn.test/a?b=1&flag=", ("flag=", "flag"), "with = after a parameter"),
    "empty parameters lost": ("https://cdn.test/a?b=1&c=2", ("b=1&", "b=1&&"), "without empty parameters"),
    "a folder's wildcard": ("https://cdn.test/films/*", ("films/*", "films/a/b.mp4"), "canned policy was signed for a wildcard"),
    "a wildcard after the name": ("https://cdn.test/films*", ("films*", "films"), "canned policy was signed for a wildcard"),
    "non-ASCII by botocore": ("https://cdn.test/é", ("é", "%C3%A9"), "\\u escapes"),
    "two at once": ("http://cdn.test/a b?c", ("http://cdn.test/a b?c", "https://cdn.test/a%20b?c"), "signed for http://"),
}  # fmt: skip


@rows("signer", [RSA, EC])
@rows("name", SPELLINGS)
def test_finds_the_spelling_that_was_signed(name: str, signer: LocalSigner) -> None:
    url, (before, after), message = SPELLINGS[name]
    requested = signed(url, signer).replace(before, after, 1)
    report = look(requested)
    assert report.denial == "signature_mismatch"
    assert message.lower() in report.cause.lower()
    assert (report.code, report.message) == ("AccessDenied", "Access denied")


POLICY = '{"Statement":[{"Resource":"%s","Condition":{"DateLessThan":{"AWS:EpochTime":%s}}}]}'
GOOD = POLICY % ("https://cdn.test/*", SOON)


def raw(
    policy: bytes | str, text: str | None = None, signature: str | None = None, signer: LocalSigner = RSA
) -> str:
    data = policy if isinstance(policy, bytes) else policy.encode()
    text = cf_b64encode(data) if text is None else text
    signature = cf_b64encode(signer.sign(data, "SHA1")) if signature is None else signature
    return f"https://cdn.test/a?Policy={text}&Signature={signature}&Key-Pair-Id={signer.key_pair_id}"


SIGNATURE = cf_b64encode(RSA.sign(GOOD.encode(), "SHA1"))
PLAIN = signed("https://cdn.test/a", RSA)
CASES: dict[str, tuple[str, str, str]] = {
    # keys
    "the wrong id": (signed("https://cdn.test/a", OTHER, id_=RSA.key_pair_id), "signature_mismatch", "with the key K2TESTOTHER001"),
    "a trusted key under another id": (signed("https://cdn.test/a", EC, id_=RSA.key_pair_id), "signature_mismatch", "with the key K2TESTECDSA001"),
    "a key of no group here": (signed("https://cdn.test/a", OTHER), "unknown_key", "in no key group"),
    "an unknown id, a known signature": (signed("https://cdn.test/a", RSA, id_="KOLD"), "unknown_key", "with the key K2TESTRSA00001"),
    "the id in lower case": (signed("https://cdn.test/a", RSA, id_="k2testrsa00001"), "unknown_key", "upper and lower case"),
    "the id undefined": (signed("https://cdn.test/a", RSA, id_="undefined"), "unknown_key", "the word undefined"),
    "a key group's id": (signed("https://cdn.test/a", RSA, id_="4b4f2f1c-315d-5c2e-f093-216f50fed10f"), "unknown_key", "id of a key group"),
    "an account's key pair": (signed("https://cdn.test/a", RSA, id_="APKAEXAMPLE"), "unknown_key", "older kind"),
    "a key as the id": (signed("https://cdn.test/a", RSA, id_="-----BEGIN PUBLIC KEY-----AAAA"), "unknown_key", "not the key"),
    # hashes
    "SHA-256 unsaid": (signed("https://cdn.test/a", RSA, hash_name="SHA256"), "signature_mismatch", "Hash-Algorithm=SHA256 is missing"),
    "SHA-256 unsaid, ECDSA": (signed("https://cdn.test/a", EC, hash_name="SHA256"), "signature_mismatch", "Hash-Algorithm=SHA256 is missing"),
    "SHA-256 said, SHA-1 signed": (PLAIN + "&Hash-Algorithm=SHA256", "signature_mismatch", "with SHA1, but Hash-Algorithm says SHA256"),
    "a hash with a dash": (PLAIN + "&Hash-Algorithm=SHA-256", "unsupported_hash", "without a dash"),
    # times
    "milliseconds": (PLAIN.replace(f"Expires={SOON}", f"Expires={SOON}000"), "malformed_policy", f"in milliseconds; CloudFront takes seconds: {SOON}"),
    "milliseconds in a policy": (raw(POLICY % ("*", f"{SOON}000")), "malformed_policy", "in milliseconds"),
    "milliseconds signed, seconds sent": (
        f"https://cdn.test/a?Expires={SOON}&Key-Pair-Id={RSA.key_pair_id}&Signature="
        + cf_b64encode(RSA.sign(canned_policy("https://cdn.test/a", f"{SOON}000"), "SHA1")),
        "signature_mismatch", "milliseconds",
    ),
    "a date in Expires": (PLAIN.replace(f"Expires={SOON}", "Expires=2030-01-01"), "malformed_policy", "digits only"),
    "a fraction in Expires": (PLAIN.replace(f"Expires={SOON}", f"Expires={SOON}.5"), "malformed_policy", "fraction"),
    "a time in quotes": (raw(POLICY % ("*", f'"{SOON}"')), "malformed_policy", "in quotes"),
    "a time in quotes, canned": (
        f"https://cdn.test/a?Expires={SOON}&Key-Pair-Id={RSA.key_pair_id}&Signature="
        + cf_b64encode(RSA.sign((POLICY % ("https://cdn.test/a", f'"{SOON}"')).encode(), "SHA1")),
        "signature_mismatch", "time in quotes",
    ),
    "a time with a fraction": (raw(POLICY % ("*", f"{SOON}.0")), "malformed_policy", "fraction"),
    # policies
    "blanks in a canned policy": (
        f"https://cdn.test/a?Expires={SOON}&Key-Pair-Id={RSA.key_pair_id}&Signature="
        + cf_b64encode(RSA.sign((POLICY % ("https://cdn.test/a", SOON)).replace(":", ": ").replace("https: ", "https:").replace("AWS: ", "AWS:").replace(",", ", ").encode(), "SHA1")),
        "signature_mismatch", "held blanks",
    ),
    "a newline after a canned policy": (
        f"https://cdn.test/a?Expires={SOON}&Key-Pair-Id={RSA.key_pair_id}&Signature="
        + cf_b64encode(RSA.sign(canned_policy("https://cdn.test/a", str(SOON)) + b"\n", "SHA1")),
        "signature_mismatch", "ended with a newline",
    ),
    "a newline sent, not signed": (raw(GOOD + "\n", signature=SIGNATURE), "signature_mismatch", "without the white space"),
    "blanks sent, not signed": (raw(GOOD.replace(",", ", "), signature=SIGNATURE), "signature_mismatch", "before it was signed"),
    "another policy sent": (raw(GOOD.replace("cdn", "xyz"), signature=SIGNATURE), "signature_mismatch", "the Policy is not what was signed"),
    "a statement that is no array": (raw(GOOD.replace("[", "").replace("]", "")), "malformed_policy", "must be an array"),
    "two statements": (raw(GOOD.replace("}]}", "},{}]}")), "malformed_policy", "exactly one statement"),
    "no DateLessThan": (raw(GOOD.replace("DateLessThan", "DateGreaterThan")), "malformed_policy", "no DateLessThan"),
    "a list of resources": (raw(GOOD.replace('"https://cdn.test/*"', '["*"]')), "malformed_policy", "not a list"),
    "no JSON": (raw("hello"), "malformed_policy", "not JSON"),
    "a byte order mark": (raw(b"\xef\xbb\xbf" + GOOD.encode()), "malformed_policy", "byte order mark"),
    "base64 twice": (raw(cf_b64encode(GOOD.encode())), "malformed_policy", "base64 twice"),
    "a bad address": (raw(GOOD.replace("}}}]}", '},"IpAddress":{"AWS:SourceIp":"::1"}}}]}')), "malformed_policy", "IPv4"),
    # base64
    "the standard alphabet": (raw(GOOD, signature=SIGNATURE.replace("~", "/").replace("-", "%2B")), "malformed_signature", "standard base64 alphabet"),
    "the standard padding": (raw(GOOD, text=cf_b64encode((GOOD + " ").encode()).replace("_", "=") + "="), "malformed_policy", "standard base64"),
    "the url-safe alphabet": (raw(GOOD, signature=SIGNATURE.replace("~", "_")), "malformed_signature", "RFC 4648"),
    "no padding": (raw(GOOD, signature=SIGNATURE.rstrip("_")), "malformed_signature", "padding"),
    "a policy as it is": (raw(GOOD, text="{"), "malformed_policy", "not base64 at all"),
    "encoded twice": (raw(GOOD, signature=SIGNATURE.replace("_", "%255F")), "malformed_signature", "percent-encoded twice"),
    "undefined": (raw(GOOD, text="undefined"), "malformed_policy", "the word undefined"),
    "in quotes": (raw(GOOD, signature=f'"{SIGNATURE}"'), "malformed_signature", "in quotes"),
    # signatures of another form
    "r and s": (raw(GOOD, signature=cf_b64encode(b"x" * 64), signer=EC), "signature_mismatch", "raw r and s"),
    "a longer RSA key": (raw(GOOD, signature=cf_b64encode(b"x" * 512)), "signature_mismatch", "512 bytes"),
    "an RSA signature, an ECDSA id": (raw(GOOD, signature=cf_b64encode(b"x" * 256), signer=EC), "signature_mismatch", "size of an RSA"),
    "an ECDSA signature, an RSA id": (raw(GOOD, signature=cf_b64encode(b"x" * 71)), "signature_mismatch", "size of an ECDSA"),
    "a stranger's signature": (raw(GOOD, signature=cf_b64encode(b"x" * 256)), "signature_mismatch", "No known key made this"),
    "Expires edited": (PLAIN.replace(f"Expires={SOON}", f"Expires={SOON + 99}"), "signature_mismatch", "over another text"),
    # resources
    "a policy for http": (raw(POLICY % ("http://cdn.test/*", SOON)), "wrong_resource", "signed for http://"),
    "a policy for another host": (raw(POLICY % ("https://www.cdn.test/*", SOON)), "wrong_resource", "host www.cdn.test"),
    "a policy that grants no query": (raw(POLICY % ("https://cdn.test/a", SOON)) + "&x=1", "wrong_resource", "has a query"),
    "a policy without protocol": (raw(POLICY % ("cdn.test/*", SOON)), "wrong_resource", "neither http://"),
    "a policy for other folders": (raw(POLICY % ("https://cdn.test/b/*", SOON)), "wrong_resource", "for other URLs"),
    # nothing at all
    "no signature": ("https://cdn.test/a", "missing_key_pair_id", "Neither the URL nor a cookie"),
    "names in lower case": (PLAIN.replace("Expires", "expires").replace("Sig", "sig").replace("Key-Pair-Id", "key-pair-id"), "missing_key_pair_id", "its name must be"),
    "an S3 URL": ("https://cdn.test/a?X-Amz-Signature=x", "missing_key_pair_id", "signed for S3"),
    "only an id": (f"https://cdn.test/a?Key-Pair-Id={RSA.key_pair_id}", "missing_policy", "Expires or Policy, Signature"),
}  # fmt: skip


@rows("name", CASES)
def test_finds_the_mistake(name: str) -> None:
    url, denial, message = CASES[name]
    report = look(url)
    assert report.denial == denial
    assert message in report.cause


def test_cookies_are_explained_too() -> None:
    good = sign_cookies("https://cdn.test/*", RSA, expires=SOON, now=NOW).header
    assert look("https://cdn.test/a", good).granted
    assert look("https://cdn.test/a", good).mode == "cookies"
    for cookies, message in {
        "theme=dark": "no CloudFront-… ones",
        good.replace("CloudFront-", "cloudfront-"): "upper and lower case of their names",
        good.replace("CloudFront-Policy=", "CloudFront-Policy=undefined; x="): "sent the word undefined",
        good.replace("CloudFront-Signature", "x"): "CloudFront-Signature",
        good.replace("_", "%5F"): "is percent-encoded:",
    }.items():
        assert message in look("https://cdn.test/a", cookies).cause
    ignored = look("https://cdn.test/a?Expires=1", good)
    assert "makes them count for nothing" in ignored.cause
    assert ignored.mode == "url"
    by_hash = look("https://cdn.test/a?Hash-Algorithm=SHA256", good)
    assert (by_hash.mode, by_hash.denial) == ("url", "missing_key_pair_id")
    assert "makes them count for nothing" in by_hash.cause
    twice = look("https://cdn.test/a", f"{good}; {good}")
    assert "more than once" in twice.checks[0].hint
    both = look("https://cdn.test/a", f"{good}; CloudFront-Expires=1")
    assert "Policy counts" in both.checks[0].hint


def test_dates_are_told_with_their_distance() -> None:
    assert "expired 20 s ago" in look(PLAIN, now=SOON + 20).cause
    assert "clock" in look(PLAIN, now=SOON + 20).cause
    assert "expired 86400 s (24.0 hours) ago" in look(PLAIN, now=SOON + 86400).cause
    assert "clock" not in look(PLAIN, now=SOON + 86400).cause
    assert look(PLAIN, now=SOON).cause.startswith("It expired 0 s ago")
    starts = GOOD.replace("}}}]}", f'}},"DateGreaterThan":{{"AWS:EpochTime":{int(NOW) + 30}}}}}}}]}}')
    assert "in 30 s" in look(raw(starts)).cause
    assert look(raw(starts), now=NOW + 31).granted


def test_addresses_are_told() -> None:
    bound = raw(GOOD.replace("}}}]}", '},"IpAddress":{"AWS:SourceIp":"198.51.100.0/24"}}}]}'))
    assert "proxy or NAT" in look(bound).cause
    assert "IPv6" in look(bound, ip="2001:db8::1").cause
    unknown = look(bound, ip="")
    assert unknown.granted
    assert [check.passed for check in unknown.checks if check.name == "viewer's address"] == [None]
    assert look(bound, ip="198.51.100.9").granted


def test_what_is_pasted_is_read_as_a_browser_sends_it() -> None:
    url = signed("https://cdn.test/%C3%A9%20b", RSA)
    assert look(url.replace("%C3%A9%20b", "é b") + "#top").granted
    assert look(f"  {PLAIN}\n").granted
    assert look(PLAIN.replace("https://cdn.test", "HTTPS://CDN.test")).granted
    with pytest.raises(SigningError):
        look("cdn.test/a")


def test_raw_requests_are_taken_as_they_are() -> None:
    report = explain("https", "cdn.test", "/é漢?Expires=1&Signature=x&Key-Pair-Id=K", keyring=ring(), now=NOW)
    assert report.denial == "unknown_key"


ODD_TARGETS = [
    "/a\nb",
    "/\0",
    '/"\\',
    "/%",
    "/%zz+%2",
    "",
    "*",
    "//",
    "/a?&&&",
    "/é?\xff&" + "x&" * 50,
    "/\xff\xb5",
]
ODD_HOSTS = ["", "a/b", "[::1]:443", ":", "é", "\xff", "漢", "\ud800"]


@rows(
    ("target", "host"),
    [
        *((target, "cdn.test") for target in ODD_TARGETS),
        *(("/a", host) for host in ODD_HOSTS),
        *zip(ODD_TARGETS, ODD_HOSTS, strict=False),
    ],
)
def test_nothing_is_too_odd_to_be_explained(target: str, host: str) -> None:
    mark = "&" if "?" in target else "?"
    for signer in (RSA, EC):
        signature = cf_b64encode(signer.sign(b"x", "SHA1"))
        for credential in (f"Expires={SOON}", f"Policy={cf_b64encode(GOOD.encode())}"):
            tail = f"{credential}&Signature={signature}&Key-Pair-Id={signer.key_pair_id}"
            report = explain("https", host, f"{target}{mark}{tail}", keyring=ring(), now=NOW, known_keys=KEYS)
            assert report.denial in ("signature_mismatch", "wrong_resource")
            assert report.cause


def test_a_report_travels_as_json() -> None:
    text = look(PLAIN).to_json()
    assert '"granted": true' in text
    assert '"name": "trusted key"' in text


def test_the_gate_learns_nothing_from_it() -> None:
    keys = ring()
    explain_url(PLAIN, keyring=keys, now=NOW)
    assert keys.remembered == 0
