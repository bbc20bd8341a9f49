"""Paths at real origins that parse them carelessly: nginx with `$uri` in proxy_pass and rewrite in front of Python's
http.server, http.server itself, Flask's static files. Each is first requested directly, to establish that it is
careless."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import random
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from werkzeug.serving import make_server

from keyfront.model.snapshot import Behavior, KeyGroup, Origin, Snapshot
from tests.nginx import BINARY, free_ports, running_nginx
from tests.sites import ALICE, BOB, keys, signed, site
from tests.viewer import EdgeHarness, Viewer

SECRET = b"this is the secret film"

CONFIG = """
server {{ listen 127.0.0.1:{uri}; location / {{ proxy_pass http://127.0.0.1:{backend}$uri; }} }}
server {{ listen 127.0.0.1:{rewrite};
          location / {{ rewrite ^/(.*)$ /$1 break; proxy_pass http://127.0.0.1:{backend}; }} }}
server {{ listen 127.0.0.1:{root}; root {folder}/www; location / {{ try_files $uri $uri/ =404; }} }}
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    folder = tmp_path_factory.mktemp("careless")
    www = folder / "www"
    (www / "private").mkdir(parents=True)
    (www / "public").mkdir()
    (www / "private" / "1.mp4").write_bytes(SECRET)
    (www / "index.html").write_bytes(SECRET)
    (www / "public" / "Über 100% (#1).jpg").write_bytes(b"a picture")
    (www / "1.jpg").write_bytes(b"a picture")
    served = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(www))
    )
    application = flask.Flask("careless", static_folder=str(www), static_url_path="")
    flask_server = make_server("127.0.0.1", 0, application, threaded=True)
    found = {"http.server": served.server_address[1], "Flask": flask_server.server_port}
    threads = [threading.Thread(target=one.serve_forever, daemon=True) for one in (served, flask_server)]
    for thread in threads:
        thread.start()
    with contextlib.ExitStack() as stack:
        if BINARY is not None:
            uri, rewrite, root = free_ports(3)
            found |= {"nginx with $uri": uri, "nginx with rewrite": rewrite, "nginx": root}
            servers = CONFIG.format(
                folder=folder, backend=found["http.server"], uri=uri, rewrite=rewrite, root=root
            )
            stack.enter_context(running_nginx(folder, servers, [uri, rewrite, root]))
        yield found
    for server in (served, flask_server):
        server.shutdown()
        server.server_close()


NAMES = ["http.server", "Flask", *(["nginx with $uri", "nginx with rewrite", "nginx"] if BINARY else [])]
ENDS = [
    "", "%3f.jpg", "%3F.png", "%23.jpg", "%23", "%253f.jpg", "%2523.jpg", "?.jpg", "%3fx%23.jpg", "/", "%2f", "%00.jpg",
    "%2500.jpg", "%0a.jpg", "%20HTTP/1.0%0d%0aX:%20.jpg", "%20.jpg", ";.jpg", "%3b.jpg", "/.", "/x/..%2f", "%c0%bf.jpg",
]  # fmt: skip
STARTS = [
    "/private/1.mp4", "//private/1.mp4", "/%70rivate/1.mp4", "/private%2f1.mp4", "/public/../private/1.mp4",
    "/public/%2e%2e/private/1.mp4", "/public/..%2fprivate/1.mp4", "/public/%252e%252e/private/1.mp4",
    "/1.jpg/../private/1.mp4", "/./private/./1.mp4", "/%2570rivate/1.mp4", "/public%2f..%2fprivate/1.mp4",
]  # fmt: skip
TARGETS = [start + end for start in STARTS for end in ENDS]
FEWER = [*STARTS, *(STARTS[0] + end for end in ENDS), *random.Random(1).sample(TARGETS, 60)]
"""Each start, each end, and some of the pairs."""
ROOTS = [
    "/", "//", "///", "/.", "/./", "/x/..", "/x/../", "/%2e", "/%2e/", "/x/%2e%2e", "//?x", "/%2f", "/?x", "/%3f",
    "/%23", "/%3fx",
    "/%252f", "/public/..", "/public%2f..", "/index.html", "/index.html%3f", "/index.html%23.jpg", "/%69ndex.html",
    "/index.html/", "//index.html", "/public/..%2findex.html",
]  # fmt: skip


def world(port: int, *behaviors: Behavior, **members: Any) -> Snapshot:
    groups = (KeyGroup("group-a", "a", (ALICE.key_pair_id,)),)
    origin = Origin(id="o", domain_name="127.0.0.1", http_port=port)
    return site(origin, *behaviors, public_keys=keys(ALICE, BOB), key_groups=groups, **members)


def guarded(pattern: str) -> Behavior:
    return Behavior(pattern, "o", restricted=True, trusted_key_groups=("group-a",))


WORLDS: dict[str, Callable[[int], Snapshot]] = {
    "open pictures": lambda port: world(port, Behavior("*.jpg", "o"), Behavior("*.png", "o"), guarded("*")),
    "a private folder": lambda port: world(
        port, guarded("/private/*"), guarded("/index.html"), Behavior("*", "o")
    ),
    "private films": lambda port: world(port, guarded("*.mp4"), guarded("*.html"), Behavior("*", "o")),
}


async def directly(port: int, target: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with Viewer(reader, writer) as viewer:
        await viewer.send(f"GET {target} HTTP/1.0\r\nHost: d.test\r\n\r\n".encode())
        return await viewer.at_end()


@pytest.mark.parametrize("origin", NAMES)
async def test_no_path_opens_the_film_without_a_signature(
    ports: dict[str, int], origin: str, pytestconfig: pytest.Config
) -> None:
    port = ports[origin]
    targets = TARGETS if pytestconfig.getoption("--long") else FEWER
    careless = [target for target in targets if SECRET in await directly(port, target)]
    assert len(careless) >= 5
    if "$uri" in origin:
        assert {"/private/1.mp4%3f.jpg", "/private/1.mp4%23.jpg"} <= set(careless)
    for name, made in WORLDS.items():
        async with EdgeHarness(made(port)) as harness, await harness.viewer() as viewer:
            for target in targets:
                seen = await viewer.ask(target, "d.test")
                assert SECRET not in seen.body, (name, target)
                assert not (target in careless and seen.status == 200), (name, target)
            assert SECRET in (await harness.get(signed("/private/1.mp4"))).body
            for _ in range(2):
                assert (await harness.get("/private/1.mp4%3f.jpg")).status in (403, 404)


@pytest.mark.parametrize("origin", NAMES)
async def test_no_path_opens_a_private_root_object(ports: dict[str, int], origin: str) -> None:
    port = ports[origin]
    made = world(port, guarded("/index.html"), Behavior("*", "o"), default_root_object="index.html")
    async with EdgeHarness(made) as harness, await harness.viewer() as viewer:
        for target in ROOTS:
            seen = await viewer.ask(target, "d.test")
            assert SECRET not in seen.body, target
        assert SECRET in (await harness.get(signed("/index.html"))).body
        assert SECRET in (await harness.get(signed("/"))).body


@pytest.mark.parametrize("origin", [name for name in NAMES if not re.search("rewrite|uri", name)])
async def test_a_valid_file_name_is_served(ports: dict[str, int], origin: str) -> None:
    made = world(ports[origin], guarded("/private/*"), Behavior("*", "o"))
    async with EdgeHarness(made) as harness:
        for target in (
            "/public/%C3%9Cber%20100%25%20(%231).jpg",
            "/public/%c3%9cber%20100%25%20%28%231%29.jpg",
            "/public/%C3%9Cber%20100%25%20%28%231%29.jpg",
        ):
            seen = await harness.get(target)
            assert (seen.status, seen.body) == (200, b"a picture"), target
