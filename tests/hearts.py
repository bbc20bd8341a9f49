"""Test coverage of the hearts: `python -m tests.hearts` reports it from the latest `.coverage`.

The list of the hearts is `HEARTS` in `tests/test_import_law.py`.
"""

from __future__ import annotations

import sys

from coverage import Coverage

from tests.imports import MODULES, ROOT
from tests.test_import_law import hearts


def files() -> list[str]:
    """The source files of the hearts, relative to the repository."""
    return [str(MODULES[heart].relative_to(ROOT)) for heart in hearts()]


def main() -> int:
    """Fail unless the tests take every branch of every heart."""
    measured = Coverage()
    measured.load()
    return 0 if measured.report(include=files(), show_missing=True, skip_covered=True) == 100.0 else 1


if __name__ == "__main__":
    sys.exit(main())
