"""Notifications of the service manager."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from pathlib import Path

import pytest

from keyfront.runtime import systemd
from keyfront.runtime.systemd import READY, notify, reloading, stay_alive, watchdog_interval
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
