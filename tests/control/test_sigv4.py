"""SigV4 against botocore's signer: what it signs is accepted, and nothing else that resembles it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from keyfront.control.wire import sigv4
from keyfront.errors import ApiError
from keyfront.signing.sigv4 import EMPTY_SHA256
from tests.rows import rows

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SECRETS = {KEY: SECRET, "AKIAIOSFODNN7OTHER00": "other" * 8}


class Sent:
    """A signed request as received over the wire. Its attributes can be corrupted."""

    def __init__(
        self,
        method: str = "GET",
        url: str = "http://127.0.0.1:8081/2020-05-31/public-key",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        region: str = "us-east-1",
        service: str = "cloudfront",
        presigned: int = 0,
        token: str | None = None,
        secret: str = SECRET,
    ) -> None:
        request = AWSRequest(method=method, url=url, headers=headers or {}, data=body)
        credentials = Credentials(KEY, secret, token)
        if presigned:
            SigV4QueryAuth(credentials, service, region, presigned).add_auth(request)
        else:
            SigV4Auth(credentials, service, region).add_auth(request)
        prepared = request.prepare()
        parts = urlsplit(prepared.url)
        self.method, self.path, self.query, self.body = method, parts.path, parts.query, body
        default = {"http": ":80", "https": ":443"}[parts.scheme]  # HTTP clients omit it from Host
        self.headers: list[sigv4.Header] = [(b"host", parts.netloc.removesuffix(default).encode())]
        for name, value in prepared.headers.items():
            text = value if isinstance(value, bytes) else value.encode()
            self.headers.append((name.lower().encode(), text))
        stamp = request.context["timestamp"]
        self.time = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()

    def header(self, name: str, value: str | None) -> None:
        """Replace a header, or remove it."""
        self.headers = [pair for pair in self.headers if pair[0] != name.encode()]
        if value is not None:
            self.headers.append((name.encode(), value.encode()))

    def value(self, name: str) -> str:
        return next(value for key, value in self.headers if key == name.encode()).decode()

    def authorization(self, before: str, after: str) -> None:
        """Corrupt the Authorization header."""
        value = self.value("authorization")
        assert before in value
        self.header("authorization", value.replace(before, after))

    def verify(self, later: float = 0.0) -> str:
        digest = hashlib.sha256(self.body).hexdigest()
        request = sigv4.SignedRequest(self.method, self.path, self.query, self.headers, digest)
        return sigv4.verify(request, SECRETS.get, self.time + later)

    def refused(self, later: float = 0.0) -> ApiError:
        with pytest.raises(ApiError) as caught:
            self.verify(later)
        return caught.value


AWKWARD = "aZ09-_.~ /+%&=?#:@!$'()*,;[]é漢\"<>\\^`{|}"


def generated(seed: int) -> Sent:
    """A request with awkward parts; the URL is encoded as SDKs encode it."""
    r = random.Random(seed)
    presigned = r.choice([0, 0, 900])

    def text(most: int = 12) -> str:
        return "".join(r.choices(AWKWARD, k=r.randint(1, most)))

    path = "/2020-05-31/" + "/".join(quote(text(), safe="") for _ in range(r.randint(0, 3)))
    query = "&".join(
        r.choice(["{}={}", "{}=", "{}"] if r.random() < 0.3 else ["{}={}"]).format(
            quote(text(5), safe="-_.~"), quote(text(), safe="-_.~")
        )
        for _ in range(r.randint(0, 4))
    )
    headers = {f"x-amz-{number}": f"  {text(20).strip()}   {number} " for number in range(r.randint(0, 3))}
    if r.random() < 0.5:
        headers["If-Match"] = "E2QWRUHAPOMQZL"
    if r.random() < 0.2:
        headers["Date"] = "any"
    return Sent(
        r.choice(["GET", "POST", "PUT", "DELETE"]),
        f"http://{r.choice(['127.0.0.1:8081', 'localhost', '[::1]:80', 'cdn.example.com:443'])}{path}"
        + (f"?{query}" if query else ""),
        headers,
        r.randbytes(r.choice([0, 0, 1, 5000])) if not presigned else b"",
        region=r.choice(["us-east-1", "eu-west-1", "anything"]),
        presigned=presigned,
    )


@rows("seed", range(400))
def test_what_botocore_signs_is_accepted(seed: int) -> None:
    assert generated(seed).verify() == KEY


def test_dot_segments_are_signed_resolved() -> None:
    for path in ("x/../public-key", "./public-key//K1/", "../../public-key", "x/.."):
        assert Sent("GET", f"http://127.0.0.1:8081/2020-05-31/{path}").verify() == KEY


def test_with_tags_is_signed_as_an_empty_value() -> None:
    """boto sends `?WithTags`, Go `?WithTags=`; both sign `WithTags=` (cloudfront-semantics §7.8)."""
    sent = Sent("POST", "http://127.0.0.1:8081/2020-05-31/distribution?WithTags", {}, b"<x/>")
    assert sent.verify() == KEY
    sent.query = "WithTags="
    assert sent.verify() == KEY


SPOIL: dict[str, Callable[[Sent], object]] = {
    "another method": lambda s: setattr(s, "method", "DELETE"),
    "another path": lambda s: setattr(s, "path", s.path + "/K1"),
    "path's case": lambda s: setattr(s, "path", s.path.upper()),
    "path encoded": lambda s: setattr(s, "path", s.path.replace("-", "%2D", 1)),
    "a query more": lambda s: setattr(s, "query", "MaxItems=1"),
    "another body": lambda s: setattr(s, "body", s.body + b" "),
    "no body": lambda s: setattr(s, "body", b""),
    "another host": lambda s: s.header("host", "127.0.0.1:8082"),
    "no host": lambda s: s.header("host", None),
    "another If-Match": lambda s: s.header("if-match", "E2"),
    "no If-Match": lambda s: s.header("if-match", None),
    "two If-Matches": lambda s: s.headers.append((b"if-match", b"E3")),
    "another region": lambda s: s.authorization("us-east-1", "us-east-2"),
    "a signature of zeros": lambda s: s.header("authorization", s.value("authorization")[:-64] + "0" * 64),
    "another key's id": lambda s: s.authorization(KEY, "AKIAIOSFODNN7OTHER00"),
    "one second later": lambda s: s.header(
        "x-amz-date", datetime.fromtimestamp(s.time + 1, UTC).strftime("%Y%m%dT%H%M%SZ")
    ),
    "host not signed": lambda s: s.authorization("host;", ""),
    "fewer headers signed": lambda s: s.authorization("if-match;", ""),
    "another service": lambda s: s.authorization("/cloudfront/", "/s3/"),
    "another terminator": lambda s: s.authorization("aws4_request", "aws5_request"),
    "another day": lambda s: s.authorization(s.value("x-amz-date")[:8], "20110909"),
}  # fmt: skip


@rows("how", SPOIL)
def test_what_was_altered_is_refused(how: str) -> None:
    sent = Sent("PUT", headers={"If-Match": "E1"}, body=b"<PublicKeyConfig/>")
    assert sent.verify() == KEY
    SPOIL[how](sent)
    error = sent.refused()
    assert (error.code, error.status) == ("SignatureDoesNotMatch", 403)


def test_a_wrong_secret() -> None:
    error = Sent(secret="x" * 40).refused()
    assert (error.code, error.status) == ("SignatureDoesNotMatch", 403)
    assert error.message.startswith("The request signature we calculated does not match")
    assert "x" * 40 not in error.message


@pytest.mark.parametrize("presigned", [0, 900])
def test_an_unknown_key_and_a_session_token(presigned: int) -> None:
    for sent in (Sent(presigned=presigned), Sent(presigned=presigned, token="FwoGZXIvYXdz")):
        if "Security-Token" not in sent.query and not any(
            key == b"x-amz-security-token" for key, _ in sent.headers
        ):
            if presigned:
                sent.query = sent.query.replace(KEY, "AKIAUNKNOWN")
            else:
                sent.header("authorization", sent.value("authorization").replace(KEY, "AKIAUNKNOWN"))
        error = sent.refused()
        assert (error.code, error.status) == ("InvalidClientTokenId", 403)
        message, _, detail = error.message.partition(". ")
        assert message.rstrip(".") == "The security token included in the request is invalid"
        assert detail in {"", "Keyfront issues no session tokens: use an access key without one."}


@rows("later", [-300, -299, 0, 299, 300])
def test_clocks_may_differ_by_five_minutes(later: int) -> None:
    assert Sent().verify(later) == KEY


def test_an_old_and_an_early_request() -> None:
    sent = Sent()
    stamp = sent.value("x-amz-date")
    later, earlier = (
        datetime.fromtimestamp(sent.time + d, UTC).strftime("%Y%m%dT%H%M%SZ") for d in (301, -301)
    )
    edges = [datetime.fromtimestamp(sent.time + d, UTC).strftime("%Y%m%dT%H%M%SZ") for d in (1, -1)]
    error = sent.refused(301)
    assert (error.code, error.status) == ("SignatureDoesNotMatch", 403)
    assert error.message == f"Signature expired: {stamp} is now earlier than {edges[0]} ({later} - 5 min.)"
    error = sent.refused(-301)
    assert error.code == "SignatureDoesNotMatch"
    assert (
        error.message
        == f"Signature not yet current: {stamp} is still later than {edges[1]} ({earlier} + 5 min.)"
    )


def test_presigned_requests_live_as_long_as_they_say() -> None:
    sent = Sent(presigned=900)
    assert sent.verify(900) == KEY
    assert "Signature expired" in sent.refused(901).message
    assert "not yet current" in sent.refused(-301).message
    sent.query = sent.query.replace("X-Amz-Expires=900", "X-Amz-Expires=901")
    assert sent.refused().code == "SignatureDoesNotMatch"


@rows(
    ("before", "after"),
    [
        ("X-Amz-Expires=900", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=900", "X-Amz-Expires=0"),
        ("X-Amz-Expires=900", "X-Amz-Expires=-1"),
        ("X-Amz-Expires=900", "X-Amz-Expires=900&X-Amz-Expires=900"),
        ("&X-Amz-Expires=900", ""),
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        ("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=host%3Bhost"),
    ],
)
def test_presigned_requests_that_make_no_sense(before: str, after: str) -> None:
    sent = Sent(presigned=900)
    assert before in sent.query
    sent.query = sent.query.replace(before, after)
    error = sent.refused()
    assert (error.code, error.status) == ("IncompleteSignature", 400)


AUTHORIZATIONS = [
    ("", "must begin with"),
    ("Basic dXNlcjpwYXNz", "must begin with"),
    ("AWS AKIA:abc", "must begin with"),
    ("AWS4-HMAC-SHA256", "unknown or repeated part"),
    ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e", "requires 'Signature' parameter. Auth"),
    ("AWS4-HMAC-SHA256 Credential=a/b/c/d, SignedHeaders=host, Signature=" + "0" * 64, "exactly 5"),
    ("AWS4-HMAC-SHA256 Credential=a/b//d/e, SignedHeaders=host, Signature=" + "0" * 64, "exactly 5"),
    ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e,SignedHeaders=host, Signature=" + "0" * 63, "64 lower-case"),
    ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e,SignedHeaders=host, Signature=" + "A" * 64, "64 lower-case"),
    ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e,SignedHeaders=H, Signature=" + "0" * 64, "lower-case names"),
    ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e,SignedHeaders=x;host, Signature=" + "0" * 64, "in order"),
    ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e,SignedHeaders=host, SignedHeaders=host, Signature=x", "repeated"),
    ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e, Extra=x", "unknown or repeated part"),
    ("AWS4-HMAC-SHA256 ,,,", "unknown or repeated part"),
]  # fmt: skip


@rows(("header", "message"), AUTHORIZATIONS)
def test_headers_that_make_no_sense(header: str, message: str) -> None:
    sent = Sent()
    sent.header("authorization", header)
    error = sent.refused()
    assert (error.code, error.status) == ("IncompleteSignature", 400)
    assert message in error.message


def test_parts_without_blanks_between_them() -> None:
    sent = Sent()
    sent.header("authorization", sent.value("authorization").replace(", ", ","))
    assert sent.verify() == KEY


def test_no_signature_at_all() -> None:
    sent = Sent()
    sent.header("authorization", None)
    error = sent.refused()
    assert (error.code, error.message) == (
        "MissingAuthenticationToken",
        "Request is missing Authentication Token",
    )
    assert error.status == 403


@pytest.mark.parametrize("name", ["authorization", "host", "x-amz-date"])
def test_what_may_not_be_repeated(name: str) -> None:
    sent = Sent()
    sent.headers.append((name.encode(), sent.value(name).encode()))
    assert sent.refused().code == "IncompleteSignature"


def test_two_ways_at_once() -> None:
    sent, presigned = Sent(), Sent(presigned=900)
    sent.query = presigned.query
    assert sent.refused().code == "IncompleteSignature"


@rows("date", ["", "now", "20260101", "20261301T000000Z", "20260101T000000", "٢٠٢٦0101T000000Z"])
def test_dates_that_make_no_sense(date: str) -> None:
    sent = Sent()
    sent.header("x-amz-date", date)
    assert sent.refused().code == "IncompleteSignature"


def test_a_request_with_an_unsigned_body() -> None:
    """`UNSIGNED-PAYLOAD` is S3's; here the body is always part of what is signed."""
    sent = Sent(
        "POST", "https://127.0.0.1/2020-05-31/public-key", {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}, b"a"
    )
    assert sent.refused().code == "SignatureDoesNotMatch"
    digest = hashlib.sha256(b"a").hexdigest()
    sent = Sent("POST", "https://127.0.0.1/2020-05-31/public-key", {"X-Amz-Content-SHA256": digest}, b"a")
    assert sent.verify() == KEY
    sent.body = b"b"
    assert sent.refused().code == "SignatureDoesNotMatch"


texts = st.text(st.characters(max_codepoint=255), max_size=40)


@given(
    texts,
    texts,
    texts,
    st.lists(st.tuples(st.sampled_from([b"x-amz-date", b"host", b"date", b"a"]), st.binary(max_size=20))),
    st.one_of(
        texts,
        st.lists(st.tuples(st.sampled_from(["Credential=", "SignedHeaders=", "Signature=", ""]), texts)).map(
            lambda parts: "AWS4-HMAC-SHA256 " + ",".join(name + value for name, value in parts)
        ),
        texts.map(
            lambda t: f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/r/cloudfront/aws4_request,"
            f"SignedHeaders={t},Signature={'0' * 64}"
        ),
    ),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_whatever_is_sent_is_refused_in_order(
    method: str, path: str, query: str, headers: list[tuple[bytes, bytes]], authorization: str
) -> None:
    """`verify` returns a key id or raises ApiError, nothing else."""
    headers = [*headers, (b"authorization", authorization.encode("latin-1"))]
    with pytest.raises(ApiError):
        sigv4.verify(
            sigv4.SignedRequest(method, path, query, headers, EMPTY_SHA256), SECRETS.get, 1767225600.0
        )


@rows(
    ("headers", "query", "found"),
    [
        (
            [(b"authorization", b"AWS4-HMAC-SHA256 Credential=A/20261201/us-east-1/sts/aws4_request")],
            "",
            "sts",
        ),
        ([(b"host", b"x"), (b"authorization", b"Credential=A/20261201/us/monitoring/x")], "", "monitoring"),
        ([(b"authorization", b"AWS4-HMAC-SHA256 Credential=A/2026/us, Signature=x")], "", ""),
        ([], "X-Amz-Credential=A%2F20261201%2Fus%2Fmonitoring%2Faws4_request", "monitoring"),
        ([], "X-Amz-Credential=A%2F20261201", ""),
        ([], "a=b", ""),
    ],
)
def test_the_service_that_a_request_names(headers: list[tuple[bytes, bytes]], query: str, found: str) -> None:
    assert sigv4.claimed_service(headers, query) == found
