"""A first day: README and every guide, followed word for word (`tests/firstday`), on one machine.

Pages that start another Keyfront run with `--long`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.firstday.blocks import blocks, exchanges, shows
from tests.firstday.pages import PAGES, Page
from tests.imports import ROOT

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def day() -> Iterator[tuple[IO[str], IO[str]]]:
    """The machine: a page's path is written to it, and what went wrong there is read from it."""
    for program in ("unshare", "ip", "bash", "openssl", "curl", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine: pages are followed in namespaces, in a shell")
    able = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "--mount", "true"], capture_output=True, check=False
    )
    if able.returncode != 0:
        pytest.skip(
            "no user namespaces on this machine: a page's ports and folders would be the machine's own"
        )
    command = [sys.executable, "-m", "tests.firstday", "--follow"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        yield running.stdin, running.stdout
        running.stdin.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: Path(page.path).stem)
def test_a_page_works_as_it_says(
    day: tuple[IO[str], IO[str]], page: Page, request: pytest.FixtureRequest
) -> None:
    if page.long and not request.config.getoption("--long"):
        pytest.skip("it takes long: --long")
    if missing := page.missing():
        pytest.skip(f"no {', '.join(missing)} here")
    pages, failures = day
    pages.write(f"{page.path}\n")
    pages.flush()
    line = failures.readline()
    assert line, "the day's process ended"
    failure = json.loads(line)
    if failure:
        pytest.fail(failure, pytrace=False)


def test_every_guide_is_followed() -> None:
    guides = {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "guide").rglob("*.md")}
    assert guides | {"README.md"} == {page.path for page in PAGES}


def test_blocks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Run\n\n    keyfront status\n\nwhich prints\n\n    all is well\n\n- in a list:\n\n      $ aws sts \\\n"
        "          help\n      usage: …\n\n  ```toml\n  a = 1\n  ```\n\n```sh\ntrue\n```\n"
    )
    assert [(block.line, block.kind, block.text) for block in blocks(page)] == [
        (3, "sh", "keyfront status\n"),
        (7, "text", "all is well\n"),
        (11, "console", "$ aws sts \\\n    help\nusage: …\n"),
        (16, "toml", "a = 1\n"),
        (20, "sh", "true\n"),
    ]
    (exchange,) = exchanges("$ aws sts \\\n    help\nusage: …\n")
    assert exchange == ("aws sts \\\n    help\n", "usage: …\n")


def test_what_a_page_shows_is_an_example() -> None:
    shown = "1234 records, all intact\nkey  K2JCJMDEHXQW5F  since 2026-11-01 10:00\n… end\n"
    assert shows(
        shown, "7 records, all\nintact\nkey K7777777777777 since 2030-01-02 03:04\nanything at all end\n"
    )
    assert not shows(shown, "7 records, all broken\nkey K7777777777777 since 2030-01-02 03:04\n end\n")
    assert not shows("a … c", "a b")
