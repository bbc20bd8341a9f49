"""Supervised processes: real ones, a few lines each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from keyfront.runtime.supervisor import Child

DRAINS = """
import os, signal, sys, time
# Waiting for a blocked signal: with a handler and a sleep, a signal just before the sleep would not interrupt it.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.write(int(os.environ["KEYFRONT_READY"]), b"1")
signal.sigwait([signal.SIGTERM])
time.sleep(1.0)
open(sys.argv[1], "w").close()
"""


@pytest.mark.parametrize(("exit_timeout", "drained"), [(0.1, False), (60.0, True)])
async def test_a_child_gets_its_exit_timeout(tmp_path: Path, exit_timeout: float, drained: bool) -> None:
    done = tmp_path / "done"
    child = Child("child", [sys.executable, "-c", DRAINS, str(done)], exit_timeout=exit_timeout)
    await child.start()
    await child.stop()
    assert done.exists() is drained
