"""Origins as a route into internal networks: where a whole `keyfront up` connects, and where it never does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import keyfront.cli.up as up_module
from keyfront.edge.origin.egress import Egress, EgressSettings
from keyfront.edge.worker_settings import WorkerSettings
from keyfront.runtime.reload import UpSettings
from tests.application import Response, served
from tests.up import Up, distribution_config


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, int]]:
    options = ("--refuse-origins", "127.0.0.2,10.0.0.0/8", "--allow-origins", "127.0.0.1")
    folder = tmp_path_factory.mktemp("networks") / "data"
    with served(lambda _request: Response(b"inside")) as port, Up(folder, workers=1, options=options) as up:
        yield up, port


def answer_of(up: Up, name: str, domain_name: str, port: int) -> tuple[int, bytes, dict[str, Any]]:
    """Create a distribution with that origin and request it. Returns the status, body and access record."""
    config: dict[str, Any] = distribution_config(name, port, [])
    config["Origins"]["Items"][0]["DomainName"] = domain_name
    made = up.client().create_distribution(DistributionConfig=config)["Distribution"]
    up.deployed(made["Id"])
    got = up.get(made["DomainName"], "/healthz")
    found: list[dict[str, Any]] = []

    def recorded() -> bool:
        found[:] = [record for record in up.records() if record["host"] == made["DomainName"]]
        return bool(found)

    Up.until(recorded)
    return got.status, got.body, found[0]


def test_an_origin_on_this_machine_is_served(harness: tuple[Up, int]) -> None:
    up, port = harness
    assert answer_of(up, "plain", "127.0.0.1", port)[:2] == (200, b"inside")


@pytest.mark.parametrize(
    "domain_name",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"],
)
def test_the_control_plane_is_no_origin(harness: tuple[Up, int], domain_name: str) -> None:
    up, _ = harness
    status, body, record = answer_of(up, f"control-{domain_name}", domain_name, up.control_port)
    assert status == 502
    assert b"could not be satisfied" in body
    assert record["reason"] == "origin_address_refused"
    assert "control plane" in record["explanation"]


@pytest.mark.parametrize(
    "domain_name", ["127.0.0.2", "169.254.169.254", "fe80::1", "fd00:ec2::254", "10.1.1.1"]
)
def test_what_is_refused_by_name_and_by_nature(harness: tuple[Up, int], domain_name: str) -> None:
    up, port = harness
    status, _, record = answer_of(up, f"refused-{domain_name}", domain_name, port)
    assert status == 502
    assert record["reason"] == "origin_address_refused"
    counter = 'keyfront_edge_limit_reached_total{edge="edge-1",limit="origin_address_refused"}'
    Up.until(lambda: counter in metrics(up))
    assert any("docs/guide/origins.md" in line for line in up.log)


def metrics(up: Up) -> str:
    import urllib.request

    with urllib.request.urlopen(f"{up.endpoint}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


# -- how the command line is interpreted -------------------------------------------------------------------------


def settings_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str) -> EgressSettings:
    """The settings that a worker would get, without starting one: tests must not run an edge on a public address."""
    told: list[WorkerSettings] = []

    async def start(settings: UpSettings, *_: object) -> None:
        told.append(settings.worker)

    monkeypatch.setattr(up_module, "run_up", start)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    done = CliRunner().invoke(up_module.up, ["--data", str(tmp_path / "data"), *options])
    assert done.exit_code == 0, done.stderr
    return told[0].edge.egress


@pytest.mark.parametrize(
    ("listens", "public"),
    [
        (("--edge=127.0.0.1:0",), False),
        (("--edge=localhost:0",), False),
        (("--edge=[::1]:0",), False),
        (("--edge=0.0.0.0:0",), True),
        (("--edge=[::]:0",), True),
        (("--edge=192.0.2.7:0",), True),
    ],
)
def test_where_the_edge_listens_decides_about_loopback(
    listens: tuple[str, ...], public: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = settings_of(monkeypatch, tmp_path, *listens)
    assert said.public is public
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0"):
        assert (Egress(said).refuses(address, 80, lambda _: False) is not None) is public


def test_both_options_take_lists_and_may_be_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = (
        "--refuse-origins=10.0.0.0/8,fc00::/7",
        "--refuse-origins=192.0.2.1",
        "--allow-origins=127.0.0.1,::1",
    )
    said = settings_of(monkeypatch, tmp_path, "--edge=0.0.0.0:0", *options)
    assert said.refuse == ("10.0.0.0/8", "fc00::/7", "192.0.2.1")
    assert said.allow == ("127.0.0.1", "::1")
    assert Egress(said).refuses("127.0.0.1", 80, lambda _: False) is None


@pytest.mark.parametrize(
    "option", ["--refuse-origins=here", "--allow-origins=169.254.169.254", "--allow-origins=fe80::/64"]
)
def test_networks_that_cannot_be_used_are_refused_at_the_start(
    option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=r"not a network|cannot be allowed"):
        settings_of(monkeypatch, tmp_path, option)
