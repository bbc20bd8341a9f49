"""What is wrong with a machine, as the API's status reports it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from keyfront.edge.logs.delivery import STATUS_FILE, Status
from keyfront.runtime.machine_trouble import is_nearly_full, machine_trouble
from tests.rows import rows


@rows(
    ("free", "total", "full"),
    [
        (5 << 30, 1000 << 30, False),
        ((1 << 30) - 1, 1000 << 30, True),
        (1 << 30, 1000 << 30, False),
        (600 << 20, 10 << 30, False),
        (500 << 20, 10 << 30, True),
        (0, 0, False),
    ],
)
def test_little_free_space_is_a_share_or_a_gigabyte(free: int, total: int, full: bool) -> None:
    assert is_nearly_full(free, total) is full


def test_a_machine_without_trouble(tmp_path: Path) -> None:
    assert [each for each in machine_trouble(tmp_path) if "disk" not in each] == []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 10 << 20, 1000, 1000, 1, 1, 1, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert list(machine_trouble(tmp_path)) == ["the disk of the data folder has 0.0 GB free, of 43 GB"]


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    assert list(machine_trouble(tmp_path / "none")) == [
        "the data folder cannot be read: No such file or directory"
    ]


def test_logs_that_wait_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = os.statvfs_result((4096, 4096, 10 << 20, 9 << 20, 9 << 20, 1, 1, 1, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: roomy)
    (tmp_path / STATUS_FILE).parent.mkdir(parents=True)
    found = Status(waiting_files=3, problem="the bucket is gone", dropped=7)
    (tmp_path / STATUS_FILE).write_bytes(msgspec.json.encode(found))
    assert list(machine_trouble(tmp_path)) == [
        "3 log files wait to be delivered: the bucket is gone",
        "7 records for standard logs were dropped, because too many waited",
    ]
