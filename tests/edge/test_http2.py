"""HTTP/2 end to end, by HTTP/2 clients: `keyfront up` itself, and Granian, which serves `create_app` beside it."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keyfront import LocalSigner, sign_url
from keyfront.edge.asgi_app import AsgiSettings, create_app
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.errors import SettingsError
from keyfront.signing.keys import PrivateKey
from tests.sites import BOB
from tests.up import Up, distribution_config

SERVERS = ("keyfront up", "Granian")
PRIVATE = PrivateKey(ec.generate_private_key(ec.SECP256R1()))
HOST = "secure.test"
BIG = 40_000_000


class App(http.server.BaseHTTPRequestHandler):
    """An application server that returns what it received, streams, and aborts."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str]]
    sent: dict[str, int]

    def do_GET(self) -> None:
        self.asked.append((self.command, self.path))
        if "big" in self.path or "broken" in self.path:
            self.send_response(200)
            self.send_header("Cache-Control", "no-store")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(1 if "broken" in self.path else BIG // 100_000):
                    self.wfile.write(b"%x\r\n%b\r\n" % (100_000, bytes(100_000)))
                    self.sent[self.path] = self.sent.get(self.path, 0) + 100_000
                if "broken" not in self.path:
                    self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        while "Transfer-Encoding" in self.headers and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size + 2)[:-2]
        if "Transfer-Encoding" in self.headers:
            self.rfile.readline()
        shown = json.dumps([self.command, self.path, len(body), sorted(k.lower() for k in self.headers)])
        self.send_response(200)
        self.send_header("Cache-Control", "max-age=60")
        self.send_header("Content-Length", str(len(shown)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(shown.encode())

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Harness:
    """`keyfront up`, perhaps Granian beside it, and an application behind them."""

    def __init__(self, folder: Path, server: str) -> None:
        self.server = server
        App.asked, App.sent = [], {}
        self.app = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
        self.app.daemon_threads = True
        threading.Thread(target=self.app.serve_forever, daemon=True).start()
        self.ca = trustme.CA()
        made = self.ca.issue_cert(HOST)
        chain, key = folder / "site.pem", folder / "site-key.pem"
        chain.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        private = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
        pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key.write_bytes(private.private_bytes(*pkcs8))  # the only form that Granian accepts
        self.context = ssl.create_default_context()
        self.ca.configure_trust(self.context)
        self.folder = folder
        self.granian: subprocess.Popen[bytes] | None = None
        if server == "Granian":
            self.up = Up(folder / "data", workers=1).start()
            self._start_granian(chain, key)
        else:
            options: tuple[str, ...] = (
                "--tls",
                "127.0.0.1:0",
                "--certificates",
                str(folder),
                "--pop",
                "KFR50-H2",
            )
            options += ("--cache-disk", "0", "--memory", "16")
            self.up = Up(folder / "data", workers=1, options=options).start()
            self.port = self.up.tls_port
        self._create_site()

    def _start_granian(self, chain: Path, key: Path) -> None:
        folder = self.folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = {"data": str(folder / "data"), "edge": {"memory": 1 << 24, "pop": "KFR50-H2"}}
        argv = [
            sys.executable,
            "-m",
            "granian",
            "--interface",
            "asgi",
            "--factory",
            "--no-ws",
            "--http",
            "auto",
        ]
        argv += ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "warning"]
        argv += [
            "--ssl-certificate",
            str(chain),
            "--ssl-keyfile",
            str(key),
            "keyfront.edge.asgi:create_app",
        ]
        self.log = open(folder / "granian.log", "wb")  # noqa: SIM115 - as long as the process
        self.granian = subprocess.Popen(
            argv,
            env={**os.environ, "KEYFRONT_EDGE": json.dumps(settings)},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.up.until(lambda: any("asgi-" in name for name in self.reports()))

    def _create_site(self) -> None:
        client = self.up.client()
        self.key = client.create_public_key(
            PublicKeyConfig={"CallerReference": "k", "Name": "k", "EncodedKey": PRIVATE.public_key.pem}
        )["PublicKey"]["Id"]
        self.group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [self.key]})["KeyGroup"][
            "Id"
        ]
        config = distribution_config("h2", self.app.server_address[1], [], paths={"/private/*": [self.group]})
        config["Aliases"] = {"Quantity": 1, "Items": [HOST]}
        config["DefaultCacheBehavior"]["AllowedMethods"] = {
            "Quantity": 7,
            "Items": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
            "CachedMethods": {"Quantity": 2, "Items": ["GET", "HEAD"]},
        }
        self.id = client.create_distribution(DistributionConfig=config)["Distribution"]["Id"]
        self.up.deployed(self.id)

    def reports(self) -> list[str]:
        return [path.name for path in (self.folder / "data" / "reports").glob("*.json")]

    def records(self) -> list[dict[str, Any]]:
        return [record for record in self.up.records() if record["protocol_version"].startswith("2")]

    def client(self) -> httpx.Client:
        return httpx.Client(http2=True, http1=False, verify=self.context, timeout=20, trust_env=False)

    def signed(self, path: str, **terms: Any) -> str:
        terms.setdefault("expires", int(time.time()) + 600)
        url = f"https://{HOST}:{self.port}{path}"
        return sign_url(url, LocalSigner(self.key, PRIVATE), **terms)

    def close(self) -> None:
        if self.granian is not None:
            if self.granian.poll() is None:
                self.granian.terminate()
            self.granian.wait(30)
            self.log.close()
        assert self.up.stop() == 0
        assert "Traceback" not in "".join(self.up.log)
        self.app.shutdown()
        self.app.server_close()


@pytest.fixture(scope="module", params=SERVERS)
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    if request.param == "Granian":
        pytest.importorskip("granian", reason="Granian is not installed")
    harness = Harness(tmp_path_factory.mktemp("h2"), request.param)
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host in (HOST, HOST.encode()) else host, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        yield harness
    harness.close()


def test_a_signed_url_over_http_2(harness: Harness) -> None:
    with harness.client() as client:
        url = harness.signed("/private/film%20one?x=%2F&y")
        miss, hit = client.get(url), client.get(url)
        assert (miss.http_version, miss.status_code) == ("HTTP/2", 200)
        assert [seen.headers["x-cache"] for seen in (miss, hit)] == [
            "Miss from cloudfront",
            "Hit from cloudfront",
        ]
        assert miss.content == hit.content
        assert hit.headers["x-amz-cf-pop"] == "KFR50-H2"
        assert json.loads(miss.content)[:2] == ["GET", "/private/film%20one"]
        head = client.head(url)
        assert (head.headers["content-length"], head.content) == (str(len(hit.content)), b"")
        for bad in (f"https://{HOST}:{harness.port}/private/film%20one", url.replace("film", "flim")):
            refused = client.get(bad)
            assert (refused.status_code, refused.headers["content-type"]) == (403, "text/xml")
    harness.up.until(lambda: len(harness.records()) >= 5)
    record = harness.records()[0]
    assert (record["scheme"], record["verdict"], record["key_pair_id"]) == ("https", "allowed", harness.key)


@pytest.mark.parametrize(
    "command",
    [
        "curl -sS --fail --http2 -o /dev/null -w %{http_version} --cacert {ca} --resolve {host}:{port}:127.0.0.1 {url}",
        "h2load -n 300 -c 3 -m 20 --connect-to=127.0.0.1:{port} {url}",
    ],
)
def test_other_clients(harness: Harness, command: str, tmp_path: Path) -> None:
    words = command.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    ca = tmp_path / "ca.pem"
    harness.ca.cert_pem.write_to_path(ca)
    url = harness.signed("/private/other")
    for name, value in {"{ca}": str(ca), "{host}": HOST, "{port}": str(harness.port), "{url}": url}.items():
        words = [word.replace(name, value) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2" or "300 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout


def test_a_body_goes_through(harness: Harness) -> None:
    with harness.client() as client:
        url = f"https://{HOST}:{harness.port}/upload"
        answer = client.post(url, content=b"x" * 3_000_000)
        assert json.loads(answer.content)[:3] == ["POST", "/upload", 3_000_000]
        streamed = client.post(url, content=iter([b"x" * 10_000] * 20))
        assert json.loads(streamed.content)[:3] == ["POST", "/upload", 200_000]


class Raw:
    """An HTTP/2 client that sends exactly what it is given."""

    def __init__(self, harness: Harness) -> None:
        context = ssl.create_default_context()
        harness.ca.configure_trust(context)
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", harness.port), 10)
        self.socket = context.wrap_socket(plain, server_hostname=HOST)
        assert self.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.state = h2.connection.H2Connection(config)
        self.state.initiate_connection()
        self.authority = f"{HOST}:{harness.port}".encode()

    def ask(self, path: bytes, *fields: tuple[bytes, bytes], method: bytes = b"GET") -> int:
        stream = self.state.get_next_available_stream_id()
        pseudo = [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", self.authority),
            (b":path", path),
        ]
        self.state.send_headers(stream, [*pseudo, *fields], end_stream=True)
        self.socket.sendall(self.state.data_to_send())
        return stream

    def hear(self, stream: int) -> tuple[int, bytes] | str:
        """The status and body, or how the stream or the connection was aborted."""
        status, body = 0, b""
        while data := self.socket.recv(65536):
            for event in self.state.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                    status = int(dict(event.headers)[b":status"])
                elif isinstance(event, h2.events.DataReceived):
                    self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                    return status, body
                elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return type(event).__name__
            self.socket.sendall(self.state.data_to_send())
        return "closed"

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.mark.parametrize("path", ["/a//b/./c/../d%2Fe", "/%7Ea;b?c=%20&d&&", "/a\\b|c^d", "/a??b"])
def test_the_target_reaches_the_origin_as_it_was_sent(harness: Harness, path: str) -> None:
    with Raw(harness) as raw:
        answer = raw.hear(raw.ask(path.encode()))
        assert isinstance(answer, tuple)
        assert json.loads(answer[1])[1] == path.partition("?")[0]
    with Raw(harness) as raw:
        signed = harness.signed("/private" + path, as_is=True).partition(str(harness.port))[2]
        assert raw.hear(raw.ask(signed.encode()))[0] == 200
        assert raw.hear(raw.ask(signed.replace("/private", "/private/").encode()))[0] == 403


def test_a_malformed_request_does_not_reach_the_origin(harness: Harness) -> None:
    before = len(App.asked)
    for path in (b"/a b", b"/a\r\nX: y", b"/a\0", b"/\xc3\xa9", b"a", b"", b"*", b"http://evil.test/"):
        with Raw(harness) as raw:
            answer = raw.hear(raw.ask(path))
            assert isinstance(answer, str) or answer[0] == 400, path
    for field in (
        (b"x", b"a\r\nb: c"),
        (b"x", b"a\0b"),
        (b"transfer-encoding", b"chunked"),
        (b"x y", b"z"),
        (b":x", b"y"),
    ):
        with Raw(harness) as raw:
            answer = raw.hear(raw.ask(b"/a", field))
            assert isinstance(answer, str) or answer[0] == 400, field
    with Raw(harness) as raw:
        raw.authority = b"me@" + raw.authority
        answer = raw.hear(raw.ask(b"/a"))
        assert isinstance(answer, str) or answer[0] == 400
    for path in (b"/private/1", b"/x/..%2fprivate/1", b"//private/1", b"/%70rivate/1"):
        with Raw(harness) as raw:
            answer = raw.hear(raw.ask(path))
            assert isinstance(answer, tuple)
            assert answer[0] == 403, path
    assert len(App.asked) == before


def test_many_streams_on_one_connection(harness: Harness) -> None:
    with Raw(harness) as raw:
        streams = [raw.ask(b"/shared-%d" % (n % 5)) for n in range(60)]
        heard: dict[int, bytes] = {}
        ended: set[int] = set()
        while len(ended) < len(streams):
            for event in raw.state.receive_data(raw.socket.recv(65536)):
                if isinstance(event, h2.events.DataReceived):
                    heard[event.stream_id] = heard.get(event.stream_id, b"") + event.data
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
            raw.socket.sendall(raw.state.data_to_send())
        for number, stream in enumerate(streams):
            assert json.loads(heard[stream])[1] == f"/shared-{number % 5}"


def test_an_answer_that_breaks_off_is_no_answer(harness: Harness) -> None:
    with Raw(harness) as raw:
        answer = raw.hear(raw.ask(b"/broken"))
        assert answer == "StreamReset"
        assert raw.hear(raw.ask(b"/a"))[0] == 200  # the connection remains usable


def test_a_viewer_that_does_not_read_or_leaves_stops_the_origin(harness: Harness) -> None:
    with Raw(harness) as raw:
        raw.ask(b"/big-stuck")
        harness.up.until(lambda: App.sent.get("/big-stuck", 0) > 0)
        time.sleep(1)  # as far as it gets
        at = App.sent["/big-stuck"]
        assert at < BIG
    time.sleep(1.5)
    assert App.sent["/big-stuck"] < BIG
    harness.up.until(lambda: any(r["path"] == "/big-stuck" for r in harness.records()))


def test_a_key_that_is_withdrawn_is_refused_within_a_second(harness: Harness) -> None:
    client = harness.up.client()
    other = client.create_public_key(
        PublicKeyConfig={
            "CallerReference": "o",
            "Name": "o",
            "EncodedKey": BOB.public_key.pem,
        }
    )["PublicKey"]["Id"]
    url = harness.signed("/private/film%20one?x=%2F&y")
    with harness.client() as viewer:
        assert viewer.get(url).status_code == 200
        group = client.get_key_group(Id=harness.group)
        client.update_key_group(
            Id=harness.group, IfMatch=group["ETag"], KeyGroupConfig={"Name": "g", "Items": [other]}
        )
        began = time.monotonic()
        harness.up.until(lambda: viewer.get(url).status_code == 403, 5)
        assert time.monotonic() - began < 1.5
        harness.up.deployed(harness.id)
        group = client.get_key_group(Id=harness.group)
        client.update_key_group(
            Id=harness.group, IfMatch=group["ETag"], KeyGroupConfig={"Name": "g", "Items": [harness.key]}
        )
        harness.up.until(lambda: viewer.get(url).status_code == 200, 5)


def test_its_end_leaves_no_report(harness: Harness) -> None:
    """Last: the server is gone afterward."""
    if harness.granian is None:
        return  # its fixture stops `keyfront up`
    with harness.client() as client:
        assert client.get(f"https://{HOST}:{harness.port}/a").status_code == 200
    harness.granian.send_signal(signal.SIGTERM)
    assert harness.granian.wait(30) == 0
    assert not any("asgi-" in name for name in harness.reports())
    log = (harness.folder / "granian.log").read_text()
    # An application can abort a stream only with an exception, and the server logs it.
    assert log.count("Traceback") == log.count("OriginFailure:") <= 1
    assert len(log) < 10_000


class TestSettings:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "not set"),
            ("{", "cannot be understood"),
            ('{"dta": "."}', "cannot be understood"),
            ('{"data": "/nowhere/at/all"}', "no folder"),
            ('{"data": ".", "trusted_proxies": ["x"]}', "cannot be understood"),
            ('{"data": ".", "edge": {"memory": "much"}}', "memory"),
        ],
    )
    def test_what_makes_no_sense(self, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
        monkeypatch.setenv("KEYFRONT_EDGE", text)
        with pytest.raises(SettingsError, match=said):
            create_app()

    async def test_without_a_lifespan_nothing_is_served(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KEYFRONT_EDGE", json.dumps({"data": str(tmp_path)}))
        app = create_app()

        async def never() -> Any:
            await asyncio.Event().wait()

        with pytest.raises(RuntimeError, match="lifespan"):
            await app({"type": "http"}, never, never)  # type: ignore[arg-type]

    def test_the_smallest_settings(self) -> None:
        assert AsgiSettings("x").edge == EdgeSettings()
