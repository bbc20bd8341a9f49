"""What ruff cannot check: an exception from a rule has its reason beside it."""

from __future__ import annotations

import re

import pytest

from tests.imports import ROOT

FOLDERS = ("src", "scripts", "examples", "fuzz", "soak")
NEEDS_NO_REASON = {"E501"}
"""A long line is its own reason."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_exception_has_a_reason(folder: str) -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (found := re.search(r"# noqa(?:: (?P<rules>[A-Z0-9, ]+))?(?P<reason> - \S.*)?$", line))
        and not found["reason"]
        and found["rules"] not in NEEDS_NO_REASON
    ]
    assert bare == []
