"""The tier of each test file, derived from its path and its imports.

- stories: processes, started as documented: tests/stories
- integration: sockets, processes, or databases: a file that imports one of `OUTSIDE`, itself, through a helper of the
  tests, or through a fixture of its folder's conftest.py
- unit: rules, vectors, and tables: every other file

`conftest.py` runs a tier by `--tier`, and fails any unit test that nevertheless opens a socket, a database, or a
process.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import pytest

from tests.imports import MODULES, ROOT, Function, imports, inside, read

Tier = Literal["unit", "integration", "stories"]
TIERS: tuple[Tier, ...] = get_args(Tier)

OUTSIDE = {
    "http.client",
    "http.server",
    "keyfront.cli",
    "keyfront.control.process",
    "keyfront.control.store",
    "keyfront.custody.agent",
    "keyfront.edge.worker",
    "keyfront.runtime",
    "multiprocessing",
    "signal",
    "socket",
    "socketserver",
    "sqlalchemy",
    "sqlite3",
    "subprocess",
    "tests.faults",
    "tests.origin",
    "tests.up",
    "tests.viewer",
    "uvicorn",
}
"""What a unit test does without. `tests.origin` and `tests.viewer` open sockets through asyncio; `signal` goes
with processes, and `tests.faults` with failing disks."""

OPENING = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.system",
    "socket.bind",
    "socket.connect",
    "sqlite3.connect",
    "subprocess.Popen",
}
"""The audit events that a unit test does not raise."""


@cache
def tier(path: Path) -> Tier:
    """The tier of the test file at `path`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[:2] == ("tests", "stories"):
        return "stories"
    return "integration" if _reaches_outside(".".join(parts)) else "unit"


@cache
def _reaches_outside(module: str) -> bool:
    found: set[str] = set()
    waiting = [module, *_conftests(module)]
    while waiting:
        name = waiting.pop()
        if any(inside(name, outside) for outside in OUTSIDE):
            return True
        if name not in found and name in MODULES and not inside(name, "keyfront"):
            found.add(name)
            waiting += imports(name)
    return False


def _conftests(module: str) -> list[str]:
    """The conftest.py files of the module's folders, below `tests`, whose fixtures it uses."""
    used = _requested(module)
    folders = module.split(".")[:-1]
    names = [".".join([*folders[:depth], "conftest"]) for depth in range(2, len(folders) + 1)]
    return [name for name in names if name in MODULES and used & _fixtures(name)]


@cache
def _requested(module: str) -> set[str]:
    """The fixtures that a module may request: the arguments of its tests and fixtures that are not parameters and,
    where it calls `getfixturevalue`, every string that could name one."""
    found: set[str] = set()
    for function in read(module).functions:
        if function.name.startswith("test_") or _is_fixture(function):
            tables = [text for text in function.decorators if "parametrize(" in text or "rows(" in text]
            found |= function.arguments - {name for text in tables for name in re.findall(r"\w+", text)}
    source = MODULES[module].read_text()
    if "getfixturevalue(" in source:
        nodes = ast.walk(ast.parse(source))
        found |= {
            node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    return found


@cache
def _fixtures(module: str) -> set[str]:
    return {function.name for function in read(module).functions if _is_fixture(function)}


def _is_fixture(function: Function) -> bool:
    return any("fixture" in text for text in function.decorators)


class Guard:
    """An audit hook that fails a unit test that opens a socket, a database, or a process."""

    test: str | None = None
    """The unit test that is running."""

    def __call__(self, event: str, _arguments: tuple[object, ...]) -> None:
        if self.test is not None and event in OPENING:
            test, self.test = self.test, None
            pytest.fail(f"{test} is a unit test and raises {event}: see tests/tiers.py")
