"""Test coverage of the hearts: `python -m tests.hearts [option of pytest ...]` measures it, and fails below 100 % of
their branches.

The list of the hearts is `HEARTS` in `tests/test_import_law.py`. Only they are traced, and only those tests run that
try them: the unit tests, and the tests of the rooms whose rules need a database to be tried, `WITH_STORE`.
"""

from __future__ import annotations

import subprocess
import sys

from coverage import Coverage

from tests.imports import MODULES, ROOT
from tests.test_import_law import HEARTS, hearts

WITH_STORE = ("tests/console", "tests/control", "tests/fleet", "tests/monitoring")


def files() -> list[str]:
    """The source files of the hearts, relative to the repository."""
    return [str(MODULES[heart].relative_to(ROOT)) for heart in hearts()]


def measure(options: list[str]) -> int:
    """Run the tests, and return pytest's exit status."""
    traced = [f"--cov={heart}" for heart in HEARTS]
    command = [sys.executable, "-m", "pytest", *options, *traced, "--cov-branch", "--cov-report="]
    for tier, paths in (("unit", ()), ("integration", WITH_STORE)):
        append = [] if tier == "unit" else ["--cov-append"]
        status = subprocess.run([*command, *append, "--tier", tier, *paths], cwd=ROOT, check=False).returncode
        if status:
            return status
    return 0


def main() -> int:
    """Fail unless the tests pass and take every branch of every heart."""
    if status := measure(sys.argv[1:]):
        return status
    measured = Coverage()
    measured.load()
    return 0 if measured.report(include=files(), show_missing=True, skip_covered=True) == 100.0 else 1


if __name__ == "__main__":
    sys.exit(main())
