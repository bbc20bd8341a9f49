"""Mutation testing of the hearts, sampled: `python -m tests.mutation [--sample N] [--seed N]`.

Cosmic Ray's operators change one place in a heart: a different comparison, a different number, an added `not`. The
unit tests that run the changed line must fail. The same seed draws the same places, as long as the hearts do not
change; docs/benchmarks.md reports how many changes went unnoticed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from coverage import CoverageData

from tests.hearts import files
from tests.imports import ROOT
from tests.tiers import tier

CORE = (
    "keyfront/control/iam",
    "keyfront/edge/rules",
    "keyfront/lifecycle/rotation",
    "keyfront/model/compile",
    "keyfront/signing/policy",
    "keyfront/signing/verify",
)
"""The hearts whose rules decide who may see what."""
OPERATORS = re.compile(
    r"core/(AddNot|NumberReplacer|Replace(AndWithOr|OrWithAnd|TrueWithFalse|FalseWithTrue)|ReplaceContinueWithBreak"
    r"|ReplaceBreakWithContinue|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Mod_Add)"
    r"|ReplaceComparisonOperator_(?!Is_Eq|Eq_Is|IsNot_NotEq|NotEq_IsNot).*)"
)
"""Those whose changes are seldom without any effect, as `==` for `is` would be."""
LEAST = 0.9
"""What part of the sample must be noticed."""


class Mutant(NamedTuple):
    file: str
    operator: str
    occurrence: int
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.operator.removeprefix('core/')} #{self.occurrence}"


def places(file: str) -> Iterator[Mutant]:
    """Every change that the operators can make to a file."""
    from cosmic_ray.ast import ast_nodes, get_ast  # listed in requirements/mutation.txt only
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast((ROOT / file).read_text())))
    for name in sorted(filter(OPERATORS.match, operator_names())):
        operator = get_operator(name)()
        found: list[Any] = [at for node in nodes for at in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(found):
            yield Mutant(file, name, occurrence, start[0])


def sample(size: int, seed: int) -> list[Mutant]:
    core = [file for file in files() if file.removeprefix("src/").startswith(CORE)]
    every = [mutant for file in core for mutant in places(file)]
    return random.Random(seed).sample(every, min(size, len(every)))


def measure(database: Path) -> None:
    """Which tests run which line."""
    environment = dict(os.environ, COVERAGE_FILE=str(database))
    command = [sys.executable, "-m", "pytest", "-q", "--tier", "unit", "--cov=keyfront", "--cov-context=test"]
    subprocess.run([*command, "--cov-report="], cwd=ROOT, env=environment, check=True)


def tests_of(mutant: Mutant, data: CoverageData) -> list[str]:
    """The tests that run the line; for a line that runs at import, all tests that run any part of its file."""
    contexts = data.contexts_by_lineno(str(ROOT / mutant.file))
    running = {each.partition("|")[0] for each in contexts.get(mutant.line, ()) if each}
    if not running:
        running = {each.partition("|")[0] for found in contexts.values() for each in found if each}
    return sorted(test for test in running if tier(ROOT / test.partition("::")[0]) == "unit")


def noticed(mutant: Mutant, tests: list[str], source: Path) -> bool:
    """Whether one of the tests fails or hangs with the change applied to a copy of the source."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    target = source.parent / mutant.file
    before = target.read_text()
    changed = mutate_code(before, get_operator(mutant.operator)(), mutant.occurrence)
    assert changed is not None
    target.write_text(changed)
    chosen = source.parent / "tests.txt"
    chosen.write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", f"@{chosen}"]
    environment = dict(os.environ, PYTHONPATH=str(source))
    try:
        ran = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=300
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        target.write_text(before)
    return ran.returncode != 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", type=Path, help="a coverage file with contexts, if there is one already")
    arguments = parser.parse_args()
    mutants = sample(arguments.sample, arguments.seed)
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        database = arguments.lines or Path(folder) / "coverage"
        if not database.exists():
            measure(database)
        data = CoverageData(str(database))
        data.read()
        for number, mutant in enumerate(mutants, 1):
            tests = tests_of(mutant, data)
            killed = bool(tests) and noticed(mutant, tests, source)
            survivors += [] if killed else [mutant]
            print(
                f"{number:4} {'noticed ' if killed else 'SURVIVED'} {mutant} ({len(tests)} tests)", flush=True
            )
    rate = 1 - len(survivors) / len(mutants)
    print(f"{rate:.0%} of {len(mutants)} changes noticed (seed {arguments.seed})")
    return 0 if rate >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
