"""The caching rules as an operator uses them: set through the API with boto3, obeyed by a whole `keyfront up`."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import brotli
import pytest

from tests.application import Request, Response, served
from tests.origin import closed_port
from tests.up import Up, distribution_config

PAGE = b"<p>" + b"a page of some length, " * 400


class Shop:
    """The origin. `requests` counts requests by method and path."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.port = 0

    def respond(self, request: Request) -> Response:
        self.requests[f"{request.method} {request.target}"] += 1
        headers = {"Content-Type": "text/html", "ETag": '"v1"', "Cache-Control": "max-age=60"}
        if request.target == "/missing":
            return Response(PAGE, {"Content-Type": "text/plain"}, 404)
        if request.target == "/for-cdns":
            headers |= {"Cache-Control": "no-store", "CDN-Cache-Control": "max-age=30"}
        return Response(b"sorry, " * 300 if request.target == "/sorry" else PAGE, headers)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    made = Shop()
    with served(made.respond) as made.port:
        yield made


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(
        tmp_path_factory.mktemp("caching"), workers=1, options=("--cache-status", "--pop", "TXL50-C1")
    ) as up:
        yield up


@pytest.fixture(scope="module")
def host(up: Up, shop: Shop) -> str:
    """A distribution with compression, an error page for 404, and an origin group for /spare whose first origin is
    dead."""
    config = distribution_config("caching", shop.port, [])
    (app,) = config["Origins"]["Items"]
    dead = {
        **app,
        "Id": "dead",
        "CustomOriginConfig": {**app["CustomOriginConfig"], "HTTPPort": closed_port()},
    }
    config["Origins"] = {"Quantity": 2, "Items": [app, dead]}
    config["OriginGroups"] = {
        "Quantity": 1,
        "Items": [
            {
                "Id": "group",
                "FailoverCriteria": {"StatusCodes": {"Quantity": 1, "Items": [503]}},
                "Members": {"Quantity": 2, "Items": [{"OriginId": "dead"}, {"OriginId": "app"}]},
            }
        ],
    }
    default = config["DefaultCacheBehavior"]
    default["Compress"] = True
    paths = {"/spare": "group", "/dead": "dead"}
    config["CacheBehaviors"] = {
        "Quantity": 2,
        "Items": [{**default, "PathPattern": p, "TargetOriginId": target} for p, target in paths.items()],
    }
    config["CustomErrorResponses"] = {
        "Quantity": 1,
        "Items": [
            {"ErrorCode": 404, "ResponsePagePath": "/sorry", "ResponseCode": "200", "ErrorCachingMinTTL": 60}
        ],
    }
    made = up.client().create_distribution(DistributionConfig=config)["Distribution"]
    up.deployed(made["Id"])
    return str(made["DomainName"])


@pytest.mark.parametrize(
    ("accepts", "coding", "undo"),
    [("gzip, br", "br", brotli.decompress), ("gzip", "gzip", gzip.decompress), ("identity", None, bytes)],
)
def test_a_page_is_compressed_for_viewers_that_accept_it(
    up: Up, host: str, accepts: str, coding: str | None, undo: Any
) -> None:
    # The TTL is of this moment: 60 seconds less what has passed since the origin's response.
    for status in (r"fwd=uri-miss; fwd-status=200; ttl=\d+; stored", r"hit; ttl=\d+"):
        seen = up.get(host, "/page", {"Accept-Encoding": accepts})
        assert undo(seen.body) == PAGE
        assert seen.headers.get("content-encoding") == coding
        assert seen.headers["etag"] == ('W/"v1"' if coding else '"v1"')
        assert re.match(f"TXL50-C1; {status}", seen.headers["cache-status"])


def test_an_error_and_its_error_page_are_cached(up: Up, host: str, shop: Shop) -> None:
    for _ in range(3):
        seen = up.get(host, "/missing")
        assert (seen.status, seen.body, seen.x_cache) == (200, b"sorry, " * 300, "Error")
    assert shop.requests["GET /missing"] == shop.requests["GET /sorry"] == 1


def test_failover_to_the_second_origin(up: Up, host: str) -> None:
    assert [up.get(host, "/spare").x_cache for _ in range(2)] == ["Miss", "Hit"]


def test_an_unreachable_origin_without_failover_is_cached(up: Up, host: str) -> None:
    first, second = up.get(host, "/dead"), up.get(host, "/dead")
    assert first.status == second.status == 502
    assert first.headers["cache-status"] == "TXL50-C1; fwd=uri-miss; detail=OriginConnectError"
    assert second.headers["cache-status"] == "TXL50-C1; hit; detail=OriginConnectError"


def test_cdn_cache_control_applies(up: Up, host: str) -> None:
    assert [up.get(host, "/for-cdns").x_cache for _ in range(2)] == ["Miss", "Hit"]
    assert up.get(host, "/for-cdns").headers["cache-control"] == "no-store"


def test_head_before_get(up: Up, host: str, shop: Shop) -> None:
    seen = up.get(host, "/headed", {"Accept-Encoding": "br"}, method="HEAD")
    assert (seen.status, seen.headers["content-encoding"], seen.body) == (200, "br", b"")
    assert shop.requests["HEAD /headed"] == 1
