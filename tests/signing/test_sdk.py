# ruff: noqa: E501
"""Calls that the SDK refuses because they cannot work, each with advice, and the correct calls that it accepts."""

from __future__ import annotations

import http.cookiejar
import urllib.request
import warnings
from datetime import UTC, date, datetime, timedelta
from email.message import Message
from typing import Any

import pytest

import keyfront
from keyfront import (
    ExpiredWarning,
    KeyLoadError,
    KeyRing,
    LocalSigner,
    Policy,
    PolicyError,
    SigningError,
    expired_cookies,
    sign_cookies,
    sign_url,
)
from keyfront.signing.keys import cf_b64decode
from tests.rows import rows
from tests.signing.harness import EC, NOW, RSA, SOON, ask, reason
from tests.vectors.corpus import key

HOUR = timedelta(hours=1)
FILMS = "https://cdn.example.com/films/*"


# ---- cookies that no browser would send

DOMAINS = {
    "a scheme": ("https://example.com", "without a scheme: write 'example.com'"),
    "a scheme and a path": ("https://example.com/films", "without a scheme: write 'example.com'"),
    "a scheme and a port": ("http://example.com:8080", "without a scheme: write 'example.com'"),
    "a path": ("example.com/films", "without a path: write 'example.com'"),
    "a slash": ("example.com/", "without a path"),
    "a port": ("example.com:8443", "without a port: write 'example.com'"),
    "a wildcard": ("*.example.com", "without any \\*: write 'example.com'"),
    "a dot and a wildcard": (".*.example.com", "without any \\*"),
    "another host": ("other.org", "does not cover the policy's host cdn.example.com"),
    "a host below": ("x.cdn.example.com", "does not cover"),
    "a host beside": ("www.example.com", "does not cover"),
    "the end of a name": ("ample.com", "does not cover"),
    "beyond ASCII": ("exämple.com", "xn--"),
    "blanks": (" example.com", "host name"),
    "two dots": ("..example.com", "host name"),
    "nothing but a dot": (".", "host name"),
    "nothing": ("", "host name"),
    "a user": ("me@example.com", "host name"),
    "a query": ("example.com?x", "host name"),
    "cloudfront.net": ("d1.cloudfront.net", "alternate domain name"),
    "two slashes": ("//example.com", "write 'example.com'"),
    "an IPv6 address": ("::1", "leave domain out"),
    "a single label": ("com", "does not cover"),
}


@rows("what", DOMAINS)
def test_a_domain_that_cannot_work_is_refused(what: str) -> None:
    domain, message = DOMAINS[what]
    with pytest.raises(SigningError, match=message):
        sign_cookies(FILMS, RSA, expires=HOUR, domain=domain, now=NOW)


@pytest.mark.parametrize("domain", [5, ["example.com"]])
def test_a_domain_that_is_no_text_is_refused(domain: Any) -> None:
    with pytest.raises(SigningError, match="host name as text"):
        sign_cookies(FILMS, RSA, expires=HOUR, domain=domain, now=NOW)


@rows(
    ("resource", "domain"),
    [
        (FILMS, "example.com"),
        (FILMS, ".example.com"),
        (FILMS, "EXAMPLE.com"),
        (FILMS, "cdn.example.com"),
        ("https://CDN.example.com:443/films/*", "example.com"),
        ("https://cdn.example.com:8443/films/*", "cdn.example.com"),
        ("https://*.example.com/films/*", "example.com"),
        ("https://*.example.com/films/*", "eu.example.com"),
        ("https://*.eu.example.com/films/*", "example.com"),
        ("https://cdn*.example.com/*", "example.com"),
        ("https://*", "example.com"),
        ("http*://cdn.example.com/*", "example.com"),
        ("*", "example.com"),
        ("https://192.0.2.7/*", "192.0.2.7"),
        ("https://localhost/*", "localhost"),
        ("https://d1.cloudfront.localhost:8443/*", "cloudfront.localhost"),
        ("https://d1.cloudfront.localhost:8443/*", "localhost"),
        ("https://cdn?.example.com/*", "example.com"),
        ("*cdn.example.com/*", "example.com"),
        ("*example.com*", "example.com"),
        ("*.jpg", "example.com"),
        ("*/films/*", "example.com"),
    ],
)
def test_a_domain_that_covers_the_resource_is_taken(resource: str, domain: str) -> None:
    cookies = sign_cookies(resource, RSA, expires=HOUR, domain=domain, now=NOW)
    assert f"; Domain={domain};" in cookies.set_cookie[0]


@rows(
    ("resource", "domain"),
    [
        ("https://*.example.org/*", "example.com"),
        ("https://*xample.org/*", "example.com"),
        ("https://*example.com.evil.org/*", "example.com"),
        ("https://192.0.2.7/*", "0.2.7.example"),
        ("https://192.0.2.7/*", "2.7"),
        ("*c.example.com/*", "example.org"),
        ("https://c?.example.com/*", "example.org"),
    ],
)
def test_a_domain_that_covers_no_host_of_a_pattern_is_refused(resource: str, domain: str) -> None:
    with pytest.raises(SigningError, match="does not cover"):
        sign_cookies(resource, RSA, expires=HOUR, domain=domain, now=NOW)


PATHS = {
    "a wildcard": ("/images/*", "write '/images', not '/images/\\*'"),
    "a wildcard in the middle": ("/im*/x", "write '/im'"),
    "only a wildcard": ("/*", "write '/'"),
    "a query": ("/films?x=1", "write '/films'"),
    "a fragment": ("/films#x", "write '/films'"),
    "a URL": ("https://cdn.example.com/films", "path of a URL only"),
    "another folder": ("/music", "covers no URL of the policy's Resource"),
    "a part of a name": ("/fil", "covers no URL"),
    "upper case": ("/Films", "covers no URL"),
    "no slash": ("films", "begins with /"),
    "letters beyond ASCII": ("/fïlms", "percent-encode"),
}


@rows("what", PATHS)
def test_a_path_that_cannot_work_is_refused(what: str) -> None:
    path, message = PATHS[what]
    with pytest.raises(SigningError, match=message):
        sign_cookies(FILMS, RSA, expires=HOUR, path=path, now=NOW)


@rows(
    ("resource", "path"),
    [
        (FILMS, "/"), (FILMS, "/films"), (FILMS, "/films/"), (FILMS, "/films/new"), ("https://cdn.example.com*", "/x"),
        ("https://cdn.example.com/*/films/*", "/any/films"), ("https://cdn.example.com/*.jpg", "/a"), ("*", "/a"), ("*/films/*", "/a/films"),
        ("https://cdn.example.com/films?x=*", "/films"), ("https://cdn.example.com/fi?ms/*", "/films"),
    ],
)  # fmt: skip
def test_a_path_that_covers_the_resource_is_taken(resource: str, path: str) -> None:
    assert sign_cookies(resource, RSA, expires=HOUR, path=path, now=NOW).attributes["path"] == path


def test_canned_cookies_have_to_reach_their_one_url() -> None:
    url = "https://cdn.example.com/films/a.mp4"
    sign_cookies(url, RSA, expires=HOUR, canned=True, path="/films", domain="example.com", now=NOW)
    for arguments in ({"path": "/music"}, {"domain": "example.org"}):
        with pytest.raises(SigningError, match="cover"):
            sign_cookies(url, RSA, expires=HOUR, canned=True, now=NOW, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["text", "policy", "bytes", "canned"])
def test_secure_cookies_for_an_http_policy_are_refused(how: str) -> None:
    resource: Any = "http://cdn.example.com/films/*"
    arguments: dict[str, Any] = {"expires": HOUR}
    if how in ("policy", "bytes"):
        resource, arguments = Policy(resource, HOUR), {}
    if how == "bytes":
        resource = resource.to_bytes(NOW)
    if how == "canned":
        resource, arguments = "http://cdn.example.com/films/a.mp4", {"expires": HOUR, "canned": True}
    with pytest.raises(SigningError, match=r"Secure cookies by https only.*secure=False"):
        sign_cookies(resource, RSA, now=NOW, **arguments)
    assert "Secure" not in sign_cookies(resource, RSA, now=NOW, secure=False, **arguments).set_cookie[0]


@rows(
    "resource",
    [
        "http*://cdn.example.com/*",
        "*://cdn.example.com/*",
        "*",
        "http://localhost:8080/*",
        "http://127.0.0.1/*",
    ],
)
def test_secure_cookies_for_what_may_be_https_are_taken(resource: str) -> None:
    """Browsers treat localhost like https."""
    assert "; Secure" in sign_cookies(resource, RSA, expires=HOUR, now=NOW).set_cookie[0]


# ---- bucket hosts

BUCKETS = (
    "films.s3.amazonaws.com", "films.s3.eu-central-1.amazonaws.com", "films.s3-eu-west-1.amazonaws.com", "s3.amazonaws.com",
    "films.s3-website-us-east-1.amazonaws.com", "films.s3-website.eu-central-1.amazonaws.com", "S3.eu-west-1.AmazonAWS.com",
    "films.storage.googleapis.com", "films.s3.amazonaws.com.", "films--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com",
    "films.s3.dualstack.us-west-2.amazonaws.com", "films.s3.cn-north-1.amazonaws.com.cn", "my.films.s3.amazonaws.com",
)  # fmt: skip


@rows("host", BUCKETS)
def test_the_host_of_a_bucket_is_refused(host: str) -> None:
    for call in (
        lambda: sign_url(f"https://{host}/a.mp4", RSA, expires=HOUR, now=NOW),
        lambda: sign_url(f"https://{host}/a.mp4", RSA, expires=HOUR, ip="192.0.2.7", now=NOW),
        lambda: sign_cookies(f"https://{host}/*", RSA, expires=HOUR, now=NOW),
        lambda: sign_cookies(f"https://{host}/a", RSA, expires=HOUR, canned=True, now=NOW),
        lambda: sign_cookies(Policy(f"https://{host}/*", HOUR), RSA, now=NOW),
    ):
        with pytest.raises(SigningError, match="is the host of a bucket"):
            call()


@pytest.mark.parametrize(
    "host",
    [
        "s3.example.com",
        "amazonaws.com.example.com",
        "s3cdn.test",
        "films.execute-api.eu-west-1.amazonaws.com",
    ],
)
def test_hosts_that_only_look_like_a_buckets_are_taken(host: str) -> None:
    assert sign_url(f"https://{host}/a", RSA, expires=HOUR, now=NOW)


# ---- times


def test_what_has_expired_already_warns_with_a_type_of_its_own() -> None:
    assert issubclass(ExpiredWarning, RuntimeWarning)
    over = int(NOW) - 60
    with pytest.warns(ExpiredWarning, match=f"expired already .at epoch second {over}") as caught:
        url = sign_url("https://cdn.test/a", RSA, expires=over, now=NOW)
    assert caught[0].filename == __file__
    assert reason(url) == "expired"
    with pytest.warns(ExpiredWarning):
        sign_url("https://cdn.test/a", RSA, policy=Policy("https://cdn.test/*", over), now=NOW)
    with pytest.warns(ExpiredWarning):
        sign_url("https://cdn.test/a", RSA, expires=timedelta(seconds=-1), now=NOW)
    with pytest.warns(ExpiredWarning) as caught:
        sign_cookies("https://cdn.test/*", RSA, expires=int(NOW), now=NOW)
    assert caught[0].filename == __file__
    with pytest.warns(ExpiredWarning):  # by the clock
        sign_url("https://cdn.test/a", RSA, expires=datetime(2020, 1, 1, tzinfo=UTC))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sign_url("https://cdn.test/a", RSA, expires=int(NOW) + 1, now=NOW)
        sign_cookies("https://cdn.test/*", RSA, expires=HOUR)


@rows(
    ("expires", "message"),
    [
        (datetime(2030, 1, 1), "without a time zone.*datetime.now"),
        (NOW + 3600, "not float: round it"),
        (str(SOON), "not str: give int"),
        (date(2030, 1, 1), "not date: give a datetime"),
        (True, "not bool"),
        (SOON * 1000, "milliseconds"),
        (3600, "timedelta\\(seconds=3600\\)"),
        ([SOON], "not list"),
    ],
)
def test_moments_that_are_none_say_what_to_give(expires: Any, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        sign_url("https://cdn.test/a", RSA, expires=expires, now=NOW)
    with pytest.raises(PolicyError, match=message):
        sign_cookies("https://cdn.test/*", RSA, expires=expires, now=NOW)


# ---- ids and keys

IDS = {
    "undefined": ("undefined", "sent the word undefined"),
    "None": ("None", "sent the word None"),
    "null": ("null", "sent the word null"),
    "nothing": ("", "not a key pair id"),
    "None itself": (None, "sent the word None"),
    "a number": (5.5, "not a key pair id"),
    "a UUID": ("4b4f2f1c-315d-5c2e-f093-216f50fed10f", "id of a key group"),
    "a UUID in upper case": ("4B4F2F1C-315D-5C2E-F093-216F50FED10F", "id of a key group"),
    "an access key": ("AKIAIOSFODNN7EXAMPLE", "access key of AWS"),
    "a temporary access key": ("ASIAIOSFODNN7EXAMPLE", "access key of AWS"),
    "a distribution": ("E2QWRUHAPOMQZL", "id of a distribution"),
    "an ARN": ("arn:aws:cloudfront::1:public-key/K1", "ARN"),
    "a key": ("-----BEGIN PUBLIC KEY-----", "not the key"),
    "a blank before": (" K2JCJMDEHXQW5F", "blanks or a line end"),
    "a line end": ("K2JCJMDEHXQW5F\n", "blanks or a line end"),
    "quotes": ('"K2JCJMDEHXQW5F"', "in quotes"),
}


@rows("what", IDS)
def test_an_id_that_is_none_is_refused(what: str) -> None:
    id_, message = IDS[what]
    private = key("ec")
    with pytest.raises(SigningError, match=message) as raised:
        LocalSigner(id_, private)  # type: ignore[arg-type]
    assert "K2JCJMDEHXQW5F" in str(raised.value)


def test_what_may_be_a_key_is_not_shown() -> None:
    with pytest.raises(SigningError, match="this is not a key pair id") as raised:
        LocalSigner("Zm9vYmFy" * 8 + "x", key("ec"))
    assert "Zm9v" not in str(raised.value)


@rows("id_", ["EXAMPLEKEY1", "K2JCJMDEHXQW5F", "APKAEXAMPLE", "KEC", "K1", "E1"])
def test_ids_that_may_be_are_taken(id_: str) -> None:
    assert LocalSigner(id_, key("ec")).key_pair_id == id_


def test_constructors_say_what_they_take() -> None:
    pem = key("ec").to_pem()
    two: Any = ["https://a.test/*", "https://b.test/*"]
    cases: list[tuple[Any, str]] = [
        (lambda: Policy(two, HOUR), "one Resource, and this is a list of 2"),
        (lambda: Policy(("https://a.test/*",), HOUR), "one Resource, and this is a tuple"),  # type: ignore[arg-type]
        (lambda: Policy({"Statement": []}, HOUR), "whole policy document"),  # type: ignore[arg-type]
        (lambda: Policy('{"Statement": []}', HOUR), "whole policy document"),
        (lambda: Policy(b"https://a.test/*", HOUR), "text of a URL"),  # type: ignore[arg-type]
        (lambda: Policy(5, HOUR), "text of a URL"),  # type: ignore[arg-type]
        (lambda: Policy("https://a.test/*", HOUR, ip=["192.0.2.7", "192.0.2.8"]), "ip is one IPv4"),  # type: ignore[arg-type]
        (lambda: sign_cookies([FILMS], RSA, expires=HOUR), "one Resource, and this is a list"),  # type: ignore[arg-type]
        (lambda: sign_cookies(None, RSA, expires=HOUR), "not a NoneType"),  # type: ignore[arg-type]
        (lambda: sign_url(["https://a.test/"], RSA, expires=HOUR), "one at a time"),  # type: ignore[arg-type]
        (lambda: sign_url("https://a.test/", RSA, expires=HOUR, resource=[FILMS]), "one Resource"),  # type: ignore[arg-type]
        (lambda: LocalSigner("K1", pem), "load_signer"),  # type: ignore[arg-type]
        (lambda: KeyRing(["K1"]), "mapping of key ids"),  # type: ignore[arg-type]
    ]
    for call, message in cases:
        with pytest.raises((SigningError, KeyLoadError), match=message):
            call()


# ---- correct calls

DISPOSITION = "response-content-disposition=attachment%3B%20filename*%3DUTF-8%27%27na%C3%AFve.pdf"
BARE = "response-content-disposition=attachment; filename*=UTF-8''na%C3%AFve.pdf"


@rows("signer", [RSA, EC])
@rows("query", [DISPOSITION, BARE, "q=a*b", "q=*.jpg&x=1", "select=*", "a**b", "*=1"])
def test_a_star_in_a_query_stands_for_itself(query: str, signer: LocalSigner) -> None:
    url = f"https://cdn.test/a.pdf?{query}"
    signed = sign_url(url, signer, expires=HOUR, now=NOW)
    assert ask(signed).canned
    assert "*" in signed
    cookies = sign_cookies(url, signer, expires=HOUR, canned=True, now=NOW)
    assert reason(signed.partition("&Expires")[0], cookies.header) == "granted"
    limited = sign_url(url, signer, expires=HOUR, ip="192.0.2.7", now=NOW)
    assert ask(limited).resource is not None
    assert "*" not in (ask(limited).resource or "*"), "in a policy a * would be a wildcard"


@pytest.mark.parametrize(
    "url", ["https://cdn.test/*", "https://cdn.test/a*b", "https://cdn.test/a?*", "https://cdn.test/a?x=1&*"]
)
def test_a_star_that_was_meant_as_a_wildcard_is_refused(url: str) -> None:
    for call in (
        lambda: sign_url(url, RSA, expires=HOUR, now=NOW),
        lambda: sign_url(url, RSA, expires=HOUR, ip="192.0.2.7", now=NOW),
        lambda: sign_cookies(url, RSA, expires=HOUR, canned=True, now=NOW),
    ):
        with pytest.raises(PolicyError, match="not a wildcard"):
            call()


# ---- log out


class Answer:
    """A response with Set-Cookie headers, as http.cookiejar reads one."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        self.headers = Message()
        for line in lines:
            self.headers["Set-Cookie"] = line

    def info(self) -> Message:
        return self.headers


ATTRIBUTES: tuple[dict[str, Any], ...] = (
    {},
    {"domain": "example.com"},
    {"domain": ".example.com", "path": "/films"},
    {"path": "/films/", "http_only": False},
    {"domain": "cdn.example.com", "same_site": "None"},
    {"same_site": "None", "partitioned": True},
    {"same_site": "Strict", "secure": False},
)


@rows("attributes", ATTRIBUTES)
@rows("canned", [False, True])
def test_one_call_deletes_what_was_set_from_a_real_cookie_jar(
    attributes: dict[str, Any], canned: bool
) -> None:
    url = "https://cdn.example.com/films/a.mp4"
    jar = http.cookiejar.CookieJar()
    request = urllib.request.Request(url)

    def sent() -> str:
        asked = urllib.request.Request(url)
        jar.add_cookie_header(asked)
        return asked.get_header("Cookie") or ""

    made = sign_cookies(url if canned else FILMS, EC, expires=HOUR, canned=canned, now=NOW, **attributes)
    other = Answer((f"theme=dark; Path=/{'; Domain=example.com'}",))
    jar.extract_cookies(Answer(made.set_cookie), request)  # type: ignore[arg-type]
    jar.extract_cookies(other, request)  # type: ignore[arg-type]
    assert reason(url, sent()) == "granted"
    gone = expired_cookies(**attributes)
    jar.extract_cookies(Answer(gone.set_cookie), request)  # type: ignore[arg-type]
    assert sent() == "theme=dark"
    assert set(gone.values) == {
        "CloudFront-Expires", "CloudFront-Policy", "CloudFront-Signature", "CloudFront-Key-Pair-Id", "CloudFront-Hash-Algorithm",
    }  # fmt: skip
    for line, set_ in zip(gone.set_cookie, [made.set_cookie[0]] * 5, strict=True):
        assert line.endswith("; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT")
        assert line.partition("; ")[2].partition("; Max-Age")[0] == set_.partition("; ")[2]


def test_cookies_of_another_path_stay() -> None:
    url = "https://cdn.example.com/films/a.mp4"
    jar = http.cookiejar.CookieJar()
    request = urllib.request.Request(url)
    made = sign_cookies(FILMS, EC, expires=HOUR, now=NOW, path="/films")
    jar.extract_cookies(Answer(made.set_cookie), request)  # type: ignore[arg-type]
    jar.extract_cookies(Answer(expired_cookies().set_cookie), request)  # type: ignore[arg-type]
    assert len(list(jar)) == 4


def test_frameworks_take_the_attributes_of_deletion() -> None:
    from starlette.responses import Response

    gone = expired_cookies(domain="example.com", path="/films", same_site="None", partitioned=False)
    response = Response()
    attributes: dict[str, Any] = dict(gone.attributes)
    for name, value in gone.values.items():
        response.set_cookie(name, value, **attributes)
    for header, ours in zip(response.headers.getlist("set-cookie"), gone.set_cookie, strict=True):
        assert set(header.lower().replace('""', "").split("; ")) == set(ours.lower().split("; "))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "https://example.com"}, "without a scheme"),
        ({"path": "/images/*"}, "without any"),
        ({"same_site": "None", "secure": False}, "Secure"),
        ({"domain": "d1.cloudfront.net"}, "alternate domain name"),
    ],
)
def test_deletion_refuses_the_same_attributes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SigningError, match=message):
        expired_cookies(**arguments)


def test_the_new_names_are_the_sdks() -> None:
    assert {"Cause", "ExpiredWarning", "expired_cookies"} <= set(keyfront.__all__)
    assert all(hasattr(keyfront, name) for name in keyfront.__all__)


def test_policies_are_signed_as_the_url_that_travels() -> None:
    limited = sign_url(f"https://cdn.test/a?{BARE}", RSA, expires=HOUR, ip="192.0.2.7", now=NOW)
    policy = cf_b64decode(limited.partition("Policy=")[2].partition("&")[0])
    assert b"filename%2A=UTF-8%27%27" in policy
    assert "filename%2A=UTF-8%27%27" in limited
