"""Signatures of S3 requests, checked against botocore's own signer: the same request gets the same signature."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from keyfront.edge.origin import sigv4
from keyfront.edge.types.messages import Headers
from keyfront.signing.sigv4 import EMPTY_SHA256
from tests.rows import rows

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
NOW = 1_790_000_000.0
HOST = (b"host", b"media.s3.eu-central-1.amazonaws.com")


def signed(
    path: str = "/a",
    query: str = "",
    headers: Headers | None = None,
    *,
    method: str = "GET",
    payload: str = EMPTY_SHA256,
    token: str = "",
    region: str = "eu-central-1",
) -> Headers:
    credentials = sigv4.Credentials(KEY, SECRET, token)
    request = sigv4.UnsignedRequest(method, path, query, [HOST, *(headers or [])], payload)
    return sigv4.signed(request, credentials, region, NOW)


def value(headers: Headers, name: bytes) -> str:
    (found,) = [value for key, value in headers if key == name]
    return found.decode()


def botocores(method: str, path: str, query: str, sent: Headers, token: str, region: str) -> str:
    """botocore's signature for the request that was sent."""
    auth = S3SigV4Auth(BotoCredentials(KEY, SECRET, token or None), "s3", region)
    authorization = value(sent, b"authorization")
    names = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    url = f"https://{HOST[1].decode()}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method=method, url=url)
    for name, text in sent:
        if name.decode() in names and name != b"host":
            request.headers.add_header(name.decode(), text.decode("latin-1"))
    request.context["timestamp"] = value(sent, b"x-amz-date")
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return str(auth.signature(text, request))


CASES: list[tuple[str, str, str, Headers, str]] = [
    ("GET", "/", "", [], ""),
    ("GET", "/a/b.jpg", "", [], ""),
    ("HEAD", "/a/b.jpg", "", [(b"range", b"bytes=0-99")], ""),
    ("GET", "/a b/c+d/%41/é/~x!$&'()*,;=:@", "", [], ""),
    ("GET", "//double///slash/", "", [], ""),
    ("GET", "/100%25/%2F/%3F%23", "versionId=3/L4+x&acl&response-content-type=text/plain", [], ""),
    ("GET", "/x", "b=2&a=1&b=1&=empty&c", [(b"x-amz-cf-id", b"AbC=="), (b"accept", b"*/*")], ""),
    ("GET", "/x", "", [(b"x-amz-meta-b", b"  two   words "), (b"x-amz-meta-a", b"1")], "a+token/=="),
    ("PUT", "/x", "", [(b"content-type", b"image/png"), (b"x-amz-acl", b"private")], ""),
]


@rows(("method", "path", "query", "headers", "token"), CASES)
def test_botocore_gives_the_same_signature(
    method: str, path: str, query: str, headers: Headers, token: str
) -> None:
    path, query = sigv4.canonical_path(path), sigv4.canonical_query(query)
    sent = signed(path, query, headers, method=method, token=token)
    expected = botocores(method, path, query, sent, token, "eu-central-1")
    assert value(sent, b"authorization").endswith(f", Signature={expected}")
    assert value(sent, b"x-amz-date") == datetime.fromtimestamp(NOW, UTC).strftime("%Y%m%dT%H%M%SZ")


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(max_codepoint=255), max_size=30),
    st.text(st.characters(max_codepoint=255), max_size=30),
)
def test_whatever_path_and_query(path: str, query: str) -> None:
    path = sigv4.canonical_path("/" + path.replace("?", ""))
    query = sigv4.canonical_query(query)
    sent = signed(path, query)
    expected = botocores("GET", path, query, sent, "", "eu-central-1")
    assert value(sent, b"authorization").endswith(f", Signature={expected}")
    assert sigv4.canonical_path(path) == path
    assert sigv4.canonical_query(query) == query


PATHS = [
    ("/a/b", "/a/b"),
    ("/a+b", "/a%2Bb"),
    ("/a%20b", "/a%20b"),
    ("/a%2fb", "/a/b"),
    ("/%41%7e", "/A~"),
    ("/caf\xe9", "/caf%E9"),
    ("/caf%c3%a9", "/caf%C3%A9"),
    ("/100%", "/100%25"),
    ("/a;b=c,d", "/a%3Bb%3Dc%2Cd"),
    ("/(x)!*'", "/%28x%29%21%2A%27"),
]


@rows(("path", "canonical"), PATHS)
def test_a_path_has_one_spelling(path: str, canonical: str) -> None:
    assert sigv4.canonical_path(path) == canonical
    assert unquote_to_bytes(canonical) == unquote_to_bytes(path.encode("latin-1"))


QUERIES = [
    ("", ""),
    ("acl", "acl="),
    ("b=2&a=1", "a=1&b=2"),
    ("a=2&a=1&a", "a=&a=1&a=2"),
    ("a=b+c", "a=b%20c"),
    ("a=b%2Bc", "a=b%2Bc"),
    ("&&a=b=c&", "a=b%3Dc"),
    ("prefix=a/b", "prefix=a%2Fb"),
]


@rows(("query", "canonical"), QUERIES)
def test_a_query_has_one_spelling(query: str, canonical: str) -> None:
    assert sigv4.canonical_query(query) == canonical


def test_signing_headers_of_a_viewer_are_replaced() -> None:
    viewers = [
        (b"authorization", b"AWS4-HMAC-SHA256 Credential=x"),
        (b"x-amz-date", b"20200101T000000Z"),
        (b"x-amz-security-token", b"theirs"),
        (b"x-amz-content-sha256", b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        (b"x-other", b"stays"),
    ]
    sent = signed("/a", headers=[*viewers])
    assert value(sent, b"x-other") == "stays"
    assert value(sent, b"x-amz-content-sha256") == EMPTY_SHA256
    assert "Credential=AKIAIOSFODNN7EXAMPLE/" in value(sent, b"authorization")
    assert not [name for name, _ in sent if name == b"x-amz-security-token"]


def test_range_host_and_every_amazon_field_are_signed_and_nothing_else() -> None:
    sent = signed("/a", headers=[(b"range", b"bytes=0-1"), (b"via", b"x"), (b"x-amz-cf-id", b"y")], token="t")
    names = value(sent, b"authorization").partition("SignedHeaders=")[2].partition(",")[0]
    assert names == "host;range;x-amz-cf-id;x-amz-content-sha256;x-amz-date;x-amz-security-token"


HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@rows(
    ("given_hash", "has_body", "expected"),
    [
        ("", False, EMPTY_SHA256),
        (HASH, False, EMPTY_SHA256),
        ("", True, sigv4.UNSIGNED),
        (HASH, True, HASH),
        (HASH.upper(), True, sigv4.UNSIGNED),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", True, sigv4.UNSIGNED),
    ],
)
def test_what_is_said_of_the_body(given_hash: str, has_body: bool, expected: str) -> None:
    headers = [(b"x-amz-content-sha256", given_hash.encode())] if given_hash else []
    assert sigv4.payload_hash(headers, has_body=has_body) == expected


def test_a_day_and_a_region_have_keys_of_their_own() -> None:
    credentials = sigv4.Credentials(KEY, SECRET)
    one = credentials.signing_key("20260101", "us-east-1")
    assert credentials.signing_key("20260102", "us-east-1") != one
    assert credentials.signing_key("20260101", "eu-west-1") != one
    assert credentials.signing_key("20260101", "us-east-1") == one
    assert SECRET not in repr(credentials)
