"""Backups onto a disk that fails at every call: every archive that counts can be restored, and there is no other."""

from __future__ import annotations

import shutil
from pathlib import Path

from keyfront.errors import BackupError
from tests.backup.harness import NOW, Installed, make, read
from tests.faults import FULL, FailingSqlite, failing_disks, left_over


def test_making(tmp_path: Path) -> None:
    installed = Installed(tmp_path / "data")
    turns = 0
    for disk in failing_disks(("full once", "full from then on", "broken once")):
        turns += 1
        place = tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        acknowledged = False
        with disk:
            try:
                acknowledged = bool(make(installed.harness.store, installed.folder, place).made)
            except (OSError, BackupError):
                pass
        archives = list(place.glob("*.age"))
        for archive in archives:
            read(archive)
        assert archives or not acknowledged
        assert make(installed.harness.store, installed.folder, place, now=NOW + 1, always=True).made
        assert left_over(place) == []
    assert turns > 5
    installed.harness.close()


def test_reading_a_store_that_cannot_write(tmp_path: Path) -> None:
    with FailingSqlite() as sqlite:
        installed = Installed(tmp_path / "data")
        (tmp_path / "place").mkdir()
        sqlite.fail(0, FULL, stays=True)
        outcome = make(installed.harness.store, installed.folder, tmp_path / "place")
        assert outcome.made
        sqlite.fail(None)
        (archive,) = (tmp_path / "place").glob("*.age")
        read(archive)
        installed.harness.close()
