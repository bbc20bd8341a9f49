"""Eight seconds of `make soak`: the tool works, and nothing is plainly wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from soak.__main__ import main
from tests.rows import rows

ROOT = Path(__file__).resolve().parent.parent.parent


def test_eight_seconds_of_soak_find_nothing() -> None:
    argv = [sys.executable, "-m", "soak", "--seconds", "8", "--seed", "2", "--viewers", "4", "--workers", "1"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    # It must have been a real soak: everything happened at least once.
    for happened in (
        "kills of edge-1",
        "kills of control",
        "invalidations",
        "refused, rightly",
        "5xx of a fault",
        "floods refused",
        "WebSockets",
        "WebSocket messages",
        r"slow viewers let go: \w+",
    ):
        assert re.search(rf"^ +[1-9]\d*  {happened}$", done.stdout, re.MULTILINE), happened


@rows("arguments", [["--viewers", "0"], ["--seconds", "1e9"], ["--workers", "99"]])
def test_arguments_out_of_bounds_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "1 to 256 viewers" in capsys.readouterr().err
