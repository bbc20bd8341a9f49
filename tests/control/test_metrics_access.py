"""Which clients may read `/metrics`."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import httpx
import pytest

from keyfront.cli.values import audience
from keyfront.errors import SettingsError
from keyfront.monitoring.metrics_access import Audience
from keyfront.runtime.settings import read_token
from tests.rows import rows
from tests.up import Up

FORWARDED = [
    (b"x-forwarded-for", b"203.0.113.9"),
    (b"x-forwarded-for", b"127.0.0.1"),
    (b"forwarded", b"for=127.0.0.1"),
    (b"x-real-ip", b"127.0.0.1"),
    (b"via", b"1.1 proxy"),
]


@rows(
    ("who", "peer", "admitted"),
    [
        ("local", "127.0.0.1", True),
        ("local", "127.8.8.8", True),
        ("local", "::1", True),
        ("local", "::ffff:127.0.0.1", True),
        ("local", "10.0.0.1", False),
        ("local", "::ffff:10.0.0.1", False),
        ("local", "0.0.0.0", False),
        ("local", "localhost", False),
        ("local", "", False),
        ("off", "127.0.0.1", False),
        ("off", "::1", False),
        ("all", "203.0.113.9", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "127.0.0.1", False),
        ("local,10.0.0.0/8", "127.0.0.1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("192.0.2.7", "192.0.2.7", True),
    ],
)
def test_by_address(who: str, peer: str, admitted: bool) -> None:
    assert Audience(audience(who)).admits((peer, 4711), []) is admitted


@rows("header", FORWARDED)
def test_a_proxy_that_nobody_trusts_is_not_local(header: tuple[bytes, bytes]) -> None:
    for who in ("local", "127.0.0.0/8", "local,127.0.0.0/8"):
        assert not Audience(audience(who)).admits(("127.0.0.1", 4711), [header])


def test_what_a_trusted_proxy_says_counts_for_networks_and_never_as_local() -> None:
    header = (b"x-forwarded-for", b"10.1.2.3")
    assert Audience(audience("10.0.0.0/8")).admits(("10.1.2.3", 0), [header])
    assert not Audience(audience("local,10.0.0.0/8")).admits(("127.0.0.1", 0), [header])


@rows("text", ["", "public", "all,local", "off,10.0.0.0/8", "10.0.0.0/33", "example.com"])
def test_what_it_cannot_be(text: str) -> None:
    with pytest.raises(SettingsError):
        audience(text)


@rows(
    ("authorization", "admitted"),
    [
        (b"Bearer 0123456789abcdef", True),
        (b"bearer 0123456789abcdef", True),
        (b"Bearer  0123456789abcdef ", True),
        (b"Bearer 0123456789abcdeF", False),
        (b"Bearer 0123456789abcdef0", False),
        (b"Bearer", False),
        (b"Bearer ", False),
        (b"Basic 0123456789abcdef", False),
        (b"0123456789abcdef", False),
        (b"Bearer \xff\xfe", False),
    ],
)
def test_by_token(authorization: bytes, admitted: bool) -> None:
    """It admits from anywhere, through any proxy, and whatever the addresses."""
    sent = [(b"x-forwarded-for", b"203.0.113.9"), (b"authorization", authorization)]
    for who in ("off", "local", "10.0.0.0/8"):
        assert Audience(audience(who), "0123456789abcdef").admits(("203.0.113.9", 4711), sent) is admitted
        assert not Audience(audience(who)).admits(("203.0.113.9", 4711), sent)
    assert Audience(audience("local"), "0123456789abcdef").admits(("127.0.0.1", 4711), [])


@rows("content", [b"", b"short", b"0123456789 abcdef", b"0123456789abcdef\n0123", b"\xff" * 20])
def test_a_file_that_holds_no_token(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(SettingsError, match="--metrics-token"):
        read_token(str(tmp_path / "token"))


def test_a_file_that_holds_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert read_token(str(tmp_path / "token")) == "0123456789abcdef"
    assert read_token("") == ""
    with pytest.raises(SettingsError) as told:
        read_token("/dev/null")
    command = str(told.value).split("`")[1]
    (tmp_path / "token").write_bytes(
        subprocess.run(shlex.split(command), capture_output=True, check=True).stdout
    )
    assert len(read_token(str(tmp_path / "token"))) == 64


LISTED = ("--metrics", "198.51.100.0/24", "--trusted-proxies", "127.0.0.1")


@pytest.mark.parametrize(
    ("options", "cases"),
    [
        ((), [("", 200), ("127.0.0.1", 403)]),
        # The server replaces the peer's address only for a trusted proxy.
        (LISTED, [("198.51.100.7", 200), ("203.0.113.9", 403), ("", 403)]),
        (("--metrics", "local,198.51.100.0/24", "--trusted-proxies", "10.0.0.1"), [("198.51.100.7", 403)]),
    ],
)
def test_over_the_wire(options: tuple[str, ...], cases: list[tuple[str, int]], tmp_path: Path) -> None:
    with Up(tmp_path / "data", workers=1, options=options) as up:
        for forwarded, status in cases:
            headers = {"X-Forwarded-For": forwarded} if forwarded else {}
            found = httpx.get(f"{up.endpoint}/metrics", headers=headers, timeout=60, trust_env=False)
            assert found.status_code == status, forwarded
            assert ("keyfront_control_requests" in found.text) is (status == 200)
            health = httpx.get(f"{up.endpoint}/healthz", headers=headers, timeout=60, trust_env=False)
            assert health.status_code == 200
