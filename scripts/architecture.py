"""Write the generated parts of the architecture pages: `make docs`.

What the code already says in a table or a docstring is not written twice: the order of the packages
(tests/test_import_law.py), the life of a key (lifecycle/moves.py), and what each module is for (the first sentence
of its docstring). tests/test_architecture.py fails while a page is out of date.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from keyfront.lifecycle.moves import MOVES
from tests.test_import_law import INNER, MODULES, ROOMS

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
OVERVIEW = REFERENCE / "architecture.md"
ROOM_PAGES = REFERENCE / "rooms"
PACKAGES = sorted(
    {module.split(".")[1] for module in MODULES if module.count(".") > 1} | {"runtime"} & set(ROOMS) | {"cli"}
)
BLOCK = re.compile(r"<!-- generated: (?P<name>[a-z-]+) -->\n.*?<!-- end -->", re.DOTALL)


def docstring(module: str) -> str:
    return ast.get_docstring(ast.parse(MODULES[module].read_text())) or ""


def summary(module: str) -> str:
    """The first sentence of a module's docstring, on one line."""
    paragraph = " ".join(docstring(module).split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0]


def reduced(order: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Without what follows from other rows, so that the drawing shows the order and not every permission."""
    order = {name: direct - {name} for name, direct in order.items()}

    def reaches(name: str) -> set[str]:
        direct = order.get(name, set())
        return direct.union(*(reaches(each) for each in direct)) if direct else set()

    return {
        name: sorted(each for each in direct if not any(each in reaches(other) for other in direct - {each}))
        for name, direct in order.items()
    }


def graph(order: Mapping[str, set[str]]) -> str:
    edges = [f"    {name} --> {each}" for name, direct in sorted(reduced(order).items()) for each in direct]
    return mermaid("flowchart LR", edges)


def mermaid(kind: str, lines: Iterable[str]) -> str:
    return "\n".join(["```mermaid", kind, *lines, "```"])


def packages() -> str:
    return graph(
        {name: allowed for name, allowed in ROOMS.items() if name != "keyfront"}
        | {"cli": set(ROOMS) - {"keyfront"}}
    )


def key_states() -> str:
    lines = []
    for source, moves in MOVES.items():
        grouped: dict[str, list[str]] = {}
        for action, target in moves.items():
            grouped.setdefault(target.value, []).append(action.value)
        start = source.value if source else "[*]"
        lines += [f"    {start} --> {target}: {', '.join(actions)}" for target, actions in grouped.items()]
    return mermaid("stateDiagram-v2", lines)


def package_table() -> str:
    rows = [f"| [`{name}`](rooms/{name}.md) | {summary(f'keyfront.{name}')} |" for name in PACKAGES]
    return "\n".join(["| package | what it holds |", "| --- | --- |", *rows])


BLOCKS: dict[str, Callable[[], str]] = {
    "packages": packages,
    "edge-rooms": lambda: graph(INNER["edge"]),
    "control-rooms": lambda: graph(INNER["control"]),
    "key-states": key_states,
    "package-table": package_table,
}


def filled(page: str) -> str:
    """`page` with each generated block made anew."""
    return BLOCK.sub(
        lambda found: f"<!-- generated: {found['name']} -->\n{BLOCKS[found['name']]()}\n<!-- end -->", page
    )


def room_page(package: str) -> str:
    """What a package is for, what it may import, and its modules, a line each."""
    whole = f"keyfront.{package}"
    allowed = (
        "everything"
        if package == "cli"
        else ", ".join(f"`{each}`" for each in sorted(ROOMS[package] - {package}))
        or "nothing else of Keyfront"
    )
    page = [f"# `{package}`", "", docstring(whole), "", f"**May import:** {allowed}.", ""]
    if package in INNER:
        page += ["The rooms inside, each above those that it may import:", "", graph(INNER[package]), ""]
    members = sorted(module for module in MODULES if module.startswith(whole + "."))
    folders = sorted({module.rpartition(".")[0] for module in members if module.count(".") > 2})
    for folder in [whole, *[each for each in folders if each in MODULES]]:
        inside = [
            module
            for module in members
            if module.rpartition(".")[0] == folder and MODULES[module].name != "__init__.py"
        ]
        if not inside:
            continue
        if folder != whole:
            page += [f"## `{folder.removeprefix('keyfront.').replace('.', '/')}/`", "", docstring(folder), ""]
        page += ["| module | what it holds |", "| --- | --- |"]
        page += [
            f"| `{MODULES[module].name}` | {summary(module).replace('|', '&#124;')} |" for module in inside
        ] + [""]
    return "\n".join([*page, "Generated from the source by `make docs`.", ""])


def pages() -> dict[Path, str]:
    """Every page that is generated, whole or in part, as it should be."""
    found = {OVERVIEW: filled(OVERVIEW.read_text())}
    return found | {ROOM_PAGES / f"{package}.md": room_page(package) for package in PACKAGES}


def main() -> None:
    ROOM_PAGES.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text)
    for path in set(ROOM_PAGES.glob("*.md")) - set(pages()):
        path.unlink()


if __name__ == "__main__":
    main()
