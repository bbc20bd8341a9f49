"""Killed at any step, `create` leaves complete archives, and `restore` leaves the old or the restored state;
rerunning repairs."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyfront.backup.restore.lock import RUNNING, refuse_half_restored
from keyfront.backup.targets import Folder
from keyfront.control.store.store import Store
from keyfront.errors import SettingsError
from tests.backup.harness import CREDENTIALS, Installed, chain, events, make, read, restore

_STEPS = ("fsync", "replace", "link", "unlink", "mkdir")


def killed(work: Callable[[], object], at: int) -> int:
    """Do `work` in a child that is killed before its step number `at`. Returns the number of steps taken; -1: it was
    killed."""
    reader, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        steps = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def step(*arguments: Any, **more: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **more)

            return step

        try:
            for name in _STEPS:
                setattr(os, name, counted(getattr(os, name)))
            work()
            os.write(theirs, b"%d" % steps)
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(theirs)
    _, status = os.waitpid(child, 0)
    line = os.read(reader, 100)
    os.close(reader)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return -1
    assert line, "it failed by itself"
    return int(line)


def spread(count: int, most: int) -> list[int]:
    """At most that many of the steps 1 to `count`, including the first and the last."""
    return sorted({1 + number * (count - 1) // (most - 1) for number in range(most)})


def test_create(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    one.harness.close()
    place = tmp_path / "place"

    def work() -> None:
        store = Store(one.folder / "keyfront.db")
        make(store, one.folder, place, always=True, now=2e9 + len(list(place.glob("*"))))
        store.close()

    count = killed(work, 0)
    assert count >= 4
    for at in spread(count, 4):
        assert killed(work, at) == -1
        for name in Folder(place).names():
            read(place / str(name))
        store = Store(one.folder / "keyfront.db")
        assert chain(store)[1] == ""
        store.close()
    work()
    assert read(place / str(max(Folder(place).names()))).manifest.taken >= 2e9


def test_restore(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    outcome = make(one.harness.store, one.folder, tmp_path / "place")
    archive = read(tmp_path / "place" / outcome.name)
    later = one.harness.key("later")
    one.harness.close()
    (one.folder / "credentials").write_text("[later]\n")
    before = one.folder.with_name("before")
    one.folder.rename(before)

    def again() -> None:
        shutil.rmtree(one.folder, ignore_errors=True)
        shutil.copytree(before, one.folder)

    def work() -> None:
        assert restore(archive, one.folder) == []

    again()
    count = killed(work, 0)
    for at in spread(count, 6):
        again()
        assert killed(work, at) == -1
        old, new = _state(one.folder, later), not (one.folder / RUNNING).exists()
        if not new:
            with pytest.raises(SettingsError, match="did not end"):
                refuse_half_restored(one.folder)
        assert old in ("later", "restored")
        work()
        assert _state(one.folder, later) == "restored"
        refuse_half_restored(one.folder)
        assert not (one.folder / "restore.new").exists()
        assert (one.folder / "credentials").read_text() == CREDENTIALS
        # The previous state is kept, however often the restore was begun.
        backups = sorted(one.folder.glob("before-restore-*"))
        assert any((aside / "credentials").exists() for aside in backups)
        assert any(_holds(aside / "keyfront.db", later) for aside in backups)


def _holds(path: Path, key: str) -> bool:
    if not path.exists():
        return False
    with sqlite3.connect(path) as database:
        return (key,) in database.execute("SELECT id FROM resource").fetchall()


def _state(folder: Path, later: str) -> str:
    """Which state the store has: it is always a complete one."""
    store = Store(folder / "keyfront.db")
    with store.read() as transaction:
        ids = transaction.versions("PublicKey")
    fault, restored = chain(store)[1], "RestoreBackup" in events(store)
    store.close()
    assert fault == ""
    assert restored == (later not in ids)
    return "restored" if restored else "later"
