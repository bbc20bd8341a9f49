"""The service manager: its notifications, and its sockets."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from functools import partial
from pathlib import Path

import pytest

from keyfront.edge.net.listeners import Address
from keyfront.errors import SettingsError
from keyfront.runtime import systemd
from keyfront.runtime.systemd import (
    READY,
    activated_sockets,
    check_sockets,
    notify,
    reloading,
    stay_alive,
    watchdog_interval,
)
from tests.rows import rows


def test_the_state_arrives(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notify(READY, {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(100) == b"READY=1"
        notify(reloading(1.5), {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(100) == b"RELOADING=1\nMONOTONIC_USEC=1500000"


def test_a_manager_that_does_not_read_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        with caplog.at_level(logging.WARNING, "keyfront.supervisor"):
            for _ in range(10_000):
                notify(READY, {"NOTIFY_SOCKET": str(tmp_path / "notify")})
                if caplog.records:
                    break
    assert "the service manager cannot be notified" in caplog.text


def test_without_a_manager_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    notify(READY, {})
    assert caplog.records == []


@rows(
    ("environment", "interval"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_how_often_the_watchdog_expects_a_sign_of_life(environment: dict[str, str], interval: float) -> None:
    assert watchdog_interval(environment, 42) == interval


async def test_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setattr(
            systemd, "notify", partial(notify, environment={"NOTIFY_SOCKET": manager.getsockname()})
        )
        alive = asyncio.create_task(stay_alive(0.01))
        manager.setblocking(False)
        for _ in range(2):
            assert await asyncio.get_running_loop().sock_recv(manager, 100) == b"WATCHDOG=1"
        alive.cancel()
    await stay_alive(0.0)


def test_the_sockets_of_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        first = _in_a_row(one, two)
        monkeypatch.setattr(systemd, "FIRST", first)
        environment = {"LISTEN_FDS": "2", "LISTEN_PID": "42", "LISTEN_FDNAMES": "a:b", "HOME": "/"}
        found = activated_sockets(environment, 42)
        assert found == [(one.getsockname(), first), (two.getsockname(), first + 1)]
        assert environment == {"HOME": "/"}  # children must not take them for theirs
        assert not os.get_inheritable(first)
        assert activated_sockets({"LISTEN_FDS": "2", "LISTEN_PID": "43"}, 42) == []
        assert activated_sockets({}, 42) == []
        for fd in (first, first + 1):
            os.close(fd)


def test_what_is_not_a_listening_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for each in (idle, datagrams):
            first = _in_a_row(each)
            monkeypatch.setattr(systemd, "FIRST", first)
            with pytest.raises(SettingsError, match="is not a listening TCP socket: use ListenStream="):
                activated_sockets({"LISTEN_FDS": "1", "LISTEN_PID": "42"}, 42)
            os.close(first)
    with pytest.raises(
        SettingsError, match=f"file descriptor {first} from the service manager cannot be used"
    ):
        activated_sockets({"LISTEN_FDS": "1", "LISTEN_PID": "42"}, 42)


def _in_a_row(*sockets: socket.socket) -> int:
    """Duplicate descriptors with numbers in a row, as the service manager passes them; returns the first."""
    first = 200
    for number, each in enumerate(sockets):
        os.dup2(each.fileno(), first + number)
    return first


ONE, TWO, SIX = ("127.0.0.1", 80), ("127.0.0.1", 81), ("::1", 80)


@rows(
    ("given", "used", "warning"),
    [
        (set(), {ONE, TWO}, ""),
        ({ONE, TWO}, {ONE, TWO}, ""),
        ({ONE}, {ONE, TWO, SIX}, "does not listen on 127.0.0.1:81, [::1]:80: connections are refused there"),
    ],
)
def test_addresses_that_the_service_manager_lacks(
    given: set[Address], used: set[Address], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    check_sockets(given, used)
    assert warning in caplog.text
    assert bool(caplog.records) == bool(warning)


def test_addresses_that_no_option_names() -> None:
    with pytest.raises(SettingsError, match=r"listens on \[::1\]:80, but no option names this address"):
        check_sockets({ONE, SIX}, {ONE})
