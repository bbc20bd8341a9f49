"""An Origin Shield and edges below it, each its own process: configured with boto3, obeyed through both tiers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.application import Request, Response, served
from tests.up import Up, distribution_config

REGION = "eu-central-1"


class Shop:
    """The origin. `requests` counts requests by path; `page` is its response."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.page = b"old"
        self.port = 0

    def respond(self, request: Request) -> Response:
        self.requests[request.target] += 1
        return Response(self.page, {"Cache-Control": "max-age=1000"})


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    with served(made.respond) as made.port:
        yield made


def test_an_origin_shield_and_two_edges_below_it(tmp_path: Path, shop: Shop) -> None:
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
            config = distribution_config("shield", shop.port, [])
            config["Origins"]["Items"][0]["OriginShield"] = {"Enabled": True, "OriginShieldRegion": REGION}
            made = client.create_distribution(DistributionConfig=config)["Distribution"]
            assert made["DistributionConfig"]["Origins"]["Items"][0]["OriginShield"]["OriginShieldRegion"]
            above.deployed(made["Id"])  # all three edges obey it
            host = made["DomainName"]

            assert one.get(host, "/a").x_cache == "Miss"
            assert two.get(host, "/a").x_cache == "Hit"
            assert shop.requests == {"/a": 1}
            above.until(lambda: [r["detail"] for r in two.records()] == ["OriginShieldHit"])

            shop.page = b"new"
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
            assert shop.requests == {"/a": 2}

            above.kill()
            shop.page = b"newer"
            assert one.get(host, "/a").body == b"new"
            assert two.get(host, "/b").body == b"newer"
            above.until(lambda: any("is bypassed" in line for line in two.log))
            assert (one.stop(), two.stop()) == (0, 0)
    for up in (above, one, two):
        everything = "".join(up.log) + (up.data / "logs" / "access.jsonl").read_text()
        assert "0123456789abcdef" not in everything
