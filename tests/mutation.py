"""Mutation testing of the hearts, sampled: `python -m tests.mutation [--sample N] [--seed N]`.

Cosmic Ray's operators change one place in a heart: a different comparison, a different number, an added `not`. The
unit tests that run the changed line must fail. The same seed draws the same places, as long as the hearts do not
change; docs/benchmarks.md reports how many changes went unnoticed.

One pytest session collects the unit tests. Each change gets a fork of it, in which the changed functions have new code
and the tests run, the fastest first, until one fails. A change of what runs at import, and one that no test noticed,
gets a fresh process with a changed copy of the source.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import pytest
from coverage import Coverage, CoverageData

from tests.hearts import files
from tests.imports import ROOT

CORE = (
    "keyfront/control/iam",
    "keyfront/edge/rules",
    "keyfront/lifecycle/moves",
    "keyfront/lifecycle/record_changes",
    "keyfront/lifecycle/rotation",
    "keyfront/model/compile",
    "keyfront/signing/policy",
    "keyfront/signing/verify",
)
"""The hearts whose rules decide who may see what."""
OPERATORS = re.compile(
    r"core/(AddNot|NumberReplacer|Replace(AndWithOr|OrWithAnd|TrueWithFalse|FalseWithTrue)|ReplaceContinueWithBreak"
    r"|ReplaceBreakWithContinue|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Mod_Add)"
    r"|ReplaceComparisonOperator_(Is_IsNot|IsNot_Is|(Eq|NotEq|[LG]tE?)_(Eq|NotEq|[LG]tE?)))"
)
"""Those whose changes are valid Python, and seldom without any effect: no `==` in place of `is`, no `is` in place of an
order."""
LEAST = 0.9
"""What part of the sample must be noticed."""
BUDGET = 20.0
"""Seconds of CPU time, as measured without a change, after which no further test of a change starts."""
HANGS = 120
"""Seconds of CPU time after which a change counts as noticed, since it makes a test hang."""


class Mutant(NamedTuple):
    file: str
    operator: str
    occurrence: int
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.operator.removeprefix('core/')} #{self.occurrence}"

    def source(self) -> str:
        """The file's text with the change."""
        from cosmic_ray.mutating import mutate_code  # listed in requirements/mutation.txt only
        from cosmic_ray.plugins import get_operator

        changed = mutate_code((ROOT / self.file).read_text(), get_operator(self.operator)(), self.occurrence)
        assert isinstance(changed, str)
        return changed


def places(file: str) -> Iterator[Mutant]:
    """Every change that the operators can make to a file."""
    from cosmic_ray.ast import ast_nodes, get_ast  # listed in requirements/mutation.txt only
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast((ROOT / file).read_text())))
    for name in sorted(filter(OPERATORS.match, operator_names())):
        operator = get_operator(name)()
        found: list[Any] = [(node, at) for node in nodes for at in operator.mutation_positions(node)]
        for occurrence, (node, (start, _)) in enumerate(found):
            if not without_effect(name, node, start):
                yield Mutant(file, name, occurrence, start[0])


def without_effect(operator: str, node: Any, start: tuple[int, int]) -> bool:
    """Whether a change cannot matter to a rule, by its form alone:

    - `==` or `!=` with a text, made an order: of which modes `mode <= "none"` holds, the alphabet decides;
    - a number inside a message, such as the length to which it quotes what was given;
    - `frozen=True` of a class, which only keeps its values from being changed by mistake.

    :param node: parso's node, of which `start` is the changed place.
    """
    if re.fullmatch(r"core/ReplaceComparisonOperator_(Eq|NotEq)_(Lt|LtE|Gt|GtE)", operator):
        place = next(at for at, child in enumerate(node.children) if child.start_pos == start)
        return any(node.children[at].type in ("string", "strings") for at in (place - 1, place + 1))
    if operator == "core/NumberReplacer":
        return node.search_ancestor("fstring_expr") is not None
    return (
        operator == "core/ReplaceTrueWithFalse"
        and node.get_previous_sibling() == "="
        and (node.parent.type == "argument" and node.parent.children[0].value == "frozen")
    )


def sample(size: int, seed: int) -> list[Mutant]:
    core = [file for file in files() if file.removeprefix("src/").startswith(CORE)]
    every = [mutant for file in core for mutant in places(file)]
    return random.Random(seed).sample(every, min(size, len(every)))


def codes(code: CodeType) -> Iterator[CodeType]:
    """`code` and all code inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def swap(mutant: Mutant) -> bool:
    """Give the changed code to the functions that have the old one, and forget every cached result.

    Returns:
        whether there are such functions. There are none where the change is in what runs at import.

    Raises:
        ValueError: the changed code does not fit.
    """
    path = str(ROOT / mutant.file)
    old = compile((ROOT / mutant.file).read_text(), path, "exec", dont_inherit=True)
    new = compile(mutant.source(), path, "exec", dont_inherit=True)
    pairs = list(zip(codes(old), codes(new), strict=True))
    changed = {each: other for each, other in pairs if each != other}
    gc.unfreeze()
    living = gc.get_objects()
    found = [each for each in living if type(each) is FunctionType and each.__code__ in changed]
    for function in found:
        function.__code__ = changed[function.__code__]
    for each in living:
        if isinstance(each, functools._lru_cache_wrapper) and each.__module__.startswith("keyfront"):
            each.cache_clear()
    return bool(found)


class Runner:
    """The pytest plugin that measures which tests run which line, then tries each change."""

    def __init__(self, mutants: list[Mutant], folder: Path, lines: Path) -> None:
        self.mutants = mutants
        self.folder = folder
        self.lines = lines
        self.survivors: list[Mutant] = []
        self.items: dict[str, pytest.Item] = {}
        self.seconds: dict[str, float] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        if not self.lines.exists() and self.fork(lambda: self.measure(session)):
            pytest.exit("the tests must pass before anything is changed", 1)
        self.seconds = json.loads(self.lines.with_suffix(".seconds").read_text())
        data = CoverageData(str(self.lines))
        data.read()
        for number, mutant in enumerate(self.mutants, 1):
            tests = self.tests_of(mutant, data)
            noticed = bool(tests) and self.noticed(mutant, tests)
            self.survivors += [] if noticed else [mutant]
            result = "noticed " if noticed else "SURVIVED"
            print(f"{number:4} {result} {mutant} ({len(tests)} tests)", flush=True)
        return True

    def noticed(self, mutant: Mutant, tests: list[str]) -> bool:
        return self.fork(lambda: self.swapped(mutant, tests)) or self.fresh(mutant, tests)

    def fork(self, work: Callable[[], bool]) -> bool:
        """Whether `work` returns true, fails, or hangs, in a process of its own."""
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                os._exit(int(work()))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        return status != 0

    def measure(self, session: pytest.Session) -> bool:
        """Write the lines that each test runs, and each test's seconds of CPU time."""
        coverage = Coverage(data_file=str(self.lines), include=files(), config_file=False)
        seconds = {}
        coverage.start()
        for item in session.items:
            coverage.switch_context(item.nodeid)
            began = time.process_time()
            failed = session.testsfailed
            self.run(item)
            seconds[item.nodeid] = time.process_time() - began
            if session.testsfailed > failed:
                print(f"without a change, {item.nodeid} failed", file=sys.stderr, flush=True)
        coverage.stop()
        coverage.save()
        self.lines.with_suffix(".seconds").write_text(json.dumps(seconds))
        return session.testsfailed > 0

    def run(self, item: pytest.Item, following: pytest.Item | None = None) -> None:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    def tests_of(self, mutant: Mutant, data: CoverageData) -> list[str]:
        """The tests that run the line, the fastest first; for a line that runs at import, those of its file."""
        contexts = data.contexts_by_lineno(str(ROOT / mutant.file))
        running = set(contexts.get(mutant.line, ())) - {""}
        if not running:
            running = {test for found in contexts.values() for test in found} - {""}
        tests: list[str] = []
        spent = 0.0
        for test in sorted(running, key=self.seconds.__getitem__):
            spent += self.seconds[test]
            if spent > BUDGET and tests:
                break
            tests.append(test)
        return tests

    def swapped(self, mutant: Mutant, tests: list[str]) -> bool:
        """Whether a test fails after `swap`. False also says that nothing could be swapped."""
        resource.setrlimit(resource.RLIMIT_CPU, (HANGS, HANGS))
        signal.alarm(HANGS * 5)
        try:
            if not swap(mutant):
                return False
        except ValueError:  # the change adds or removes a code object or a variable of an enclosing function
            return False
        session = self.items[tests[0]].session
        for test in tests:
            self.run(self.items[test])
            if session.testsfailed:
                return True
        return False

    def fresh(self, mutant: Mutant, tests: list[str]) -> bool:
        """Whether a test fails in a new process that imports a changed copy of the source."""
        target = self.folder / mutant.file
        before = target.read_text()
        target.write_text(mutant.source())
        chosen = self.folder / "tests.txt"
        chosen.write_text("\n".join(tests))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", f"@{chosen}"]
        environment = dict(os.environ, PYTHONPATH=str(self.folder / "src"))
        try:
            ran = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=HANGS * 5
            )
        except subprocess.TimeoutExpired:
            return True
        finally:
            target.write_text(before)
        return ran.returncode != 0


@contextlib.contextmanager
def copied_source() -> Iterator[Path]:
    """A folder with a copy of the source, outside the system's temporary files: a run outlasts what cleans those, and
    the tests delete theirs. Only this process removes it, none of its forks."""
    (ROOT / "build").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="mutation-", dir=ROOT / "build"))
    parent = os.getpid()
    try:
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        yield folder
    finally:
        if os.getpid() == parent:
            shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--lines", type=Path, help="which tests run which line: a file written here, or read if it is there"
    )
    arguments = parser.parse_args()
    mutants = sample(arguments.sample, arguments.seed)
    with copied_source() as folder:
        runner = Runner(mutants, folder, arguments.lines or folder / "lines")
        folders = [str(each.parent) for each in sorted((ROOT / "tests").glob("*/test_*.py"))]
        options = ["--tier", "unit", "-qq", "-s"]
        code = pytest.main([*options, *dict.fromkeys(folders)], plugins=[runner])
    if code:
        return int(code)
    rate = 1 - len(runner.survivors) / len(mutants)
    print(f"{rate:.0%} of {len(mutants)} changes noticed (seed {arguments.seed})")
    return 0 if rate >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
