"""A whole `keyfront up` under slow and greedy viewers: well-behaved viewers are served, and the counters record what
happened."""

from __future__ import annotations

import contextlib
import re
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest

from tests.application import Request, Response, served
from tests.up import Up, distribution_config

OPTIONS = (
    "--head-timeout=1",
    "--upload-timeout=1",
    "--download-timeout=2",
    "--min-rate=2000",
    "--max-connections-per-address=40",
    "--origin-connections=4",
    "--origin-queue=100",
    "--origin-failures=2",
)


def respond(request: Request) -> Response:
    size = 50_000_000 if request.path.startswith("/big") else 5
    return Response(b"x" * size, {"Cache-Control": "no-store"})


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("limits") / "data", workers=1, options=OPTIONS) as running:
        yield running


def counts(up: Up) -> dict[str, float]:
    with urllib.request.urlopen(f"{up.endpoint}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'^keyfront_edge_limit_reached_total\{.*limit="(\w+)"\} (\S+)$', text, re.M)
    assert "keyfront_edge_requests_under_way{" in text
    assert "keyfront_edge_origins_down{" in text
    return {name: float(value) for name, value in found}


def test_slow_and_greedy_viewers(up: Up) -> None:
    with served(respond) as port:
        config = distribution_config("limits", port, [])
        methods = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
        config["DefaultCacheBehavior"]["AllowedMethods"] = {
            "Quantity": 7,
            "Items": methods,
            "CachedMethods": {"Quantity": 2, "Items": ["GET", "HEAD"]},
        }
        made = up.client().create_distribution(DistributionConfig=config)["Distribution"]
        up.deployed(made["Id"])
        host = made["DomainName"].encode()

        def connected(data: bytes) -> socket.socket:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", up.edge_port))
            sock.sendall(data)
            return sock

        head = b" HTTP/1.1\r\nHost: " + host + b"\r\n"
        slow = [
            (connected(b"\r\n"), b"\r\n"),
            (connected(b"GET /"), b"a"),
            (connected(b"POST /up" + head + b"Content-Length: 1000000\r\n\r\n" + b"x" * 70_000), b"x"),
            (connected(b"POST /up" + head + b"Content-Length: 1000\r\n\r\n"), b"x"),
        ]
        stalled = connected(b"GET /big" + head + b"\r\n")
        ends = time.monotonic() + 30
        while slow and time.monotonic() < ends:
            assert up.get(made["DomainName"], "/a").body == b"xxxxx"
            for each in list(slow):
                try:
                    each[0].send(each[1])
                except OSError:
                    each[0].close()
                    slow.remove(each)
            time.sleep(0.05)
        assert not slow, "slow connections are still open"
        Up.until(
            lambda: (
                {"slow_head", "slow_upload"} <= counts(up).keys()
                and bool({"slow_reader", "stuck_reader"} & counts(up).keys())
            ),
            30,
        )
        found = counts(up)
        assert (found["slow_head"], found["slow_upload"]) == (2, 2)
        stalled.close()

        crowd = [connected(b"") for _ in range(60)]
        Up.until(lambda: "connections_per_address" in counts(up))
        for sock in crowd:
            sock.close()
        Up.until(lambda: is_served(up, made["DomainName"]))

    def recorded() -> set[str | None]:
        return {record.get("reason") for record in up.records()}

    Up.until(lambda: "slow_upload" in recorded() and bool(recorded() & {"slow_reader", "stuck_reader"}))


def is_served(up: Up, host: str) -> bool:
    with contextlib.suppress(OSError):
        return up.get(host, "/a").status == 200
    return False


def test_an_origin_that_is_down_gets_no_requests_for_a_while(up: Up) -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        made = up.create_distribution(bound.getsockname()[1])
        for number in range(6):
            assert up.get(made["DomainName"], f"/{number}").status == 502
        Up.until(lambda: counts(up).get("origin_circuit_open", 0) > 0)
    Up.until(lambda: any("is left alone" in line for line in up.log))
