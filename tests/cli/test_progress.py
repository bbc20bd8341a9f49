"""Progress of long work: on a terminal, on standard error, and nowhere else."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyfront.cli.progress import progress_bar, progress_steps
from keyfront.control.store.copy import copy
from keyfront.control.store.store import Store
from tests.control.harness import Harness, where

LOG = logging.getLogger("keyfront.test-progress")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """Standard error is a terminal within the context. (pytest replaces the stream that a fixture sets.)"""
    made = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", made)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "100")
        yield made


def test_a_bar_on_a_terminal() -> None:
    with terminal() as shown, progress_bar("copying") as advance:
        advance(50, 100)
        advance(100, 100)
    assert "copying" in shown.getvalue()
    assert "100%" in shown.getvalue()


def test_the_last_step_on_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    LOG.setLevel(logging.WARNING)
    with terminal() as shown, progress_steps("restoring", LOG.name):
        LOG.info("store prepared")
        LOG.warning("a key is missing")
    assert "restoring: store prepared" in shown.getvalue()
    assert [record.getMessage() for record in caplog.records] == ["a key is missing"], (
        "warnings are not steps"
    )
    assert (LOG.level, LOG.propagate, LOG.handlers) == (logging.WARNING, True, [])


def test_nothing_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("copying") as advance, progress_steps("restoring", LOG.name):
        advance(1, 2)
        LOG.info("store prepared")
    assert capsys.readouterr() == ("", "")


def test_a_log_that_is_shown_takes_its_place() -> None:
    LOG.setLevel(logging.INFO)
    try:
        with terminal() as shown, progress_steps("restoring", LOG.name):
            LOG.info("store prepared")
    finally:
        LOG.setLevel(logging.NOTSET)
    assert "restoring" not in shown.getvalue()


def test_a_copy_of_a_store_counts_its_rows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    harness = Harness(tmp_path / "a")
    harness.group(harness.key("one"))
    harness.close()
    source, target = Store(where(tmp_path / "a")), Store(tmp_path / "b.db")
    seen: list[tuple[int, int]] = []
    copied = copy(source, target, lambda done, total: seen.append((done, total)))
    source.close()
    target.close()
    assert seen[-1] == (sum(copied.values()), sum(copied.values()))
    assert seen[-1][0] >= 3
