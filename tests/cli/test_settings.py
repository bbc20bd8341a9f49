"""How command-line values are parsed: addresses, networks, the default folder, and `keyfront up`'s refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from keyfront.cli.edge_options import MIN_DISK
from keyfront.cli.sizes import SizeType, size_text
from keyfront.cli.up import read_settings
from keyfront.cli.values import address, health_target, networks, quotas
from keyfront.custody.default_paths import default_data
from keyfront.errors import SettingsError
from keyfront.model.kinds import Quotas
from keyfront.model.quotas import Limits, PolicyLimits
from tests.rows import rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:8080", ("::1", 8080)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "[]:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        address(text)


@rows(
    ("text", "expected"),
    [
        ("10.0.0.5/healthz", ("10.0.0.5", "/healthz")),
        ("LB.internal/a/B", ("lb.internal", "/a/B")),
        ("localhost/", ("localhost", "/")),
        ("[::1]/healthz", ("[::1]", "/healthz")),
        ("[0:0::1]/healthz", ("[::1]", "/healthz")),
    ],
)
def test_health_checks(text: str, expected: tuple[str, str]) -> None:
    assert health_target(text) == expected


@rows(
    "text",
    [
        "",
        "/healthz",
        "10.0.0.5",
        "lb:80/healthz",
        "*.test/healthz",
        "lb/a?b",
        "lb/a b",
        "lb/a#b",
        "l_b/",
        "a..b/",
    ],
)
def test_what_is_no_health_check(text: str) -> None:
    with pytest.raises(SettingsError, match="HOST/PATH"):
        health_target(text)


@rows(
    ("options", "message"),
    [
        (["--health-check", "a.cloudfront.localhost/healthz"], "belong to distributions"),
        (["--health-check", "10.0.0.5"], "HOST/PATH"),
        (["--health-max-age", "29s"], "--health-max-age"),
    ],
)
def test_health_checks_that_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(["--data", str(tmp_path), *options])


def test_networks() -> None:
    assert networks("") == ()
    assert networks("10.0.0.0/8, ::1 ,192.0.2.7/24") == ("10.0.0.0/8", "::1", "192.0.2.7/24")
    with pytest.raises(SettingsError, match=r"10\.0\.0\.0/33"):
        networks("10.0.0.0/33")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("0G", 0), ("64M", 64 << 20), ("10g", 10 << 30), ("2T", 2 << 40), ("100000000", 100_000_000)],
)
def test_sizes(text: str, expected: int) -> None:
    assert SizeType(MIN_DISK).convert(text, None, None) == expected


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "1.5G", "10GB", "10 G", "ten", "63M", "1", "\u0661G", "9" * 20]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"not a size|too small: the minimum is 64M"):
        SizeType(MIN_DISK).convert(text, None, None)


@pytest.mark.parametrize(("size", "text"), [(0, "0"), (1 << 16, "64K"), (3 << 29, "1536M"), (100, "100")])
def test_a_size_is_written_as_it_is_read(size: int, text: str) -> None:
    assert size_text(size) == text
    assert SizeType().convert(text, None, None) == size


def test_quotas() -> None:
    assert quotas([]) == Quotas()
    found = quotas(["public-keys=100", "distribution.aliases=0", "policy.names=20", "public-keys=12"])
    assert found == Quotas(public_keys=12, limits=Limits(aliases=0), policy_limits=PolicyLimits(names=20))


@pytest.mark.parametrize(
    "text",
    ["", "public-keys", "public-keys=", "public-keys=-1", "public-keys=1.5", "public-keys=1e3", "keys=1"]
    + ["limits=1", "policy=1", "policy.public-keys=1", "origin.aliases=1", "a.b.c=1", "__len__=1", ".tags=1"],
)
def test_what_is_no_quota(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"not a quota; the quotas are public-keys, .*distribution\.aliases|=NUMBER"
    ):
        quotas([text])


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data() == Path("/somewhere/keyfront")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_data() == Path("/home/someone/.local/share/keyfront")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--edge", "nowhere"], "HOST:PORT"),
        (["--trusted-proxies", "all"], "network"),
        (["--workers", "0"], "workers"),
        (["--domain", "a b!"], "domain"),
        (["--domain", ""], "domain"),
        (["--pop", "two words"], "edge location"),
        (["--memory", "9" * 20], "memory"),
        (["--cache-disk", "some"], "cache-disk"),
        (["--country-db", "no-such-file"], "no-such-file"),
    ],
)
def test_a_bad_option_is_told_in_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "keyfront", "up", "--data", str(tmp_path), *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
