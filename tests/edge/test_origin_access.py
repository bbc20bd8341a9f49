"""Requests to origins that require signatures: signed always or never, whatever a viewer sends (cloudfront-semantics
§5.14). The origin checks each signature with botocore's signer."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from keyfront.edge.origin.access import OriginAccess
from keyfront.edge.origin.access import SignedOriginRequest as Sent
from keyfront.edge.origin.sigv4 import UNSIGNED
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.errors import OriginFailure
from keyfront.model.snapshot import Behavior, Origin, OriginGroup, Select, Snapshot
from keyfront.signing.sigv4 import EMPTY_SHA256
from tests.origin import ReceivedRequest, ScriptedOrigin, answer
from tests.sites import site
from tests.viewer import Clock, EdgeHarness

KEY, SECRET, TOKEN = "AKIDEXAMPLE", "verysecretindeed/verysecretindeed", "a/session+token=="

pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


def credentials(folder: Path, more: str = "", *, title: str = "default") -> Path:
    path = folder / "origin-credentials"
    path.write_text(f"[{title}]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n{more}")
    path.chmod(0o600)
    return path


def settings(path: Path | None) -> EdgeSettings:
    return EdgeSettings(
        memory=1 << 22, max_object=1 << 20, origin_credentials="" if path is None else str(path)
    )


def behavior(**members: Any) -> Behavior:
    """A behavior that forwards what it can, and caches for a day."""
    every = Select("all")
    found: dict[str, Any] = {
        "key_query": every,
        "forward_query": every,
        "allowed_methods": ("GET", "HEAD", "OPTIONS", "PUT", "POST"),
    }
    return Behavior("*", "scripted", **(found | members))


def signed_by(asked: ReceivedRequest, *, region: str = "us-east-1", token: str = "") -> str:
    """Verify the signature of the request as received. Returns the names of the signed headers."""
    authorization = asked.header("authorization")
    assert authorization is not None
    date = asked.header("x-amz-date") or ""
    head, names, signature = authorization.split(", ")
    assert head == f"AWS4-HMAC-SHA256 Credential={KEY}/{date[:8]}/{region}/s3/aws4_request"
    covered = names.removeprefix("SignedHeaders=").split(";")
    request = AWSRequest(method=asked.method, url=f"http://{asked.header('host')}{asked.target}")
    for name, value in asked.headers:
        if name in covered and name != "host":
            request.headers.add_header(name, value)
    request.context["timestamp"] = date
    auth = S3SigV4Auth(Credentials(KEY, SECRET, token or None), "s3", region)
    expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    assert signature == f"Signature={expected}"
    assert asked.header("x-amz-security-token") == (token or None)
    every = {name for name, _ in asked.headers if name.startswith("x-amz-")}
    assert every <= set(covered), "S3 refuses such a field that is not signed"
    return ";".join(covered)


# ---- always


async def test_every_request_is_signed_over_host_path_query_and_range(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.on("/film/a%2Bb%20c.mp4", answer(200, b"film"))
        snapshot = site(origin.origin(signing="always", path="/film"), behavior())
        path = credentials(tmp_path, f"aws_session_token = {TOKEN}\n")
        async with EdgeHarness(snapshot, settings=settings(path)) as harness:
            seen = await harness.get("/a+b%20c.mp4?b=2&a=x+y&acl")
            assert (seen.status, seen.body) == (200, b"film")
            (asked,) = origin.requests
            assert asked.target == "/film/a%2Bb%20c.mp4?a=x%20y&acl=&b=2"
            covered = signed_by(asked, token=TOKEN)
            assert covered.startswith("host;x-amz-cf-id;")
            assert asked.header("x-amz-content-sha256") == EMPTY_SHA256
            again = await harness.get("/a+b%20c.mp4?b=2&a=x+y&acl")
            assert again.x_cache == "Hit"
        assert origin.faults == []


async def test_a_range_that_is_sent_is_signed(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.on("/big", answer(206, b"0123", {"Content-Range": "bytes 0-3/10"}))
        uncached = behavior(max_ttl=0, default_ttl=0, forward_headers=Select("whitelist", ("range",)))
        async with EdgeHarness(
            site(origin.origin(signing="always"), uncached), settings=settings(credentials(tmp_path))
        ) as harness:
            seen = await harness.get("/big", headers=[("Range", "bytes=0-3")])
            assert (seen.status, seen.body) == (206, b"0123")
            assert "range" in signed_by(origin.requests[0]).split(";")


@pytest.mark.parametrize("caching", [True, False])
async def test_a_viewers_authorization_is_overwritten(tmp_path: Path, caching: bool) -> None:
    """Therefore the response may serve every viewer: the viewer's field was never forwarded (RFC 9111 §3.5)."""
    listed = Select("whitelist", ("authorization",))
    members: dict[str, Any] = {"forward_headers": listed}
    if not caching:
        members |= {"max_ttl": 0, "default_ttl": 0}
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"one"), answer(200, b"two"))
        snapshot = site(origin.origin(signing="always"), behavior(**members))
        async with EdgeHarness(snapshot, settings=settings(credentials(tmp_path))) as harness:
            theirs = [
                ("Authorization", "Bearer viewer"),
                ("X-Amz-Date", "20200101T000000Z"),
                ("X-Amz-Security-Token", "viewer"),
            ]
            assert (await harness.get("/a", headers=theirs)).body == b"one"
            signed_by(origin.requests[0])
            second = await harness.get("/a", headers=[("Authorization", "Bearer other")])
            assert second.body == (b"one" if caching else b"two")


async def test_a_body_is_sent_unsigned_or_by_the_hash_that_the_viewer_gives(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.on("/up", answer(200))
        every = behavior(legacy=True)
        async with EdgeHarness(
            site(origin.origin(signing="always"), every), settings=settings(credentials(tmp_path))
        ) as harness:
            digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
            for given, expected in ((None, UNSIGNED), (digest, digest), ("x" * 64, UNSIGNED)):
                headers = [] if given is None else [("X-Amz-Content-SHA256", given)]
                assert (await harness.get("/up", headers=headers, method="PUT", body=b"hello")).status == 200
                asked = origin.requests[-1]
                assert (asked.body, asked.header("x-amz-content-sha256")) == (b"hello", expected)
                signed_by(asked)
            assert (await harness.get("/up", method="POST")).status == 200
            assert origin.requests[-1].header("x-amz-content-sha256") == EMPTY_SHA256


async def test_the_host_is_the_origins_own_whatever_is_forwarded(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"a"))
        forwards = behavior(forward_headers=Select("all"), key_headers=Select("whitelist", ("host",)))
        async with EdgeHarness(
            site(origin.origin(signing="always"), forwards), settings=settings(credentials(tmp_path))
        ) as harness:
            assert (await harness.get("/a")).status == 200
            assert origin.requests[0].header("host") == f"127.0.0.1:{origin.port}"
            signed_by(origin.requests[0])


# ---- no-override and never


async def test_no_override_lets_a_viewers_authorization_pass_and_signs_without_one(tmp_path: Path) -> None:
    listed = Select("whitelist", ("authorization",))
    async with ScriptedOrigin() as origin:
        origin.on("/a b", answer(200))
        origin.on("/a%20b", answer(200))
        snapshot = site(
            origin.origin(signing="no-override"), behavior(key_headers=listed, forward_headers=listed)
        )
        async with EdgeHarness(snapshot, settings=settings(credentials(tmp_path))) as harness:
            await harness.get("/a%20b?x=b+c", headers=[("Authorization", "Bearer viewer")])
            theirs = origin.requests[0]
            assert theirs.header("authorization") == "Bearer viewer"
            assert theirs.target == "/a%20b?x=b+c", "whoever signed it signed it as it is"
            assert theirs.header("x-amz-date") is None
            await harness.get("/a%20b?x=b+c")
            signed_by(origin.requests[1])


async def test_no_override_signs_if_the_behavior_does_not_forward_authorization(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200))
        snapshot = site(origin.origin(signing="no-override"), behavior())
        async with EdgeHarness(snapshot, settings=settings(credentials(tmp_path))) as harness:
            await harness.get("/a", headers=[("Authorization", "Bearer viewer")])
            signed_by(origin.requests[0])


async def test_never_means_never(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.on("/a+b", answer(200))
        async with EdgeHarness(
            site(origin.origin(), behavior()), settings=settings(credentials(tmp_path))
        ) as harness:
            assert (await harness.get("/a+b")).status == 200
            assert origin.requests[0].header("authorization") is None
            assert origin.requests[0].header("x-amz-date") is None


# ---- without credentials


async def test_without_credentials_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with ScriptedOrigin() as origin:
        snapshot = site(origin.origin(signing="always"), behavior())
        with caplog.at_level(logging.WARNING, "keyfront.edge"):
            async with EdgeHarness(snapshot, settings=settings(None)) as harness:
                for _ in range(3):
                    assert (await harness.get("/a")).status == 502
                record = await harness.recorded(1)
        assert origin.connections == 0
        assert record["detail"] == "OriginWriteError"
        told = [entry.getMessage() for entry in caplog.records]
        assert told == [
            "origin access: there are no credentials for 127.0.0.1, so what it is asked for fails; "
            "see --origin-credentials"
        ]


async def test_credentials_that_come_later_are_used_at_once(tmp_path: Path) -> None:
    path = tmp_path / "origin-credentials"
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"a"))
        async with EdgeHarness(
            site(origin.origin(signing="always"), behavior()), settings=settings(path)
        ) as harness:
            assert (await harness.get("/a")).status == 502
            credentials(tmp_path)
            assert [harness.edge.fetcher.access.poll() for _ in range(2)] == [False, True]
            assert (await harness.get("/a")).body == b"a"
            signed_by(origin.requests[0])


async def test_a_second_origin_stands_in_for_one_without_credentials(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"spare"))
        primary = origin.origin(id="primary", domain_name="localhost", signing="always")
        snapshot = site(
            primary,
            Behavior("*", "group"),
            more_origins=(origin.origin(id="spare"),),
            origin_groups=(OriginGroup("group", ("primary", "spare"), (500,)),),
        )
        path = credentials(tmp_path, title="elsewhere.example.com")
        async with EdgeHarness(snapshot, settings=settings(path)) as harness:
            assert (await harness.get("/a")).body == b"spare"
        assert [request.header("authorization") for request in origin.requests] == [None]


async def test_what_is_stored_stands_in_while_credentials_are_missing(tmp_path: Path) -> None:
    clock = Clock()
    path = credentials(tmp_path)
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"a", {"Cache-Control": "max-age=10"}))
        async with EdgeHarness(
            site(origin.origin(signing="always"), behavior()), settings=settings(path), clock=clock
        ) as harness:
            assert (await harness.get("/a")).body == b"a"
            path.unlink()
            assert [harness.edge.fetcher.access.poll() for _ in range(2)] == [False, True]
            clock.forward(60)
            stale = await harness.get("/a")
            assert (stale.status, stale.body) == (200, b"a")
            assert (await harness.get("/b")).status == 502


# ---- which hosts are buckets, and which paths are allowed

BUCKET = Origin(
    "media", "media.s3.eu-central-1.amazonaws.com", kind="s3", protocol_policy="https-only", signing="always"
)


def prepared(folder: Path, origin: Origin, target: str = "/a", more: str = "", **members: Any) -> Sent:
    access = OriginAccess(credentials(folder, more))
    asked: dict[str, Any] = {"headers": [(b"host", b"viewer.example.com"), (b"accept", b"*/*")]}
    asked |= members
    return access.prepare(origin, "http", "GET", target, has_body=False, now=1_790_000_000.0, **asked)


def target_of(sent: Sent) -> tuple[str, str, str, str]:
    """The destination, the target, the Host, and the region of the signature."""
    origin, fields = sent.origin, dict(sent.headers)
    port = origin.https_port if sent.scheme == "https" else origin.http_port
    region = fields[b"authorization"].decode().split("/")[2]
    return f"{sent.scheme}://{origin.domain_name}:{port}", sent.target, fields[b"host"].decode(), region


WEED = "endpoint_url = http://weed.internal:8333\n"
PLACES: list[tuple[str, str, str, tuple[str, str, str, str]]] = [
    (
        "media.s3.eu-central-1.amazonaws.com",
        "",
        "",
        (
            "https://media.s3.eu-central-1.amazonaws.com:443",
            "/a",
            "media.s3.eu-central-1.amazonaws.com",
            "eu-central-1",
        ),
    ),
    (
        "media.s3.eu-central-1.amazonaws.com",
        "/live",
        "region = eu-west-1\n",
        (
            "https://media.s3.eu-central-1.amazonaws.com:443",
            "/live/a",
            "media.s3.eu-central-1.amazonaws.com",
            "eu-central-1",
        ),
    ),
    (
        "media.s3.amazonaws.com",
        "",
        "region = eu-west-1\n",
        ("https://media.s3.amazonaws.com:443", "/a", "media.s3.amazonaws.com", "eu-west-1"),
    ),
    (
        "media.s3.amazonaws.com",
        "",
        "",
        ("https://media.s3.amazonaws.com:443", "/a", "media.s3.amazonaws.com", "us-east-1"),
    ),
    (
        "media.s3.eu-central-1.amazonaws.com",
        "/live",
        WEED,
        ("http://weed.internal:8333", "/media/live/a", "weed.internal:8333", "eu-central-1"),
    ),
    (
        "media.s3.eu-central-1.amazonaws.com",
        "",
        WEED + "region = home\n",
        ("http://weed.internal:8333", "/media/a", "weed.internal:8333", "home"),
    ),
    (
        "media.s3.eu-central-1.amazonaws.com",
        "/live",
        "endpoint_url = https://s3.internal\naddressing_style = virtual\n",
        ("https://media.s3.internal:443", "/live/a", "media.s3.internal", "eu-central-1"),
    ),
    (
        "my.dotted.s3.bucket.s3-eu-west-1.amazonaws.com",
        "",
        WEED,
        ("http://weed.internal:8333", "/my.dotted.s3.bucket/a", "weed.internal:8333", "eu-west-1"),
    ),
    (
        "media.s3.dualstack.us-gov-west-1.amazonaws.com",
        "",
        "endpoint_url = http://127.0.0.1\n",
        ("http://127.0.0.1:80", "/media/a", "127.0.0.1", "us-gov-west-1"),
    ),
    (
        "media.s3-fips.ca-central-1.amazonaws.com",
        "",
        "endpoint_url = http://[::1]:9000\n",
        ("http://::1:9000", "/media/a", "[::1]:9000", "ca-central-1"),
    ),
    (
        "media.s3.cn-north-1.amazonaws.com.cn",
        "",
        WEED,
        ("http://weed.internal:8333", "/media/a", "weed.internal:8333", "cn-north-1"),
    ),
    (
        "Media.minio.internal",
        "",
        WEED,
        ("http://weed.internal:8333", "/media/a", "weed.internal:8333", "us-east-1"),
    ),
    ("media", "", WEED, ("http://weed.internal:8333", "/media/a", "weed.internal:8333", "us-east-1")),
]


@pytest.mark.parametrize(("name", "path", "more", "expected"), PLACES)
def test_where_a_bucket_is(
    tmp_path: Path, name: str, path: str, more: str, expected: tuple[str, str, str, str]
) -> None:
    origin = msgspec.structs.replace(BUCKET, domain_name=name, path=path)
    assert target_of(prepared(tmp_path, origin, path + "/a", more)) == expected


def test_a_signed_custom_origin_is_at_its_own_address(tmp_path: Path) -> None:
    origin = Origin("weed", "weed.internal", http_port=8333, path="/media", signing="always")
    sent = prepared(tmp_path, origin, "/media/a", "endpoint_url = http://elsewhere\nregion = home\n")
    assert target_of(sent) == ("http://weed.internal:8333", "/media/a", "weed.internal:8333", "home")


def test_a_public_bucket_is_found_likewise_and_is_not_signed(tmp_path: Path) -> None:
    origin = msgspec.structs.replace(BUCKET, signing="never")
    sent = prepared(tmp_path, origin, "/a+b?x=1+2", WEED)
    assert (sent.scheme, sent.origin.domain_name, sent.target) == (
        "http",
        "weed.internal",
        "/media/a+b?x=1+2",
    )
    assert dict(sent.headers) == {b"host": b"weed.internal:8333", b"accept": b"*/*"}
    elsewhere = OriginAccess().prepare(
        origin, "http", "GET", "/a", [(b"host", b"viewer.example.com")], has_body=False, now=0.0
    )
    assert elsewhere.origin is origin
    assert elsewhere.scheme == "https"
    assert elsewhere.headers == [(b"host", b"media.s3.eu-central-1.amazonaws.com")]


CLIMBS = [
    "/../other/secret",
    "/..",
    "/a/../../other/secret",
    "/%2e%2e/other/secret",
    "/.%2E/other/secret",
    "/a/%2e%2e%2f%2e%2e/other",
    "/a/..%2fother",
    "/..%5cother",
    "/..\\other",
    "/./a",
    "/a/.",
    "/a/..?x",
    "/caf%E9",
    "/caf\xe9",
    "/%ff",
]


@pytest.mark.parametrize("target", CLIMBS)
@pytest.mark.parametrize("signing", ["always", "never"])
def test_no_path_leads_out_of_a_bucket_or_names_no_key(tmp_path: Path, target: str, signing: Any) -> None:
    origin = msgspec.structs.replace(BUCKET, signing=signing)
    with pytest.raises(OriginFailure) as caught:
        prepared(tmp_path, origin, target, WEED)
    assert (caught.value.kind, caught.value.status) == ("OriginWriteError", 400)


@pytest.mark.parametrize(
    "target", ["/a..b", "/...", "/.hidden", "/a/..b/c", "/%2e%2e%2e", "/a?../..?%ff", "//a//", "/caf%c3%a9"]
)
def test_other_dots_are_a_keys_own(tmp_path: Path, target: str) -> None:
    prepared(tmp_path, BUCKET, target, WEED)


async def test_a_path_that_climbs_is_a_bad_request(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        snapshot = site(origin.origin(signing="always"), behavior())
        async with EdgeHarness(snapshot, settings=settings(credentials(tmp_path))) as harness:
            assert (await harness.get("/a/%2e%2e/b")).status == 400
        assert origin.connections == 0


def test_no_failure_and_no_repr_holds_a_secret(tmp_path: Path) -> None:
    sent = prepared(tmp_path, BUCKET)
    access = OriginAccess(credentials(tmp_path))
    assert SECRET not in repr(sent) + repr(access) + repr(vars(access))


def test_a_snapshot_holds_no_credentials() -> None:
    snapshot: Snapshot = site(BUCKET)
    assert b"always" in snapshot.to_bytes()
    assert {"access_key_id", "credentials", "region"}.isdisjoint(Origin.__struct_fields__)
