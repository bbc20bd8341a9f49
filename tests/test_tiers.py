"""Tests that every test file belongs to one tier, and that each tier keeps to its rules."""

from __future__ import annotations

import re

import pytest

from tests.imports import MODULES, ROOT
from tests.rows import rows
from tests.tiers import OPENING, OUTSIDE, TIERS, Guard, tier

FILES = sorted((ROOT / "tests").rglob("test_*.py"))


def test_every_tier_has_files_and_every_target_of_make_its_tier() -> None:
    assert {tier(path) for path in FILES} == set(TIERS)
    targets = re.findall(r"--tier (\w+)", (ROOT / "Makefile").read_text())
    assert set(targets) == set(TIERS)


def test_stories_and_only_they_lie_in_their_folder() -> None:
    for path in FILES:
        assert (tier(path) == "stories") == ("stories" in path.relative_to(ROOT).parts), path


def test_the_rules_are_tested_without_sockets() -> None:
    unit = {str(path.relative_to(ROOT / "tests")) for path in FILES if tier(path) == "unit"}
    assert unit >= {
        "control/test_iam.py",
        "edge/test_freshness.py",
        "lifecycle/test_rotation.py",
        "model/test_compile.py",
        "signing/test_vectors.py",
        "signing/test_verify.py",
    }


@rows("name", sorted(OUTSIDE))
def test_what_lies_outside_can_be_found(name: str) -> None:
    """Moving a module without updating `OUTSIDE` would let its importers into the unit tier."""
    if name.startswith(("keyfront", "tests")):
        assert any(module == name or module.startswith(name + ".") for module in MODULES)


@rows("event", sorted(OPENING))
def test_a_unit_test_that_opens_something_fails(event: str) -> None:
    guard = Guard()
    guard(event, ())  # between tests
    guard.test = "tests/test_x.py::test_y"
    guard("open", ())
    with pytest.raises(pytest.fail.Exception, match=re.escape(f"test_y is a unit test and raises {event}")):
        guard(event, ())
