"""Tests that the architecture pages match the code: their generated parts, and every file that they name."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.architecture import OVERVIEW, ROOM_PAGES, ROOT, pages

from tests.rows import rows

PAGES = pages()


@rows("page", sorted(PAGES), ids=lambda page: page.name)
def test_a_page_is_up_to_date(page: Path) -> None:
    assert page.read_text() == PAGES[page], "out of date: run `make docs`"


def test_there_is_no_page_of_a_package_that_is_gone() -> None:
    assert {*ROOM_PAGES.glob("*.md")} == {*PAGES} - {OVERVIEW}


def test_every_file_and_folder_that_the_overview_names_exists() -> None:
    named = re.findall(r"`([a-z_]+/[\w/.]*)`", OVERVIEW.read_text())
    assert len(named) > 20
    missing = [
        name
        for name in named
        if not any((root / name).exists() for root in (ROOT, ROOT / "src" / "keyfront"))
    ]
    assert missing == []
