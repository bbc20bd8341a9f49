"""Tests of CONTRIBUTING.md: its commands run as printed, and everything that it refers to exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import ROOT
from tests.rows import rows

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
COMMANDS = re.findall(r"^    ((?:git|cd|make|\.venv)\b.*)$", TEXT, re.MULTILINE)
TARGETS = sorted(set(re.findall(r"\bmake ([a-z-]+)", TEXT)))


def test_a_clone_runs_the_test_that_it_names(tmp_path: Path) -> None:
    """The clone borrows this environment, as `make setup` would set it up."""
    folder = tmp_path / "keyfront"
    clone, into, setup, test, *_ = [command.replace("<your fork>", str(ROOT)) for command in COMMANDS]
    subprocess.run(clone.split(), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / into.removeprefix("cd ")) == folder
    (folder / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (folder / ".venv" / ".ready").touch()
    subprocess.run(setup.split(), cwd=folder, check=True, capture_output=True)
    ran = subprocess.run(test.split(), cwd=folder, capture_output=True, text=True, check=False, timeout=100)
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"\d+ passed", ran.stdout)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_that_it_names_is_there(target: str) -> None:
    """Not executed here: most of them run this very test."""
    planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stderr
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^{target} ", listed, re.MULTILINE)


@rows("path", sorted(set(re.findall(r"`((?:src|tests)/[\w/.]+)`", TEXT))))
def test_every_file_that_it_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)", TEXT))))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
