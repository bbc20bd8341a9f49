"""What each Python file of the repository imports, read from its source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removeprefix("src.").removesuffix(".__init__")


MODULES = {
    _name(path): path
    for folder in ("src", "tests", "fuzz", "bench", "examples", "soak")
    for path in (ROOT / folder).rglob("*.py")
    if "node_modules" not in path.parts
}
"""Every module by its dotted name. `src` is no part of a name."""


class Function(NamedTuple):
    name: str
    arguments: frozenset[str]
    decorators: tuple[str, ...]
    """As written in the source."""


class Source(NamedTuple):
    """What this module keeps of a file: a syntax tree is a hundred times as large."""

    imports: dict[str, int]
    functions: tuple[Function, ...]


@cache
def read(module: str) -> Source:
    text = MODULES[module].read_text()
    lines = text.split("\n")
    found: dict[str, int] = {}
    functions = []
    for node in _statements(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update({alias.name: node.lineno for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found[whole if whole in MODULES else base] = node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = ["\n".join(lines[at.lineno - 1 : at.end_lineno]) for at in node.decorator_list]
            arguments = frozenset(argument.arg for argument in node.args.args)
            functions.append(Function(node.name, arguments, tuple(decorators)))
    return Source(found, tuple(functions))


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Every statement at any depth. Expressions are most of a tree; they are skipped."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, part, ())
            if isinstance(inner, list):
                waiting += inner


def _base(module: str, node: ast.ImportFrom) -> str:
    """The module that a `from` names, made absolute."""
    base = node.module or ""
    if node.level:
        package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, base]).removesuffix(".")
    return base


def imports(module: str) -> dict[str, int]:
    """Every import of `module`, anywhere in the file, with its line number."""
    return read(module).imports


def inside(name: str, package: str) -> bool:
    """Whether `name` is `package` or one of its modules."""
    return name == package or name.startswith(package + ".")
