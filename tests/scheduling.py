"""Which tests run in which process, if there are several (`-n`): every file in one of them, so that its fixtures are
set up once, and so do all files that share a running Keyfront, or the servers that hold keys.

pytest-xdist's `--dist loadgroup` silently has no effect with pytest 9.2
(https://github.com/pytest-dev/pytest-xdist/issues/1386).
"""

from __future__ import annotations

import functools
import re

from xdist.scheduler import LoadScopeScheduling

from tests.imports import ROOT

SERVERS = {"stories": r"\bshared_up\b", "custody": r"\btests\.(moto|openbao)\b|\bvault_kv_place\b"}
"""What occurs in the files of a folder whose tests share running servers."""


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
    server = SERVERS.get(path.parent.name)
    if server is not None and re.search(server, path.read_text()):
        return f"servers of {path.parent.name}"
    return file
