"""Which tests run in which process, if there are several (`-n`): every file in one of them, so that its fixtures are
set up once, and so do all files that share a running Keyfront.

pytest-xdist's `--dist loadgroup` silently has no effect with pytest 9.2
(https://github.com/pytest-dev/pytest-xdist/issues/1386).
"""

from __future__ import annotations

import functools

from xdist.scheduler import LoadScopeScheduling

from tests.imports import ROOT


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """The scheduler, which pytest's main process asks for the work unit of each test."""

    def _split_scope(self, nodeid: str) -> str:
        return work_unit(nodeid.partition("::")[0])


@functools.cache
def work_unit(file: str) -> str:
    """The name of the work unit that a test file belongs to. All tests of a unit run in one process.

    :param file: relative to the repository.
    """
    path = ROOT / file
    shares = path.parent.name == "stories" and "shared_up" in path.read_text()
    return "shared_up" if shares else file
