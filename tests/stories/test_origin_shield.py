"""An Origin Shield and edges below it, each its own process: configured with boto3, obeyed through both tiers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from tests.up import Up, distribution_config

REGION = "eu-central-1"


class Shop(BaseHTTPRequestHandler):
    """The origin. `asked` counts requests by path; `page` is its response."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()
    page: ClassVar[bytes] = b"old"

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        self.send_response(200)
        self.send_header("Cache-Control", "max-age=1000")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[int]:
    Shop.asked.clear()
    Shop.page = b"old"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def test_an_origin_shield_and_two_edges_below_it(tmp_path: Path, shop: int) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef\n")
    secret.chmod(0o600)
    above = Up(
        tmp_path / "above",
        workers=1,
        options=("--shield", "127.0.0.1:0", "--shield-secret", str(secret)),
    )
    with above:
        below = ("--shield-secret", str(secret), "--origin-shield", f"{REGION}=127.0.0.1:{above.shield_port}")
        one = Up(tmp_path / "one", workers=1, options=below, feed=above.data)
        two = Up(tmp_path / "two", workers=1, options=below, feed=above.data)
        with one, two:
            client = above.client()
            config = distribution_config("shield", shop, [])
            config["Origins"]["Items"][0]["OriginShield"] = {"Enabled": True, "OriginShieldRegion": REGION}
            made = client.create_distribution(DistributionConfig=config)["Distribution"]
            assert made["DistributionConfig"]["Origins"]["Items"][0]["OriginShield"]["OriginShieldRegion"]
            above.deployed(made["Id"])  # all three edges obey it
            host = made["DomainName"]

            assert one.get(host, "/a").x_cache == "Miss"
            assert two.get(host, "/a").x_cache == "Hit"
            assert Shop.asked == {"/a": 1}
            above.until(lambda: [r["detail"] for r in two.records()] == ["OriginShieldHit"])

            Shop.page = b"new"
            batch = {"Paths": {"Quantity": 1, "Items": ["/a"]}, "CallerReference": "1"}
            made_ = client.create_invalidation(DistributionId=made["Id"], InvalidationBatch=batch)
            id_ = made_["Invalidation"]["Id"]
            above.until(
                lambda: (
                    client.get_invalidation(DistributionId=made["Id"], Id=id_)["Invalidation"]["Status"]
                    == "Completed"
                )
            )
            assert [edge.get(host, "/a").body for edge in (one, two)] == [b"new", b"new"]
            assert Shop.asked == {"/a": 2}

            above.kill()
            Shop.page = b"newer"
            assert one.get(host, "/a").body == b"new"
            assert two.get(host, "/b").body == b"newer"
            above.until(lambda: any("is passed by" in line for line in two.log))
            assert (one.stop(), two.stop()) == (0, 0)
    for up in (above, one, two):
        everything = "".join(up.log) + (up.data / "logs" / "access.jsonl").read_text()
        assert "0123456789abcdef" not in everything
