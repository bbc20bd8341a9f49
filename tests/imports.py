"""What each Python file of the repository imports, read from its source without running it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

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


@cache
def imports(module: str) -> dict[str, int]:
    """Every import of `module`, anywhere in the file, with its line number."""
    found: dict[str, int] = {}
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update({alias.name: node.lineno for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).removesuffix(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found[whole if whole in MODULES else base] = node.lineno
    return found


def inside(name: str, package: str) -> bool:
    """Whether `name` is `package` or one of its modules."""
    return name == package or name.startswith(package + ".")
