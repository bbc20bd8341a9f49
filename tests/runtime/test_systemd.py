"""Notifications of the service manager."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from keyfront.runtime.systemd import READY, notify, reloading


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
