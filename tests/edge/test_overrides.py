"""Headers that make an origin answer for a request other than the one that was sent: through a whole edge, in front
of an origin that obeys them all, and one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from keyfront.edge.rules.cache_key import key_suffix
from keyfront.edge.rules.origin_request import origin_headers
from keyfront.edge.rules.override_headers import names_client, overrides_request, varies_answer
from keyfront.edge.types.messages import Request
from keyfront.model.snapshot import Behavior, KeyGroup, Origin, Select, Snapshot
from tests.origin import ReceivedRequest, ScriptedOrigin, Wire
from tests.rows import rows
from tests.sites import ALICE, BOB, keys, signed, site
from tests.viewer import EdgeHarness

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")

OVERRIDES = [
    "X-Original-URL", "X-Original-URI", "X-Original-Path", "X-Original-Request-URI", "X-Original-Method",
    "X-Original-Host", "X-Rewrite-URL", "X-Rewrite-URI", "X-Rewrite-Path", "X-Rewrite-Original-URL",
    "X-Forwarded-Uri", "X-Forwarded-URL", "X-Forwarded-Path", "X-Forwarded-Prefix", "X-Forwarded-Host",
    "X-Forwarded-Port", "X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-SSL", "X-Forwarded-Protocol",
    "X-Forwarded-Method", "X-Forwarded-Request-Uri", "X-Forwarded-Context", "X-Forwarded-Base",
    "X-Forwarded-Query", "X-Forwarded-User", "X-Forwarded-Proto-Version", "X-Forwarded", "X-Envoy-Original-Path",
    "X-Envoy-Original-Dst-Host", "X-Envoy-Decorator-Operation", "X-Istio-Attributes", "X-Replaced-Path",
    "X-Accel-Redirect", "X-Accel-Internal", "X-Accel-Mapping", "X-Sendfile", "X-Sendfile-Type", "X-Host",
    "X-HTTP-Host-Override", "X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override",
    "X-HTTP-DestinationURL", "X-Destination-URL", "X-Proxy-URL", "Proxy-Host", "Proxy-Uri", "X-Script-Name",
    "Script-Name", "Path-Info", "Path-Translated", "X-Path-Info", "Request-Uri", "X-Request-Uri", "X-Request-URL",
    "X-Request-Path", "X-Real-URL", "X-Real-Path", "X-Real-Host", "Base-Url", "X-Base-Url", "Destination",
    "Http-Url", "Http-Host", "Url", "Uri", "X-URL", "X-URI", "X-Url-Scheme", "X-Scheme", "X-Protocol", "X-Port",
    "X-Host-Override", "X-Forward-Host", "X-Backend-Host", "X-Middleware-Subrequest", "X-Middleware-Rewrite",
    "X-Middleware-Prefetch", "X-Invoke-Path", "X-Invoke-Query", "X-Invoke-Output", "X-Matched-Path",
    "X-NextJS-Data", "X-NextJS-Rewritten-Path", "X-Next-Cache-Tags", "X-Now-Route-Matches", "X-Vercel-Sc-Headers",
    "Next-Router-State-Tree", "Next-Router-Prefetch", "Next-Url", "Next-Action", "X-Nuxt", "X-Nuxt-No-SSR",
    "X-Waws-Unencoded-Url", "X-Arr-SSL", "X-Arr-Log-Id", "X-AppService-Proto", "Disguised-Host",
    "Was-Default-Hostname", "X-MS-Original-Url", "Ali-Cdn-Real-Host", "Ali-Swift-Log-Host", "X-CF-Forwarded-Url",
    "CF-Visitor", "Front-End-Https", "X-Tls", "X-Secure-Protocol", "Document-Uri", "Redirect-Url", "Query-String",
    "Request-Line", "X-LIGHTTPD-Send-File", "X-LiteSpeed-Location", "X-NF-Request-Host", "X-Unencoded-Url",
    "X-Unique-New-Thing-Path", "Server-Name", "Forwarded", "X-Amz-Copy-Source", "X-Amz-Copy-Source-Range",
    "X-Amz-Rename-Source", "X-Goog-Copy-Source", "X-MS-Copy-Source", "X-OSS-Copy-Source", "X-Copy-From",
    "X-Symlink-Target", "X-Object-Manifest", "X-Reproxy-File", "Proxy", "X-Proxy", "Proxy-Remote-User", "Translate",
    "X-Authority", "X-Route", "X-Upstream", "X-Backend-Server", "X-Vhost", "X-Forwarded-Protocol-Version",
]  # fmt: skip
CLIENTS = [
    "Client-IP", "True-Client-IP", "X-Client-IP", "X-Cluster-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6",
    "Fastly-Client-IP", "X-Remote-IP", "X-Remote-Addr", "X-Real-Client-IP", "X-Originating-IP", "X-Original-For",
    "Forwarded-For", "X-Forward-For", "X-Azure-ClientIP", "X-Azure-SocketIP", "X-AppEngine-User-IP",
    "Ali-CDN-Real-IP", "CDN-Src-IP", "WL-Proxy-Client-IP", "Proxy-Client-IP", "HTTP-Client-IP", "Remote-Addr",
    "X-Source-IP", "Incap-Client-IP", "X-User-IP", "X-Viewer-Address", "X-Peer-Addr", "Cdn-Real-Ip",
    "X-Client-Address", "X-Custom-IP-Authorization", "X-ProxyUser-IP", "X-Forwarder-For",
]  # fmt: skip
VARIANTS = [
    "Remote-User", "X-Remote-User", "X-Remote-Groups", "X-Auth-User", "X-Auth-Request-Email", "X-Auth-Token",
    "X-SSL-Client-Cert", "X-SSL-Client-Verify", "SSL-Client-S-DN", "Client-Cert", "X-Client-Cert",
    "X-Authenticated-User", "X-Consumer-Username", "X-Credential-Identifier", "X-Goog-Authenticated-User-Email",
    "X-Goog-IAP-JWT-Assertion", "X-Amzn-Oidc-Identity", "X-MS-Client-Principal", "X-MS-Token-AAD-Id-Token",
    "X-AppEngine-Country", "X-Azure-FDID", "CF-Access-JWT-Assertion", "Tailscale-User-Login",
    "X-Pomerium-Claim-Email", "X-WebAuth-User", "X-User-Id", "X-User-Name", "X-UserInfo", "X-JWT-Claim-Sub",
    "RSC", "HX-Request", "HX-Boosted", "Turbo-Frame", "X-Inertia", "X-Inertia-Version", "X-PJAX",
    "X-PJAX-Container", "X-Up-Target", "Surrogate-Capability", "X-Device-User-Agent", "X-OperaMini-Phone-UA",
]  # fmt: skip
LAWFUL = [
    "X-Requested-With", "X-Request-Id", "X-Amz-Target", "X-Amz-Date", "X-Amz-Content-Sha256",
    "X-Amz-Security-Token", "X-CSRF-Token", "X-XSRF-Token", "X-Api-Key", "X-Api-Version", "X-Own", "Origin",
    "Cache-Control", "Pragma", "From", "Date", "Warning", "DNT", "Max-Forwards", "Upgrade-Insecure-Requests",
    "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-CH-UA", "Sec-WebSocket-Protocol", "Sec-WebSocket-Key", "Save-Data",
    "Viewport-Width", "Device-Memory", "Access-Control-Request-Method", "Access-Control-Request-Headers",
    "Traceparent", "Tracestate", "X-B3-TraceId", "B3", "Baggage", "Idempotency-Key", "Upload-Offset",
    "Upload-Length", "Tus-Resumable", "X-MS-Version", "X-MS-Date", "X-MS-Blob-Type", "X-Goog-Resumable",
    "Stripe-Signature", "X-Hub-Signature-256", "X-GitHub-Event", "If-Unknown", "Last-Event-ID", "Prefer",
    "Priority", "Accept-Datetime", "X-Playback-Session-Id", "X-Shipping", "X-Ship-To", "X-Support", "X-Export",
    "X-Ip-Country-Hint", "X-Epath2", "X-Paths-Are-Fun", "Connect-Protocol-Version", "MCP-Protocol-Version",
    "MCP-Session-Id", "Git-Protocol", "X-Goog-Upload-Protocol", "X-Copyright", "X-Proxying", "X-Router-Version",
]  # fmt: skip

ORIGIN = Origin("o", "origin.test")


def sent(behavior: Behavior, name: str, method: str = "GET", *, guarded: bool = False) -> bool:
    viewer_request = Request(method, "/", "d.test", [(name.lower().encode(), b"evil")])
    made = origin_headers(behavior, ORIGIN, viewer_request, request_id="", via="", guarded=guarded)
    return any(value == b"evil" for _, value in made)


def without(name: str) -> str:
    """The spelling of the name that only an origin behind CGI reads; a name without `-` has no such spelling."""
    return name.replace("-", "_", 1) if "-" in name else name + "_x_host"


LEGACY = Behavior("*", "o", legacy=True, allowed_methods=ALL)
UNSTORED = Behavior("*", "o", legacy=True, max_ttl=0, default_ttl=0, allowed_methods=ALL)
EVERYTHING = Behavior("*", "o", forward_headers=Select("all"), allowed_methods=ALL)
BUT_ONE = Behavior("*", "o", forward_headers=Select("allExcept", ("x-one",)), allowed_methods=ALL)
LEGACY_EVERYTHING = Behavior(
    "*", "o", legacy=True, key_headers=Select("all"), forward_headers=Select("all"), allowed_methods=ALL
)


class TestNames:
    @rows("name", OVERRIDES)
    def test_of_another_request(self, name: str) -> None:
        # On cacheable requests: not forwarded, or in the key.
        assert not sent(LEGACY, name)
        assert not sent(LEGACY, without(name))
        for behavior in (EVERYTHING, BUT_ONE):
            lower = name.lower().encode()
            with_it = Request("GET", "/", "d.test", [(lower, b"evil")])
            assert key_suffix(behavior, with_it, "") != key_suffix(
                behavior, Request("GET", "/", "d.test", []), ""
            )
            assert not sent(behavior, without(name))
        # Where a path needs a signature: never, whatever the method and the TTL.
        for behavior in (LEGACY, UNSTORED, EVERYTHING, BUT_ONE, LEGACY_EVERYTHING):
            for method in ("GET", "POST", "PUT", "OPTIONS"):
                assert not sent(behavior, name, method, guarded=True), (behavior, method)
                assert not sent(behavior, without(name), method, guarded=True), (behavior, method)

    @rows("name", OVERRIDES + CLIENTS + VARIANTS)
    def test_listed_by_the_operator(self, name: str) -> None:
        """Then it is forwarded, and is in the key of what is stored."""
        select = Select("whitelist", (name.lower(),))
        listed = Behavior(
            "*", "o", legacy=True, key_headers=select, forward_headers=select, allowed_methods=ALL
        )
        for method in ("GET", "POST"):
            assert sent(listed, name, method, guarded=True)
        viewer_request = Request("GET", "/", "d.test", [(name.lower().encode(), b"evil")])
        assert "evil" in key_suffix(listed, viewer_request, "")

    @rows("name", CLIENTS)
    def test_of_another_viewers_address(self, name: str) -> None:
        for behavior in (LEGACY, UNSTORED):
            for method in ("GET", "POST"):
                assert not sent(behavior, name, method)
                assert not sent(behavior, without(name), method)

    @rows("name", VARIANTS)
    def test_of_another_viewer_or_another_form(self, name: str) -> None:
        assert not sent(LEGACY, name)
        assert not sent(LEGACY, without(name))

    @rows("name", LAWFUL)
    def test_that_mean_nothing_of_the_kind_pass(self, name: str) -> None:
        canonical = name.lower().encode()
        assert not (overrides_request(canonical) or names_client(canonical) or varies_answer(canonical))
        for behavior in (LEGACY, UNSTORED, EVERYTHING, BUT_ONE):
            assert sent(behavior, name, "POST", guarded=True)

    @rows("name", ["x.original.url", "x!original!url", "x+original-url", "path_info", "x~host"])
    def test_in_the_spellings_of_cgi(self, name: str) -> None:
        for behavior in (LEGACY, UNSTORED, EVERYTHING):
            assert not sent(behavior, name, "POST", guarded=True)


async def obedient(viewer_request: ReceivedRequest, wire: Wire) -> None:
    """An origin that serves the file that such a header names, if one is sent."""
    path = viewer_request.target
    for name in (
        "x-original-url",
        "x-forwarded-uri",
        "x-envoy-original-path",
        "x-original-path",
        "x-http-destinationurl",
    ):
        path = viewer_request.header(name) or path
    body = b"the secret" if path.startswith("/private/") else b"open: " + path.encode()
    await wire.send(
        b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def half_private(origin: ScriptedOrigin, **members: object) -> Snapshot:
    return site(
        origin.origin(),
        Behavior(
            "/private/*", "scripted", restricted=True, trusted_key_groups=("group-a",), allowed_methods=ALL
        ),
        Behavior("*", "scripted", allowed_methods=ALL, **members),  # type: ignore[arg-type]
        public_keys=keys(ALICE, BOB),
        key_groups=(KeyGroup("group-a", "a", (ALICE.key_pair_id,)),),
    )


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        for path in ("/open", "/private/1"):
            origin.on(path, [obedient])
        yield origin
    assert not origin.faults


class TestHost:
    """An origin with several hosts answers by Host: under one key, the response for one would be served for
    another."""

    @rows("behavior", [EVERYTHING, BUT_ONE])
    def test_is_in_the_key_where_it_is_sent_on(self, behavior: Behavior) -> None:
        one, other, port = (Request("GET", "/", host, []) for host in ("a.test", "b.test", "a.test:81"))
        assert len({key_suffix(behavior, asked, "") for asked in (one, other, port)}) == 3

    @rows(
        "behavior",
        [
            Behavior("*", "o", forward_headers=Select("allExcept", ("host",))),
            Behavior("*", "o", legacy=True),
            Behavior("*", "o"),
        ],
    )
    def test_is_not_in_the_key_where_the_origin_gets_its_own(self, behavior: Behavior) -> None:
        one, other = (Request("GET", "/", host, []) for host in ("a.test", "b.test"))
        assert key_suffix(behavior, one, "") == key_suffix(behavior, other, "") == ""

    async def test_makes_one_answer_for_each_alias(self) -> None:
        async def by_host(viewer_request: ReceivedRequest, wire: Wire) -> None:
            body = (viewer_request.header("host") or "").encode()
            head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n"
            await wire.send(head % len(body) + body)

        async with ScriptedOrigin() as origin:
            origin.on("/a", [by_host])
            made = site(
                origin.origin(),
                Behavior("*", "scripted", forward_headers=Select("all")),
                aliases=("*.tenants.test",),
            )
            async with EdgeHarness(made) as harness:
                for _ in range(3):
                    for host in ("a.tenants.test", "b.tenants.test", "a.tenants.test:81"):
                        assert (await harness.get("/a", host)).body == host.encode()
            assert len(origin.requests) == 3


class TestAnOriginThatObeysOverrideHeaders:
    @rows(
        "name",
        [
            "X-Original-URL",
            "X-Forwarded-Uri",
            "X-Envoy-Original-Path",
            "X-Original-Path",
            "X-HTTP-DestinationURL",
        ],
    )
    @pytest.mark.parametrize(
        "members",
        [
            {"legacy": True},
            {"legacy": True, "max_ttl": 0, "default_ttl": 0},
            {"forward_headers": Select("all")},
            {"forward_headers": Select("all"), "max_ttl": 0, "default_ttl": 0},
            {"forward_headers": Select("allExcept", ("host",))},
        ],
        ids=["legacy", "legacy, TTL 0", "all", "all, TTL 0", "all but Host"],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
    async def test_gives_no_secret_for_an_open_path(
        self, origin: ScriptedOrigin, name: str, members: dict[str, object], method: str
    ) -> None:
        async with EdgeHarness(half_private(origin, **members)) as harness:
            for spelling in (name, name.replace("-", "_")):
                seen = await harness.get("/open", headers=[(spelling, "/private/1")], method=method)
                assert seen.status == 200
                assert b"secret" not in seen.body
            assert (await harness.get("/open")).body == b"open: /open"
            assert (await harness.get(signed("/private/1"))).body == b"the secret"

    async def test_is_obeyed_where_the_operator_lists_the_header(self, origin: ScriptedOrigin) -> None:
        select = Select("whitelist", ("x-original-url",))
        made = half_private(origin, legacy=True, key_headers=select, forward_headers=select)
        async with EdgeHarness(made) as harness:
            seen = await harness.get("/open", headers=[("X-Original-URL", "/other")])
            assert seen.body == b"open: /other"
            assert (await harness.get("/open")).body == b"open: /open"

    async def test_makes_one_answer_for_each_value_where_all_headers_are_sent_on(
        self, origin: ScriptedOrigin
    ) -> None:
        made = site(origin.origin(), Behavior("*", "scripted", forward_headers=Select("all")))
        async with EdgeHarness(msgspec.structs.replace(made)) as harness:
            for _ in range(3):
                async with await harness.viewer() as viewer:
                    for _ in range(3):
                        evil = await viewer.ask("/open", "d.test", [("X-Original-URL", "/private/1")])
                        assert evil.body == b"the secret"
                        assert (await viewer.ask("/open", "d.test", [])).body == b"open: /open"
            assert len(origin.requests) == 2
