"""What a drill leaves behind, however it ends, and what it must not touch."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from keyfront.backup import coverage, drill
from keyfront.model.snapshot import Behavior, Distribution, Snapshot
from tests.backup.harness import IDENTITY, Installed, make
from tests.rows import rows
from tests.up import PATIENCE

SNAPSHOT = Snapshot(
    1,
    0.0,
    distributions=(
        Distribution(
            "E1",
            "",
            "one.example.net",
            aliases=("a.example.com", "*.example.com"),
            behaviors=(
                Behavior("/in/*", "o", restricted=True),
                Behavior("/open/*", "o"),
                Behavior("*", "o", restricted=True),
            ),
        ),
        Distribution(
            "E2", "", "two.example.net", enabled=False, behaviors=(Behavior("*", "o", restricted=True),)
        ),
        Distribution("E3", "", "b.example.com", behaviors=(Behavior("*", "o", restricted=True),)),
    ),
)


@rows(
    ("urls", "left"),
    [
        ([], ["one.example.net /in/*", "one.example.net *", "b.example.com *"]),
        (["https://one.example.net/in/x?a=/b"], ["one.example.net *", "b.example.com *"]),
        (["http://A.example.com:8080/x", "https://b.example.com"], ["one.example.net /in/*"]),
        (["https://c.example.com/in/x", "https://b.example.com/in/x"], ["one.example.net *"]),
        # these lead to no path that needs a signature
        (
            [
                "https://x.c.example.com/",
                "https://two.example.net/",
                "https://one.example.net/open/x",
                "https://[/",
            ],
            ["one.example.net /in/*", "one.example.net *", "b.example.com *"],
        ),
    ],
)
def test_what_nobody_asks_for(urls: list[str], left: list[str]) -> None:
    assert coverage.unasked(SNAPSHOT, urls) == left


def test_the_next_drill_removes_what_one_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("keyfront-drill-dead", "keyfront-drill-new", "mine"):
        (tmp_path / name / "data").mkdir(parents=True)
    (tmp_path / "keyfront-drill-dead" / "lock").touch()
    (tmp_path / "mine" / "lock").touch()
    (tmp_path / "keyfront-drill-link").symlink_to(tmp_path / "mine")
    with drill._scratch() as alive:
        drill._sweep()
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {alive.name, "keyfront-drill-new", "keyfront-drill-link", "mine"}
    assert not alive.exists()
    assert (tmp_path / "mine" / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_drill_that_is_ended_leaves_no_secret(tmp_path: Path, number: signal.Signals) -> None:
    one = Installed(tmp_path / "data")
    outcome = make(one.harness.store, one.folder, tmp_path / "place")
    one.harness.close()
    (tmp_path / "id").write_text(str(IDENTITY))
    (tmp_path / "id").chmod(0o600)
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    archive = str(tmp_path / "place" / outcome.name)
    options = ["-i", str(tmp_path / "id"), "--url", one.link()]
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-m", "keyfront", "backup", "drill", archive, *options],
            env={**os.environ, "TMPDIR": str(scratch)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None and not list(scratch.glob("keyfront-drill-*/data/keyfront.db")):
                time.sleep(0.01)
            process.send_signal(number)
            status = process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
        if status != 0:  # otherwise it was done before the signal came
            break
    assert status == (1 if number is signal.SIGHUP else -signal.SIGKILL)
    left = list(scratch.glob("keyfront-drill-*"))
    assert bool(left) is (number is signal.SIGKILL)
    for folder in left:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # no longer held by any process
        for name in ("credentials", "access.key", "certificates", "custody"):
            path = folder / "data" / name
            assert not path.is_file() or path.read_bytes() != (one.folder / name).read_bytes()
            assert not (path / "a.pem").exists()
