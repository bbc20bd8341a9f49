"""Who may import whom, and what the hearts may not know at all. Read off the source, so that nothing is run.

`errors ← signing ← model ← fleet ← edge` · `model ← control → fleet` · `signing ← custody ← lifecycle ← control` ·
`control ← declared` · `control ← backup` · edge and control never meet · the cli may import everything. Hearts hold
rules: no socket, clock, file, chance or event loop.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "signing": {"errors"},
    "model": {"errors", "signing"},
    "fleet": {"errors", "signing", "model"},
    "edge": {"errors", "signing", "model", "fleet"},
    "custody": {"errors", "signing"},
    "lifecycle": {"errors", "signing", "custody"},
    "control": {"errors", "signing", "model", "fleet", "custody", "lifecycle"},
    "backup": {"errors", "signing", "model", "fleet", "custody", "lifecycle", "control"},
    "declared": {"errors", "signing", "model", "control", "lifecycle"},
}
"""Each room, and the rooms it may import from besides itself. `keyfront` itself, the SDK's front, offers signing and
custody."""
MAY_IMPORT["keyfront"] = {"errors", "signing", "custody"}

EVERYTHING = {"cli", "__main__"}

HEARTS = {
    "keyfront.control.codec",
    "keyfront.control.conditions",
    "keyfront.control.iam",
    "keyfront.control.normalise",
    "keyfront.control.permissions",
    "keyfront.control.scalars",
    "keyfront.control.sigv4",
    "keyfront.control.validate",
    "keyfront.control.wildcards",
    "keyfront.control.xmlbody",
    "keyfront.custody.contract",
    "keyfront.custody.keyfile",
    "keyfront.custody.succession",
    "keyfront.lifecycle.expiry",
    "keyfront.lifecycle.rotation",
    "keyfront.backup.retention",
    "keyfront.declared.difference",
    "keyfront.declared.document",
    "keyfront.declared.faults",
    "keyfront.declared.kinds",
    "keyfront.declared.places",
    "keyfront.declared.plan",
    "keyfront.declared.setup",
    "keyfront.declared.words",
    "keyfront.signing.verify",
    "keyfront.signing.policy",
    "keyfront.model.compile",
    "keyfront.model.exposure",
    "keyfront.model.forwarding",
    "keyfront.model.members",
    "keyfront.model.origins",
    "keyfront.model.pattern",
    "keyfront.model.reading",
    "keyfront.model.residency",
    "keyfront.model.snapshot",
    "keyfront.fleet.feed",
    "keyfront.edge.decide",
    "keyfront.edge.egress",
    "keyfront.edge.forward",
    "keyfront.edge.freshness",
    "keyfront.edge.limits.origins",
    "keyfront.edge.limits.rates",
    "keyfront.edge.limits.uploads",
    "keyfront.edge.limits.viewers",
    "keyfront.edge.overrides",
    "keyfront.edge.readings",
    "keyfront.edge.respond",
    "keyfront.edge.routing",
    "keyfront.edge.websocket",
}

WORLD = {"asyncio", "os", "random", "secrets", "select", "selectors", "shutil", "socket", "subprocess"} | {
    "ssl",
    "tempfile",
    "threading",
    "time",
    "uvloop",
}


def imports(module: str) -> dict[str, int]:
    """All that `module` imports, wherever in the file, with the line; imports for type checkers alone do not count."""
    found: dict[str, int] = {}
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.orelse:
                visit(statement)
            return
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
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(MODULES[module].read_text()))
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nobody_imports_from_the_right(module: str) -> None:
    own = room(module)
    if own in EVERYTHING:
        return
    assert own in MAY_IMPORT, f"{own} has no place in the import law"
    allowed = MAY_IMPORT[own] | {own}
    for name, line in imports(module).items():
        if name.split(".")[0] == "keyfront":
            assert room(name) in allowed, f"{MODULES[module]}:{line} imports {name}"


@pytest.mark.parametrize("module", sorted(HEARTS & MODULES.keys()))
def test_hearts_know_nothing_of_the_world(module: str) -> None:
    for name, line in imports(module).items():
        assert name.split(".")[0] not in WORLD, f"{MODULES[module]}:{line} imports {name}"


@pytest.mark.parametrize("module", sorted(HEARTS & MODULES.keys()))
def test_hearts_read_no_clock_and_open_no_file(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"open", "input", "print", "datetime.now", "datetime.datetime.now"}, (
                f"{MODULES[module]}:{node.lineno} calls {called}"
            )
