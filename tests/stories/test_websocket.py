"""WebSocket as its users encounter it: a browser with signed cookies, a worker that stops."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
import websockets
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect
from websockets.sync.server import Server, ServerConnection, serve

from keyfront import LocalSigner, load_private_key, sign_cookies
from tests.up import Up, distribution_config

CHROMIUM = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome"))
    ),
    None,
)
CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
ALL_VIEWER = "216adef6-5c7f-47e4-b989-5492eafa07d3"


def application(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


def page(connection: ServerConnection, request: Any) -> Any:
    """The same application's page, for requests that are not a handshake."""
    if request.headers.get("Upgrade") is None:
        answer = connection.respond(200, "<!doctype html><title>room</title>")
        del answer.headers["Content-Type"]
        answer.headers["Content-Type"] = "text/html"
        return answer
    return None


class Room:
    """Keyfront with http and https in front of a WebSocket application whose `/room/*` requires a signature."""

    def __init__(self, up: Up, port: int, ca: trustme.CA) -> None:
        self.up = up
        self.port = port
        self.ca = ca
        private = ec.generate_private_key(ec.SECP256R1())
        self.pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        client = up.client()
        key = client.create_public_key(
            PublicKeyConfig={
                "CallerReference": "k",
                "Name": "k",
                "EncodedKey": load_private_key(self.pem).public_key.pem,
            }
        )["PublicKey"]["Id"]
        group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [key]})["KeyGroup"]["Id"]
        config = distribution_config("d", port, [], paths={"/room/*": [group]})
        for behavior in (config["DefaultCacheBehavior"], *config["CacheBehaviors"]["Items"]):
            behavior["CachePolicyId"] = CACHING_DISABLED
            behavior["OriginRequestPolicyId"] = ALL_VIEWER
        distribution = client.create_distribution(DistributionConfig=config)["Distribution"]
        up.deployed(distribution["Id"])
        self.host = distribution["DomainName"]
        self.key = key

    def cookies(self, scheme: str) -> dict[str, str]:
        signer = LocalSigner(self.key, load_private_key(self.pem))
        resource = f"{scheme}://{self.host}*/room/*"
        secure = scheme == "https"
        return dict(sign_cookies(resource, signer, expires=2**31 - 1, secure=secure).values)

    def connect(self, target: str, **more: Any) -> connect:
        return connect(
            f"ws://{self.host}:{self.up.edge_port}{target}",
            host="127.0.0.1",
            port=self.up.edge_port,
            proxy=None,
            **more,
        )


@pytest.fixture(scope="module")
def app() -> Iterator[int]:
    server: Server = serve(application, "127.0.0.1", 0, process_request=page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.socket.getsockname()[1]
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, app: int) -> Iterator[Room]:
    ca = trustme.CA()
    folder = tmp_path_factory.mktemp("room") / "certificates"
    folder.mkdir()
    made = ca.issue_cert("*.cloudfront.localhost")
    (folder / "edge.crt").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    (folder / "edge.key").write_bytes(made.private_key_pem.bytes())
    (folder / "edge.key").chmod(0o600)
    options: tuple[str, ...] = ("--tls", "127.0.0.1:0", "--certificates", str(folder))
    options += ("--websockets", "3", "--drain-timeout", "8")
    with Up(folder.parent / "data", workers=1, options=options) as up:
        yield Room(up, app, ca)


def of_websockets(up: Up) -> list[dict[str, Any]]:
    return [record for record in up.records() if record["status"] == 101]


async def test_options_metrics_and_shutdown(room: Room) -> None:
    cookies = "; ".join(f"{name}={value}" for name, value in room.cookies("http").items())
    headers = {"Cookie": cookies}
    with pytest.raises(websockets.InvalidStatus) as refused:
        await room.connect("/room/1")
    assert refused.value.response.status_code == 403
    opened = [await room.connect("/room/1", additional_headers=headers) for _ in range(2)]
    opened.append(await room.connect("/lobby"))
    with pytest.raises(websockets.InvalidStatus) as full:
        await room.connect("/lobby")
    assert full.value.response.status_code == 503
    for number, viewer in enumerate(opened):
        await viewer.send(f"message {number}")
        assert await viewer.recv() == f"message {number}"

    def metrics() -> str:
        return room.up.control("/metrics").body.decode()

    loop = asyncio.get_running_loop()
    while 'keyfront_edge_websockets{edge="edge-1"} 3.0' not in await loop.run_in_executor(None, metrics):
        await asyncio.sleep(0.1)

    await opened[0].close()
    # SIGTERM: the other connections continue until the drain time is over, and then get a close frame.
    worker = room.up.worker_pids()[0]
    os.kill(worker, signal.SIGTERM)
    await opened[1].send("while it drains")
    assert await opened[1].recv() == "while it drains"
    for viewer in opened[1:]:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await viewer.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "shutdown")
    while len(of_websockets(room.up)) < 3:
        await asyncio.sleep(0.05)
    records = of_websockets(room.up)
    assert sorted(record.get("reason", "") for record in records) == [
        "",
        "websocket_shutdown",
        "websocket_shutdown",
    ]
    assert [record["verdict"] for record in records if record["path"] == "/room/1"] == ["allowed"] * 2


TALK = """
(url) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  const got = [];
  socket.onopen = () => { socket.send("hello"); socket.send("x".repeat(200000)); };
  socket.onmessage = (event) => {
    got.push(event.data.length);
    if (got.length === 2) socket.close(4000, "done");
  };
  socket.onclose = (event) => resolve({got, code: event.code, clean: event.wasClean});
})
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the story would show nothing")
def test_a_browser_opens_it_with_signed_cookies_and_not_without(room: Room) -> None:
    from playwright.sync_api import sync_playwright  # a heavy import, needed only by this test

    room.up.well()
    earlier = len(list(room.up.records()))
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        for scheme, port in (("http", room.up.edge_port), ("https", room.up.tls_port)):
            site = f"{scheme}://{room.host}:{port}"
            socket_url = f"{'ws' if scheme == 'http' else 'wss'}://{room.host}:{port}/room/1"
            context = browser.new_context(ignore_https_errors=True)
            tab = context.new_page()
            tab.goto(f"{site}/lobby")
            assert tab.title() == "room"
            without = tab.evaluate(TALK, socket_url)
            assert (without["got"], without["code"], without["clean"]) == ([], 1006, False)
            context.add_cookies(
                [{"name": name, "value": value, "url": site} for name, value in room.cookies(scheme).items()]
            )
            assert tab.evaluate(TALK, socket_url) == {"got": [5, 200000], "code": 4000, "clean": True}
            context.close()
        browser.close()

    def records() -> list[dict[str, Any]]:
        return [record for record in list(room.up.records())[earlier:] if record["path"] == "/room/1"]

    Up.until(lambda: len(records()) == 4)
    opened = [record for record in records() if record["status"] == 101]
    assert [record["scheme"] for record in opened] == ["ws", "wss"]
    assert {(record["verdict"], record["signed_by"]) for record in opened} == {("allowed", "cookies")}
    refused = [record for record in records() if record["status"] != 101]
    assert [(record["status"], record["verdict"]) for record in refused] == [(403, "refused")] * 2
    assert "passed over" not in json.dumps(list(room.up.records()))
