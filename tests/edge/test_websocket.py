"""WebSocket through the edge: the rules, then everything over real sockets, with a real client and a real server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import websockets
from fuzz.websocket import run
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve

from keyfront import sign_cookies
from keyfront.edge.http.asgi import EdgeApp
from keyfront.edge.http.request_parser import MAX_EARLY
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.limits.origins import OriginLimits
from keyfront.edge.semantics.websocket import (
    WEBSOCKET,
    accept_value,
    acceptance_fault,
    handshake_fault,
    upgrade_of,
)
from keyfront.edge.serving.measures import measure
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, ErrorResponse, Origin, OriginGroup, Select, Snapshot
from keyfront.monitoring.edge_metrics import families
from tests.edge.harness import signed_site
from tests.origin import (
    CLOSE,
    RESET,
    Authority,
    ReceivedRequest,
    ScriptedOrigin,
    Step,
    Wire,
    answer,
    closed_port,
)
from tests.rows import rows
from tests.sites import ALICE, signed, site
from tests.viewer import Clock, EdgeHarness, Viewer

EVENT_LOOPS = ("uvloop", "asyncio")

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
ALL_VIEWER = Select("all")
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455 §1.3."""
OFFER = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", KEY),
    ("Sec-WebSocket-Version", "13"),
]
SWITCHED = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
).encode()
BRIEF = Limits(head=5.0, idle=5.0, body=5.0, write=0.4, drain=0.2, websocket_idle=0.4)


def offer(target: str = "/ws", *, method: str = "GET", version: str = "1.1", **changed: str) -> bytes:
    """The bytes of a handshake. `changed` are its fields, with `_` for `-`; "" omits a field."""
    fields = dict(OFFER) | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: d.test", *lines, "", ""]).encode()


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def server(
    handler: Callable[[ServerConnection], Awaitable[None]] = echo, **settings: Any
) -> AsyncIterator[tuple[Server, Origin]]:
    """A WebSocket server as an origin."""
    async with serve(handler, "127.0.0.1", 0, **settings) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        secure = settings.get("ssl") is not None
        yield (
            running,
            Origin(
                "ws",
                "127.0.0.1",
                http_port=port,
                https_port=port,
                protocol_policy="https-only" if secure else "http-only",
            ),
        )


def open_site(origin: Origin, **members: Any) -> Snapshot:
    return site(origin, Behavior("*", origin.id, forward_headers=ALL_VIEWER), **members)


def client(harness: EdgeHarness, target: str = "/ws", **settings: Any) -> connect:
    scheme = "ws" if harness.tls is None else "wss"
    uri = f"{scheme}://d.test{target}"
    return connect(uri, host="127.0.0.1", port=harness.port, proxy=None, **settings)


@pytest.fixture
async def harness(origin: ScriptedOrigin) -> AsyncIterator[EdgeHarness]:
    """In front of an origin that a test scripts."""
    snapshot = site(
        origin.origin(read_timeout=5.0),
        Behavior("*", "scripted", allowed_methods=ALL, forward_headers=ALL_VIEWER),
    )
    async with EdgeHarness(snapshot) as harness:
        yield harness


def reset(viewer: Viewer) -> None:
    sock = viewer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    viewer.writer.transport.abort()


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


# -- the rules -------------------------------------------------------------------------------------------------


def fields(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in pairs]


class TestRules:
    @rows(
        ("upgrade", "asked"),
        [
            ("websocket", WEBSOCKET),
            ("WebSocket", WEBSOCKET),
            ("h2c, websocket", WEBSOCKET),
            ("h2c", "passed over: upgrade to h2c"),
            ("websocket/13", "passed over: upgrade to websocket/13"),
            ("x\x01y", "passed over: upgrade to x?y"),
            ("", ""),
        ],
    )
    def test_what_an_upgrade_asks_for(self, upgrade: str, asked: str) -> None:
        headers = fields(("Upgrade", upgrade), *OFFER[2:])
        assert upgrade_of("GET", "1.1", headers, named=True, has_body=False) == asked

    @rows(
        ("method", "version", "named", "has_body", "why"),
        [
            ("POST", "1.1", True, False, "POST is not GET"),
            ("HEAD", "1.1", True, False, "HEAD is not GET"),
            ("GET", "1.0", True, False, "HTTP/1.0"),
            ("GET", "1.1", False, False, "Connection does not name Upgrade"),
            ("GET", "1.1", True, True, "with a body"),
        ],
    )
    def test_what_is_no_handshake_and_why(
        self, method: str, version: str, named: bool, has_body: bool, why: str
    ) -> None:
        asked = upgrade_of(method, version, fields(*OFFER), named=named, has_body=has_body)
        assert asked == f"passed over: upgrade to websocket ({why})"

    @rows("missing", ["Sec-WebSocket-Key", "Sec-WebSocket-Version"])
    def test_without_its_own_fields_it_is_none(self, missing: str) -> None:
        headers = fields(*(pair for pair in OFFER if pair[0] != missing))
        asked = upgrade_of("GET", "1.1", headers, named=True, has_body=False)
        assert asked == f"passed over: upgrade to websocket (without {missing})"

    @rows(
        "keys",
        [[KEY[:-1]], [KEY + "="], ["x" * 24], [""], [KEY, KEY], ["AAAAAAAAAAAAAAAAAAAAAAAA"], ["é" * 12]],
    )
    def test_wrong_keys(self, keys: list[str]) -> None:
        headers = fields(*(("Sec-WebSocket-Key", key) for key in keys), ("Sec-WebSocket-Version", "13"))
        assert handshake_fault(headers) == "websocket_key"

    @rows("versions", [["12"], ["13", "13"], ["13, 8"], ["013"], [""]])
    def test_wrong_versions(self, versions: list[str]) -> None:
        headers = fields(("Sec-WebSocket-Key", KEY), *(("Sec-WebSocket-Version", v) for v in versions))
        assert handshake_fault(headers) == "websocket_version"

    def test_the_example_of_the_rfc(self) -> None:
        assert handshake_fault(fields(*OFFER)) == ""
        assert accept_value(KEY.encode()) == ACCEPT.encode()

    def test_what_a_101_must_be(self) -> None:
        good = [
            ("Upgrade", "WebSocket"),
            ("Connection", "keep-alive, upgrade"),
            ("Sec-WebSocket-Accept", ACCEPT),
        ]
        assert acceptance_fault(fields(*good), ACCEPT.encode()) == ""
        for wrong in (
            good[1:],
            good[:1] + good[2:],
            good[:2],
            [*good, good[2]],
            [*good, ("Content-Length", "0")],
            [*good, ("Transfer-Encoding", "chunked")],
            [*good, ("Upgrade", "h2c")],
            [("Upgrade", "h2c"), *good[1:]],
            [*good[:2], ("Sec-WebSocket-Accept", ACCEPT.lower())],
        ):
            assert acceptance_fault(fields(*wrong), ACCEPT.encode()), wrong


# -- a real client and a real server -----------------------------------------------------------------------------


class TestEcho:
    async def test_messages_of_all_sizes_come_back_whole_and_in_order(self) -> None:
        chance = random.Random(1)
        async with server(max_size=None) as (_, ws), EdgeHarness(open_site(ws)) as harness:
            async with client(harness, "/ws?room=1", max_size=None) as viewer:
                assert viewer.response is not None
                assert viewer.response.headers["X-Cache"] == "Miss from cloudfront"
                assert viewer.response.headers["X-Amz-Cf-Pop"] == "KFR50-P1"
                messages: list[str | bytes] = ["", "hello", b"", "ü" * 1000]
                messages += [chance.randbytes(size) for size in (1, 125, 126, 65535, 65536, 1 << 20, 3 << 20)]
                sender = asyncio.ensure_future(_send_all(viewer, messages))
                assert [await viewer.recv() for _ in messages] == messages
                await sender
            record = await harness.recorded(1)
        assert (record["status"], record["scheme"], record["result"], record["detail"]) == (
            101,
            "ws",
            "Miss",
            "Miss",
        )
        assert record["path"] == "/ws"
        assert record["bytes"] > 4 << 20
        assert record["request_bytes"] > 4 << 20
        assert record.get("reason", "") == ""
        assert record["time_taken_us"] > 0

    async def test_what_was_negotiated_reaches_both_sides(self) -> None:
        seen: dict[str, Any] = {}

        async def handler(connection: ServerConnection) -> None:
            assert connection.request is not None
            seen.update(connection.request.headers)
            await connection.send(connection.subprotocol or "none")

        async with server(handler, subprotocols=["chat"]) as (_, ws), EdgeHarness(open_site(ws)) as harness:
            async with client(
                harness,
                subprotocols=["superchat", "chat"],
                origin="https://app.test",
                user_agent_header="agent",
            ) as viewer:
                assert viewer.subprotocol == "chat"
                assert await viewer.recv() == "chat"
                assert viewer.response is not None
                assert "permessage-deflate" in viewer.response.headers["Sec-WebSocket-Extensions"]
        assert seen["connection"] == "Upgrade"
        assert seen["upgrade"] == "websocket"
        assert seen["origin"] == "https://app.test"
        assert seen["user-agent"] == "agent"
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert "cloudfront.net (CloudFront)" in seen["via"]

    async def test_the_close_handshake_passes_both_ways(self) -> None:
        codes = []

        async def handler(connection: ServerConnection) -> None:
            await connection.wait_closed()
            codes.append((connection.close_code, connection.close_reason))

        async def leaver(connection: ServerConnection) -> None:
            await connection.close(4001, "enough")

        async with server(handler) as (_, ws), EdgeHarness(open_site(ws)) as harness:
            viewer = await client(harness)
            await viewer.close(4000, "bye")
            await harness.recorded(1)
        assert codes == [(4000, "bye")]
        async with server(leaver) as (_, ws), EdgeHarness(open_site(ws)) as harness:
            async with client(harness) as viewer:
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await viewer.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")
            assert (await harness.recorded(1)).get("reason", "") == ""

    async def test_many_at_once_and_nothing_is_mixed(self) -> None:
        async with server() as (_, ws), EdgeHarness(open_site(ws)) as harness:

            async def talk(number: int) -> None:
                async with client(harness, f"/ws/{number}") as viewer:
                    for turn in range(10):
                        await viewer.send(f"{number}:{turn}" * 50)
                        assert await viewer.recv() == f"{number}:{turn}" * 50

            await asyncio.gather(*(talk(number) for number in range(15)))
            await harness.recorded(15)
            assert harness.edge.websockets.taken == 0
            assert (harness.edge.websockets.handshakes, harness.edge.websockets.opened) == (15, 15)

    async def test_wss_to_the_edge_and_to_the_origin(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        tls = authority.server("d.test", "127.0.0.1")
        settings = EdgeSettings(memory=1 << 22, ca_file=authority.ca_file)
        async with (
            server(ssl=tls) as (_, ws),
            EdgeHarness(open_site(ws), tls=authority.server("d.test"), settings=settings) as harness,
        ):
            context = ssl.create_default_context(cafile=authority.ca_file)
            async with client(harness, ssl=context, server_hostname="d.test", max_size=None) as viewer:
                data = random.Random(2).randbytes(900_000)
                for _ in range(4):
                    sender = asyncio.ensure_future(viewer.send(data))
                    assert await viewer.recv() == data
                    await sender
            record = await harness.recorded(1)
        assert (record["status"], record["scheme"]) == (101, "wss")
        assert record["ssl_protocol"] == "TLSv1.3"


async def _send_all(viewer: ClientConnection, messages: list[Any]) -> None:
    for message in messages:
        await viewer.send(message)


# -- the signature check -----------------------------------------------------------------------------------------


@pytest.mark.uvloop
class TestGate:
    async def test_signed_urls_and_cookies_open_and_nothing_else(self) -> None:
        async with server() as (_, ws):
            snapshot = _guarded(ws)
            async with EdgeHarness(snapshot) as harness:
                with pytest.raises(websockets.InvalidStatus) as refused:
                    await client(harness, "/a/ws")
                assert refused.value.response.status_code == 403
                assert b"<Code>MissingKey</Code>" in (refused.value.response.body or b"")
                with pytest.raises(websockets.InvalidStatus):
                    await client(harness, signed("/a/other").replace("/a/other", "/a/ws"))
                async with client(harness, signed("/a/ws")) as viewer:
                    await viewer.send("by URL")
                    assert await viewer.recv() == "by URL"
                value = sign_cookies("http://d.test/a/*", ALICE, expires=2**31 - 1, secure=False).header
                async with client(harness, "/a/ws", additional_headers={"Cookie": value}) as viewer:
                    await viewer.send("by cookies")
                    assert await viewer.recv() == "by cookies"
                await harness.recorded(4)
                verdicts = [(r["status"], r["verdict"], r.get("signed_by", "")) for r in harness.records]
            assert sorted(verdicts) == [
                (101, "allowed", "cookies"),
                (101, "allowed", "url"),
                (403, "refused", ""),
                (403, "refused", ""),
            ]
            assert not any("Signature" in str(record) for record in harness.records)

    async def test_a_refused_request_does_not_reach_the_origin(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(signed_site(origin, "KALICE1")) as harness, await harness.viewer() as viewer:
            await viewer.send(offer("/a/1"))
            assert (await viewer.answer()).status == 403
        assert not origin.requests
        assert origin.connections == 0

    async def test_a_running_one_outlives_its_signature_and_its_key(self) -> None:
        clock = Clock()
        async with server() as (_, ws):
            snapshot = _guarded(ws)
            async with EdgeHarness(snapshot, clock=clock) as harness:
                target = signed("/a/ws", expires=int(clock.now) + 60)
                async with client(harness, target) as viewer:
                    clock.forward(3600)
                    harness.edge.use(_guarded(ws, ()))
                    await viewer.send("still here")
                    assert await viewer.recv() == "still here"
                    with pytest.raises(websockets.InvalidStatus):
                        await client(harness, target)

    async def test_a_proxy_that_names_the_scheme_wss(self, origin: ScriptedOrigin) -> None:
        origin.on("/ws", [SWITCHED, CLOSE])
        snapshot = site(
            origin.origin(),
            Behavior("*", "scripted", forward_headers=ALL_VIEWER, viewer_protocol_policy="https-only"),
        )
        async with EdgeHarness(snapshot, trusted=("127.0.0.1",)) as harness:
            for proto, status in (("wss", 101), ("https", 101), ("ws", 403)):
                async with await harness.viewer() as viewer:
                    await viewer.send(offer(X_Forwarded_Proto=proto))
                    assert (await viewer.answer()).status == status, proto
            assert [record["scheme"] for record in harness.records].count("http") == 1

    async def test_it_is_neither_looked_up_nor_stored(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/ws", answer(200, b"first", {"Cache-Control": "max-age=60"}))
        assert (await harness.get("/ws")).body == b"first"
        assert (await harness.get("/ws")).x_cache == "Hit"
        origin.on("/ws", answer(200, b"second", {"Cache-Control": "max-age=60"}))
        async with await harness.viewer() as viewer:
            for _ in range(3):  # the fast path learns repeated requests
                await viewer.send(offer())
                seen = await viewer.answer()
                assert (seen.status, seen.body, seen.x_cache) == (200, b"second", "Miss")
        assert (await harness.get("/ws")).body == b"first"
        assert not harness.edge.fills


def _guarded(ws: Origin, members: tuple[str, ...] = ("KALICE1",)) -> Snapshot:
    class There:
        def origin(self) -> Origin:
            return Origin("scripted", "127.0.0.1", http_port=ws.http_port)

    return signed_site(There(), *members, forward_headers=ALL_VIEWER)  # type: ignore[arg-type]


# -- which headers -----------------------------------------------------------------------------------------------


@pytest.mark.uvloop
class TestForwarding:
    @pytest.mark.parametrize(
        "behavior",
        [
            Behavior("*", "ws", forward_headers=ALL_VIEWER),
            Behavior("*", "ws", legacy=True),
            Behavior(
                "*",
                "ws",
                forward_headers=Select("whitelist", ("sec-websocket-key", "sec-websocket-version")),
            ),
            Behavior(
                "*", "ws", key_headers=Select("whitelist", ("sec-websocket-key", "sec-websocket-version"))
            ),
            Behavior("*", "ws", forward_headers=Select("allExcept", ("host",))),
        ],
        ids=["AllViewer", "ForwardedValues", "origin request policy", "cache policy", "all but host"],
    )
    async def test_behaviors_that_forward_the_handshake(self, behavior: Behavior) -> None:
        async with server() as (_, ws), EdgeHarness(site(ws, behavior)) as harness, client(harness) as viewer:
            await viewer.send("x")
            assert await viewer.recv() == "x"

    @pytest.mark.parametrize(
        "behavior",
        [
            Behavior("*", "ws"),
            Behavior("*", "ws", forward_headers=Select("whitelist", ("sec-websocket-key",))),
            Behavior("*", "ws", forward_headers=Select("whitelist", ("sec-websocket-version",))),
            Behavior("*", "ws", forward_headers=Select("allExcept", ("sec-websocket-key",))),
        ],
        ids=["nothing", "the key alone", "the version alone", "all but the key"],
    )
    async def test_other_behaviors_refuse_it_with_the_reason(self, behavior: Behavior) -> None:
        async with server() as (_, ws), EdgeHarness(site(ws, behavior)) as harness:
            with pytest.raises(websockets.InvalidStatus) as refused:
                await client(harness)
            assert refused.value.response.status_code in (400, 426)
            record = await harness.recorded(1)
        assert record["reason"] == "websocket_headers_not_forwarded"
        assert "AllViewer" in record["explanation"]
        assert "behavior *" in record["explanation"]

    async def test_an_s3_origin_gives_its_answer(self, origin: ScriptedOrigin) -> None:
        origin.on("/ws", answer(200, b"an object"))
        bucket = origin.origin(kind="s3")
        snapshot = site(bucket, Behavior("*", "scripted", forward_headers=ALL_VIEWER))
        async with EdgeHarness(snapshot) as harness, await harness.viewer() as viewer:
            await viewer.send(offer())
            seen = await viewer.answer()
            assert (seen.status, seen.body) == (200, b"an object")
            assert (await harness.recorded(1))["reason"] == "websocket_to_s3"
        assert origin.requests[0].header("upgrade") is None
        assert origin.requests[0].header("connection") == "Keep-Alive"

    async def test_an_origin_shield_is_passed_by(self, origin: ScriptedOrigin, tmp_path: Path) -> None:
        origin.on("/ws", [SWITCHED, CLOSE])
        secret = tmp_path / "secret"
        secret.write_bytes(b"0123456789abcdef0123456789abcdef\n")
        snapshot = site(
            origin.origin(shield_region="eu-central-1"),
            Behavior("*", "scripted", forward_headers=ALL_VIEWER),
        )
        settings = EdgeSettings(
            memory=1 << 22,
            shields=(("eu-central-1", f"127.0.0.1:{closed_port()}"),),
            shield_secret=str(secret),
        )
        async with EdgeHarness(snapshot, settings=settings) as harness, await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            assert harness.edge.fetcher.shields is not None
        assert origin.connections == 1

    async def test_the_second_origin_of_a_group_only_where_the_first_cannot_be_reached(
        self, origin: ScriptedOrigin
    ) -> None:
        async with server() as (_, ws), ScriptedOrigin() as other:
            other.on("/ws", answer(503, b"busy"))
            dead = Origin("dead", "127.0.0.1", http_port=closed_port(), connection_attempts=1)
            busy = other.origin(id="busy")
            for first, status in ((dead, 101), (busy, 503)):
                snapshot = site(
                    first,
                    Behavior("*", "group", forward_headers=ALL_VIEWER),
                    more_origins=(ws,),
                    origin_groups=(OriginGroup("group", (first.id, ws.id), (503,)),),
                )
                async with EdgeHarness(snapshot) as harness, await harness.viewer() as viewer:
                    await viewer.send(offer())
                    assert (await viewer.answer()).status == status


# -- allowed responses of origins --------------------------------------------------------------------------------


LIES = {
    "another key's accept": SWITCHED.replace(ACCEPT.encode(), accept_value(b"AAAAAAAAAAAAAAAAAAAAAA==")),
    "no accept": b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "two accepts": SWITCHED[:-2] + f"Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n".encode(),
    "another protocol": SWITCHED.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    "two protocols": SWITCHED.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
    "no Connection": SWITCHED.replace(b"Connection: Upgrade\r\n", b""),
    "no Upgrade": SWITCHED.replace(b"Upgrade: websocket\r\n", b""),
    "a length": SWITCHED[:-2] + b"Content-Length: 3\r\n\r\nabc",
    "chunks": SWITCHED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0": SWITCHED.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a 101 behind a 100": b"HTTP/1.1 100 Continue\r\n\r\n" + SWITCHED.replace(b"websocket", b"x"),
}


class TestOrigins:
    @pytest.mark.uvloop
    @pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
    async def test_a_101_that_does_not_accept_this_handshake(
        self, harness: EdgeHarness, origin: ScriptedOrigin, lie: bytes
    ) -> None:
        origin.on("/ws", [lie + b"\x81\x05hello"])
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            seen = await viewer.answer()
            assert seen.status == 502
            assert b"hello" not in seen.body
            await viewer.send(b"GET /b HTTP/1.1\r\nHost: d.test\r\n\r\n")
            origin.on("/b", answer(200, b"b"))
            assert (await viewer.answer()).body == b"b"
        record = await harness.recorded(1)
        assert record["reason"] == "OriginInvalidResponseError"
        assert record["explanation"]
        assert harness.edge.websockets.taken == 0

    @pytest.mark.uvloop
    async def test_an_unsolicited_101_is_refused(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        origin.on("/ws", [SWITCHED + b"\x81\x05hello"])
        for headers in ((), OFFER[:1], OFFER[1:], OFFER[:2]):
            assert (await harness.get("/ws", headers=headers)).status == 502
        assert (await harness.get("/ws", headers=OFFER, method="POST", body=b"x")).status == 502
        assert (await harness.get("/ws", headers=OFFER, method="DELETE")).status == 502

    async def test_bytes_behind_a_lying_101_are_never_taken_for_an_answer(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nCache-Control: max-age=60\r\n\r\nforged"
        origin.on("/ws", [LIES["another protocol"] + forged])
        origin.on("/b", answer(200, b"real", {"Cache-Control": "max-age=60"}))
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 502
        assert (await harness.get("/b")).body == b"real"
        assert origin.connections == 2

    @pytest.mark.uvloop
    async def test_any_other_answer_is_an_ordinary_one_and_the_connection_goes_on(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/ws", answer(404, b"no such room", {"Cache-Control": "max-age=60"}))
        origin.on("/b", answer(200, b"b"))
        async with await harness.viewer() as viewer:
            for number in range(2):
                await viewer.send(offer())
                seen = await viewer.answer()
                assert (seen.status, seen.body) == (404, b"no such room")
                assert seen.header("connection") == "keep-alive"
                assert len(origin.requests) == number + 1
            await viewer.send(b"GET /b HTTP/1.1\r\nHost: d.test\r\n\r\n")
            assert (await viewer.answer()).body == b"b"
        assert (await harness.recorded(1))["reason"] == "websocket_declined"
        # A handshake has its own connection, on which no other request is sent.
        assert sorted(request.connection for request in origin.requests) == [0, 1, 2]

    async def test_a_handshake_never_uses_an_idle_connection(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/b", answer(200, b"b", {"Cache-Control": "no-store"}))
        origin.on("/ws", [SWITCHED, CLOSE])
        await harness.get("/b")
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
        await harness.get("/b")
        assert [request.connection for request in origin.requests] == [0, 1, 0]

    @pytest.mark.uvloop
    async def test_custom_error_pages_and_bodies_of_every_framing(self, origin: ScriptedOrigin) -> None:
        origin.on(
            "/ws", answer(403, b"no"), answer(200, chunks=[b"a", b"b"]), answer(200, b"end", close=True)
        )
        origin.on("/sorry", answer(200, b"sorry"))
        snapshot = site(
            origin.origin(),
            Behavior("*", "scripted", forward_headers=ALL_VIEWER),
            error_responses=(ErrorResponse(403, 0, "/sorry", 200),),
        )
        async with EdgeHarness(snapshot) as harness:
            async with await harness.viewer() as viewer:
                seen = []
                for _ in range(3):
                    await viewer.send(offer())
                    seen.append(await viewer.answer())
        assert [(one.status, one.body) for one in seen] == [(200, b"sorry"), (200, b"ab"), (200, b"end")]

    @pytest.mark.uvloop
    @pytest.mark.parametrize("slowly", [False, True], ids=["silent", "dripping"])
    async def test_the_handshake_has_the_origins_read_timeout(
        self, origin: ScriptedOrigin, slowly: bool
    ) -> None:
        async def drip(_: ReceivedRequest, wire: Wire) -> None:
            for byte in SWITCHED:
                await wire.send(bytes([byte]))
                await asyncio.sleep(0.1)

        script: list[Step] = [drip] if slowly else []
        origin.on("/ws", script)
        snapshot = site(
            origin.origin(read_timeout=0.5), Behavior("*", "scripted", forward_headers=ALL_VIEWER)
        )
        async with EdgeHarness(snapshot) as harness, await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 504
            assert (await harness.recorded(1))["reason"] == "OriginReadError"
            assert len(origin.requests) == 1  # a handshake is not resent
            assert harness.edge.websockets.taken == 0

    async def test_an_origin_that_leaves_instead_of_answering(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        scripts: list[list[Step]] = [[CLOSE], [RESET], [SWITCHED[:40], CLOSE], [SWITCHED[:40], RESET]]
        for script in scripts:
            origin.on("/ws", script)
            async with await harness.viewer() as viewer:
                await viewer.send(offer())
                assert (await viewer.answer()).status == 502
        assert len(origin.requests) == 4
        assert harness.edge.websockets.taken == 0

    async def test_bytes_behind_the_101_are_not_lost(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        body = random.Random(3).randbytes(400_000)
        origin.on("/ws", [SWITCHED + b"\x82\x7f" + len(body).to_bytes(8, "big") + body, CLOSE])
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            assert (await viewer.at_end())[10:] == body
        assert (await harness.recorded(1))["bytes"] == len(body) + 10


# -- what viewers may send -------------------------------------------------------------------------------------


async def echo_bytes(_: ReceivedRequest, wire: Wire) -> None:
    """Echo what arrives, as it arrives, until the end."""
    while data := await wire.reader.read(65536):
        await wire.send(data)


class TestViewers:
    async def test_a_handshake_in_single_bytes(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        origin.on("/ws", [SWITCHED, echo_bytes, CLOSE])
        async with await harness.viewer() as viewer:
            for byte in offer() + b"\x81\x05hello":
                await viewer.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await viewer.answer()).status == 101
            assert await viewer.reader.readexactly(7) == b"\x81\x05hello"

    async def test_bytes_before_the_101_belong_to_the_websocket(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        """Whatever it looks like: it is not parsed as a request, and none of it is lost."""
        gate = asyncio.Event()
        origin.on("/ws", [gate, SWITCHED, echo_bytes, CLOSE])
        hidden = b"GET /hidden HTTP/1.1\r\nHost: d.test\r\n\r\n"
        async with await harness.viewer() as viewer:
            await viewer.send(offer() + hidden)
            await origin.received(1)
            much = os.urandom(MAX_EARLY * 8)
            sending = asyncio.ensure_future(viewer.send(much))
            await asyncio.sleep(0.05)
            gate.set()
            assert (await viewer.answer()).status == 101
            assert await viewer.reader.readexactly(len(hidden) + len(much)) == hidden + much
            await sending
        assert [request.target for request in origin.requests] == ["/ws"]

    async def test_what_waits_for_the_101_is_bounded(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/ws", [])
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            await origin.received(1)
            for _ in range(400):
                viewer.writer.write(b"x" * 65536)
                await asyncio.sleep(0)
            (connection,) = harness.listener.connections
            await until(lambda: len(connection._parser.early or b"") > MAX_EARLY)
            await asyncio.sleep(0.2)
            assert len(connection._parser.early or b"") < MAX_EARLY + (1 << 20)
            viewer.writer.transport.abort()

    @pytest.mark.parametrize("status", [200, 400, 403, 404])
    async def test_without_a_101_the_bytes_behind_a_handshake_are_discarded(
        self, harness: EdgeHarness, origin: ScriptedOrigin, status: int
    ) -> None:
        """A request behind a handshake is not answered: it may have been meant as the WebSocket's bytes, and a proxy
        in front of the edge may have let it pass as such."""
        gate = asyncio.Event()
        origin.on("/ws", [gate, *answer(status, b"no")])
        origin.on("/hidden", answer(200, b"hidden"))
        hidden = b"GET /hidden HTTP/1.1\r\nHost: d.test\r\n\r\n"
        async with await harness.viewer() as viewer:
            await viewer.send(offer() + hidden)
            await origin.received(1)
            await viewer.send(hidden)
            gate.set()
            seen = await viewer.answer()
            assert (seen.status, seen.header("connection")) == (status, "close")
            await viewer.send(hidden)
            assert await viewer.at_end() == b""
        assert [request.target for request in origin.requests] == ["/ws"]

    async def test_bytes_behind_a_handshake_without_signature_are_not_a_request(
        self, origin: ScriptedOrigin
    ) -> None:
        hidden = b"GET /open HTTP/1.1\r\nHost: d.test\r\n\r\n"
        async with EdgeHarness(signed_site(origin, "KALICE1")) as harness, await harness.viewer() as viewer:
            await viewer.send(offer("/a/1") + hidden)
            seen = await viewer.answer()
            assert (seen.status, seen.header("connection")) == (403, "close")
            assert await viewer.at_end() == b""
        assert not origin.requests

    async def test_requests_before_it_are_answered_first(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        origin.on("/slow", [gate, *answer(200, b"slow")])
        origin.on("/ws", [SWITCHED, echo_bytes, CLOSE])
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET /slow HTTP/1.1\r\nHost: d.test\r\n\r\n" + offer() + b"\x81\x00")
            await origin.received(1)
            gate.set()
            assert (await viewer.answer()).body == b"slow"
            assert (await viewer.answer()).status == 101
            assert await viewer.reader.readexactly(2) == b"\x81\x00"

    @pytest.mark.uvloop
    @pytest.mark.parametrize("method", [m for m in ALL if m != "GET"])
    async def test_on_other_methods_it_is_ignored_and_logged(
        self, harness: EdgeHarness, origin: ScriptedOrigin, method: str
    ) -> None:
        origin.on("/ws", answer(200, b"plain"))
        async with await harness.viewer() as viewer:
            await viewer.send(offer(method=method, Content_Length="3") + b"abc")
            if method in ("HEAD", "OPTIONS", "DELETE"):
                # Whether these may have a body is not what this test checks.
                await viewer.answer(method)
            else:
                assert (await viewer.answer(method)).status == 200
                assert origin.requests[0].header("upgrade") is None
                record = await harness.recorded(1)
                assert record["explanation"] == f"passed over: upgrade to websocket ({method} is not GET)"

    @pytest.mark.uvloop
    async def test_with_a_body_it_is_refused(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        async with await harness.viewer() as viewer:
            await viewer.send(offer(Content_Length="3") + b"abc")
            assert (await viewer.answer()).status == 403
        async with await harness.viewer() as viewer:
            await viewer.send(offer(Transfer_Encoding="chunked") + b"0\r\n\r\n")
            assert (await viewer.answer()).status == 400
        assert not origin.requests

    @pytest.mark.uvloop
    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"Sec_WebSocket_Key": "short"}, "websocket_key"),
            ({"Sec_WebSocket_Version": "8"}, "websocket_version"),
        ],
    )
    async def test_a_wrong_handshake_is_refused_with_a_reason(
        self, harness: EdgeHarness, origin: ScriptedOrigin, changed: dict[str, str], reason: str
    ) -> None:
        async with await harness.viewer() as viewer:
            await viewer.send(offer(**changed))
            seen = await viewer.answer()
            assert seen.status == 400
            assert seen.header("sec-websocket-version") == ("13" if reason == "websocket_version" else None)
            await viewer.send(b"GET /b HTTP/1.1\r\nHost: d.test\r\n\r\n")
            origin.on("/b", answer(200, b"b"))
            assert (await viewer.answer()).body == b"b"
        assert (await harness.recorded(1))["reason"] == reason
        assert [request.target for request in origin.requests] == ["/b"]

    @pytest.mark.uvloop
    @pytest.mark.parametrize(
        ("changed", "why"),
        [
            ({"Upgrade": "h2c"}, "h2c"),
            ({"Sec_WebSocket_Key": ""}, "websocket (without Sec-WebSocket-Key)"),
            ({"Connection": "keep-alive"}, "websocket (Connection does not name Upgrade)"),
        ],
    )
    async def test_what_is_passed_over_is_in_the_log(
        self, harness: EdgeHarness, origin: ScriptedOrigin, changed: dict[str, str], why: str
    ) -> None:
        origin.on("/ws", answer(200, b"plain", {"Cache-Control": "max-age=60"}))
        async with await harness.viewer() as viewer:
            for _ in range(4):  # also where the fast path would know the header section
                await viewer.send(offer(**changed))
                assert (await viewer.answer()).body == b"plain"
        await harness.recorded(4)
        assert [record.get("explanation") for record in harness.records] == [
            f"passed over: upgrade to {why}"
        ] * 4

    @pytest.mark.uvloop
    async def test_http_1_0_has_none(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        origin.on("/ws", answer(200, b"plain"))
        async with await harness.viewer() as viewer:
            await viewer.send(offer(version="1.0"))
            assert (await viewer.answer()).status == 200
        assert "HTTP/1.0" in (await harness.recorded(1))["explanation"]

    async def test_a_viewer_that_leaves_before_its_answer(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/ws", [])
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            await origin.received(1)
            reset(viewer)
            record = await harness.recorded(1)
        assert (record["status"], record["detail"]) == (0, "ClientHungUpRequest")
        await origin.disconnected(1)
        assert harness.edge.websockets.taken == 0

    async def test_a_viewer_that_has_half_closed_before_its_answer(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        got = []

        async def finish(_: ReceivedRequest, wire: Wire) -> None:
            got.append(await wire.reader.read())
            await wire.send(b"\x81\x03end")

        origin.on("/ws", [gate, SWITCHED, finish, CLOSE])
        async with await harness.viewer() as viewer:
            await viewer.send(offer() + b"\x81\x03bye")
            viewer.writer.write_eof()
            await origin.received(1)
            gate.set()
            assert (await viewer.answer()).status == 101
            assert await viewer.at_end() == b"\x81\x03end"
        assert got == [b"\x81\x03bye"]


# -- limits and closes -------------------------------------------------------------------------------------------


class TestEnds:
    @pytest.mark.uvloop
    async def test_open_ones_do_not_keep_requests_from_their_origin(self, origin: ScriptedOrigin) -> None:
        origin.on("/ws", [SWITCHED, echo_bytes, CLOSE])
        origin.on("/b", answer(200, b"b"))
        snapshot = site(origin.origin(), Behavior("*", "scripted", forward_headers=ALL_VIEWER))
        settings = EdgeSettings(memory=1 << 22, origins=OriginLimits(connections=1))
        async with EdgeHarness(snapshot, settings=settings) as harness, await harness.viewer() as viewer:
            for _ in range(2):
                await viewer.send(offer())
                assert (await viewer.answer()).status == 101
                assert (await harness.get("/b")).body == b"b"
                viewer = await harness.viewer()
            assert harness.edge.fetcher.origins.load[0] == 0

    @pytest.mark.uvloop
    async def test_beyond_the_limit_there_is_503(self, origin: ScriptedOrigin) -> None:
        async with server() as (_, ws):
            settings = EdgeSettings(memory=1 << 22, websockets=2)
            async with EdgeHarness(open_site(ws), settings=settings) as harness:
                async with client(harness), client(harness):
                    with pytest.raises(websockets.InvalidStatus) as full:
                        await client(harness)
                    assert full.value.response.status_code == 503
                    record = await harness.recorded(1)
                    assert (record["reason"], record["detail"]) == ("websocket_limit", "CapacityExceeded")
                await harness.recorded(3)
                async with client(harness) as viewer:
                    await viewer.send("room again")
                    assert await viewer.recv() == "room again"

    async def test_idle_ones_are_ended_with_a_close_frame_to_both(self) -> None:
        codes = []

        async def handler(connection: ServerConnection) -> None:
            await connection.wait_closed()
            codes.append(connection.close_code)

        async with server(handler, ping_interval=None) as (_, ws):
            async with EdgeHarness(open_site(ws), limits=BRIEF) as harness:
                async with client(harness, ping_interval=None) as viewer:
                    with pytest.raises(websockets.ConnectionClosed) as closed:
                        await viewer.recv()
                    assert closed.value.rcvd is not None
                    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "idle")
                assert (await harness.recorded(1))["reason"] == "websocket_idle"
        assert codes == [1001]

    async def test_traffic_one_way_keeps_it_open(self, origin: ScriptedOrigin) -> None:
        async def pulse(_: ReceivedRequest, wire: Wire) -> None:
            for _turn in range(20):
                await wire.send(b"\x89\x00")
                await asyncio.sleep(0.05)

        origin.on("/ws", [SWITCHED, pulse, CLOSE])
        snapshot = site(origin.origin(), Behavior("*", "scripted", forward_headers=ALL_VIEWER))
        async with EdgeHarness(snapshot, limits=BRIEF) as harness, await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            assert await viewer.at_end() == b"\x89\x00" * 20

    async def test_in_the_middle_of_a_frame_there_is_no_close_frame(self, origin: ScriptedOrigin) -> None:
        origin.on("/ws", [SWITCHED + b"\x82\x7e\x10\x00half"])
        snapshot = site(origin.origin(), Behavior("*", "scripted", forward_headers=ALL_VIEWER))
        async with EdgeHarness(snapshot, limits=BRIEF) as harness, await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            assert await viewer.at_end() == b"\x82\x7e\x10\x00half"

    async def test_a_viewer_that_does_not_read_stops_the_origin_and_is_disconnected(
        self, origin: ScriptedOrigin
    ) -> None:
        wires: list[Wire] = []

        async def pump(_: ReceivedRequest, wire: Wire) -> None:
            wires.append(wire)
            while True:
                await wire.send(b"x" * 65536)

        origin.on("/ws", [SWITCHED, pump])
        snapshot = site(origin.origin(), Behavior("*", "scripted", forward_headers=ALL_VIEWER))
        async with EdgeHarness(snapshot, limits=BRIEF) as harness:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", harness.port))
            sock.sendall(offer())
            await origin.received(1)
            await until(lambda: bool(wires))
            await wires[0].blocked.wait()
            (connection,) = harness.listener.connections
            assert connection.tunnel is not None
            assert connection.tunnel.viewer.transport.get_write_buffer_size() < 2 << 20
            record = await harness.recorded(1)
            assert record["reason"] == "websocket_viewer_stuck"
            assert record["bytes"] < 64 << 20
            sock.close()
            await origin.disconnected(1)

    async def test_an_origin_that_does_not_read_stops_the_viewer_and_is_disconnected(
        self, origin: ScriptedOrigin
    ) -> None:
        async def deaf(_: ReceivedRequest, wire: Wire) -> None:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(3600)

        origin.on("/ws", [SWITCHED, deaf])
        snapshot = site(origin.origin(), Behavior("*", "scripted", forward_headers=ALL_VIEWER))
        async with EdgeHarness(snapshot, limits=BRIEF) as harness, await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101

            async def push() -> None:
                while True:
                    await viewer.send(b"x" * 65536)

            pushing = asyncio.ensure_future(push())
            record = await harness.recorded(1)
            assert record["reason"] == "websocket_origin_stuck"
            assert record["request_bytes"] < 64 << 20
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)

    async def test_the_other_half_goes_on_when_one_is_closed(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        async def last_words(_: ReceivedRequest, wire: Wire) -> None:
            assert await wire.reader.read() == b"\x81\x03bye"
            await wire.send(b"\x81\x05after")

        origin.on("/ws", [SWITCHED, last_words, CLOSE])
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            await viewer.send(b"\x81\x03bye")
            viewer.writer.write_eof()
            assert await viewer.at_end() == b"\x81\x05after"
        record = await harness.recorded(1)
        assert record.get("reason", "") == ""

    async def test_an_origin_that_closes_its_half_first(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        got = []

        async def half(_: ReceivedRequest, wire: Wire) -> None:
            await wire.send(b"\x81\x03bye")
            wire.writer.write_eof()
            got.append(await wire.reader.read())

        origin.on("/ws", [SWITCHED, half, CLOSE])
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            assert await viewer.at_end() == b"\x81\x03bye"
            await viewer.send(b"\x81\x05after")
            viewer.writer.write_eof()
            await harness.recorded(1)
        assert got == [b"\x81\x05after"]

    async def test_a_half_that_stays_open_is_ended(self, origin: ScriptedOrigin) -> None:
        origin.on("/ws", [SWITCHED, lambda _, wire: asyncio.sleep(3600)])
        snapshot = site(origin.origin(), Behavior("*", "scripted", forward_headers=ALL_VIEWER))
        limits = Limits(write=0.3, websocket_idle=3600)
        async with EdgeHarness(snapshot, limits=limits) as harness, await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            viewer.writer.write_eof()
            assert (await harness.recorded(1))["reason"] == "websocket_idle"

    async def test_a_reset_of_one_side_ends_the_other_after_all_that_was_sent(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        async def break_off(_: ReceivedRequest, wire: Wire) -> None:
            await wire.reader.readexactly(2)
            wire.reset()

        origin.on("/ws", [SWITCHED + b"\x81\x05hello", break_off])
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            assert await viewer.reader.readexactly(7) == b"\x81\x05hello"
            await viewer.send(b"\x81\x00")
            assert await viewer.at_end() == b""
        assert (await harness.recorded(1))["reason"] == "websocket_origin_lost"

    async def test_a_viewer_that_resets(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        got = []

        async def collect(_: ReceivedRequest, wire: Wire) -> None:
            got.append(await wire.reader.read())

        origin.on("/ws", [SWITCHED, collect, CLOSE])
        async with await harness.viewer() as viewer:
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            await viewer.send(b"\x81\x05hello")
            await until(lambda: bool(harness.listener.connections))
            (connection,) = harness.listener.connections
            await until(lambda: connection.tunnel is not None and connection.tunnel.viewer.received == 7)
            reset(viewer)
            record = await harness.recorded(1)
        assert record["status"] == 101
        assert record["reason"] == "websocket_viewer_lost"
        await origin.disconnected(1)
        assert got == [b"\x81\x05hello"]

    async def test_a_stopping_worker_waits_and_then_sends_close_frames(self) -> None:
        codes = []

        async def handler(connection: ServerConnection) -> None:
            async for message in connection:
                await connection.send(message)
            codes.append(connection.close_code)

        async with server(handler) as (_, ws):
            async with EdgeHarness(open_site(ws), limits=Limits(drain=1.0)) as harness:
                async with client(harness) as viewer:
                    draining = asyncio.ensure_future(harness.listener.drain())
                    await asyncio.sleep(0)
                    await viewer.send("still served")
                    assert await viewer.recv() == "still served"
                    with pytest.raises(websockets.ConnectionClosed) as closed:
                        await viewer.recv()
                    assert closed.value.rcvd is not None
                    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "shutdown")
                await draining
                assert (await harness.recorded(1))["reason"] == "websocket_shutdown"
        assert codes == [1001]

    async def test_who_does_not_answer_the_goodbye_is_cut(self, origin: ScriptedOrigin) -> None:
        origin.on("/ws", [SWITCHED, lambda _, wire: asyncio.sleep(3600)])
        snapshot = site(origin.origin(), Behavior("*", "scripted", forward_headers=ALL_VIEWER))
        async with (
            EdgeHarness(snapshot, limits=Limits(drain=0.1)) as harness,
            await harness.viewer() as viewer,
        ):
            await viewer.send(offer())
            assert (await viewer.answer()).status == 101
            await harness.listener.drain()
            assert not harness.listener.connections
            assert (await viewer.reader.read()).startswith(b"\x88")

    async def test_nothing_is_left_behind(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        origin.on("/ws", [SWITCHED, echo_bytes, CLOSE])
        for _ in range(20):
            async with await harness.viewer() as viewer:
                await viewer.send(offer() + b"\x81\x05hello")
                await viewer.answer()
                await viewer.reader.readexactly(7)
                viewer.writer.write_eof()
                await viewer.at_end()
        await harness.recorded(20)
        await until(lambda: not harness.listener.connections and not harness.edge.fetcher.origins.pools.open)
        gc.collect()
        kinds = [type(each).__name__ for each in gc.get_objects()]
        assert kinds.count("Tunnel") == 0
        assert harness.edge.websockets.taken == 0


# -- metrics, and ASGI ---------------------------------------------------------------------------------------------


@pytest.mark.uvloop
class TestCounts:
    async def test_metrics(self) -> None:
        async with server() as (_, ws), EdgeHarness(open_site(ws)) as harness:

            def rendered() -> dict[str, float]:
                measure(harness.edge, 1, 0.0)
                return {
                    sample.name: sample.value
                    for family in families([("edge-1", 1, msgspec.to_builtins(harness.log.counts.sums()))])
                    for sample in family.samples
                }

            async with client(harness):
                seen = rendered()
                assert seen["keyfront_edge_websockets"] == 1
                assert seen["keyfront_edge_websocket_handshakes_total"] == 1
                assert seen["keyfront_edge_websockets_opened_total"] == 1
            await harness.recorded(1)
            harness.log.flush()
            seen = rendered()
            assert seen["keyfront_edge_websockets"] == 0
            # The time that they were open is not a response time.
            assert "keyfront_edge_request_duration_seconds_count" not in seen

    @pytest.mark.parametrize("extension", [True, False])
    async def test_under_an_asgi_server_it_is_refused_and_recorded(
        self, origin: ScriptedOrigin, extension: bool
    ) -> None:
        snapshot = site(origin.origin(), Behavior("*", "scripted"))
        async with EdgeHarness(snapshot) as harness:
            app = EdgeApp(harness.edge)
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                return {"type": "websocket.connect"}

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {
                "type": "websocket",
                "scheme": "wss",
                "http_version": "2",
                "raw_path": b"/ws",
                "query_string": b"x=1",
                "headers": [(b"host", b"d.test")],
                "client": ("127.0.0.1", 5),
                "extensions": {"websocket.http.response": {}} if extension else {},
            }
            await app(scope, receive, send)
            record = await harness.recorded(1)
        assert [m["type"] for m in sent] == (
            ["websocket.http.response.start", "websocket.http.response.body"]
            if extension
            else ["websocket.close"]
        )
        assert record["reason"] == "websocket_over_asgi"
        assert record["status"] == (501 if extension else 403)
        assert not origin.requests


def test_the_fuzzer_finds_nothing() -> None:
    """A short run; `python -m fuzz.websocket` takes longer ones."""
    conversations, switched = run(80, None, 3, tell=lambda _: None)
    assert conversations == 80
    assert switched > 3
