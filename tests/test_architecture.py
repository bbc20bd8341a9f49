"""Tests that the architecture pages match the code: their generated parts, and every file that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripts.architecture import OVERVIEW, ROOM_PAGES, ROOT, pages


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    """Each page with its text. Generating them takes too long for an import, which every test process does."""
    return pages()


def test_pages_are_up_to_date(generated: dict[Path, str]) -> None:
    outdated = [page.name for page, text in generated.items() if page.read_text() != text]
    assert outdated == [], "run `make docs`"


def test_there_is_no_page_of_a_package_that_is_gone(generated: dict[Path, str]) -> None:
    assert {*ROOM_PAGES.glob("*.md")} == {*generated} - {OVERVIEW}


def test_every_file_and_folder_that_the_overview_names_exists() -> None:
    named = re.findall(r"`([a-z_]+/[\w/.]*)`", OVERVIEW.read_text())
    assert len(named) > 20
    missing = [
        name
        for name in named
        if not any((root / name).exists() for root in (ROOT, ROOT / "src" / "keyfront"))
    ]
    assert missing == []
