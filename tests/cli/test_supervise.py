"""Supervised processes: real ones, of a few lines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from keyfront.runtime.supervisor import Child

DRAINS = """
import os, signal, sys, time
def end(*_):
    time.sleep(1.0)
    open(sys.argv[1], "w").close()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
os.write(int(os.environ["KEYFRONT_READY"]), b"1")
time.sleep(60)
"""


@pytest.mark.parametrize(("end_within", "drained"), [(0.1, False), (60.0, True)])
async def test_a_child_has_the_time_to_end_that_it_was_given(
    tmp_path: Path, end_within: float, drained: bool
) -> None:
    done = tmp_path / "done"
    child = Child("child", [sys.executable, "-c", DRAINS, str(done)], end_within=end_within)
    await child.start()
    await child.end()
    assert done.exists() is drained
