"""The commands that Keyfront's messages print, read from the source: of each string that a program can print, the parts
that look like a command line. A docstring prints nothing, except that of a click command, which is its help."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.imports import MODULES, inside

PROGRAMS = ("aws", "base64(?= -d)", "chmod", "keyfront", "openssl", "pip", "ssh-keygen", "ulimit")

_COMMAND = re.compile(
    rf"(?:^|(?<=[\s`(]))(?:{'|'.join(PROGRAMS)}) (?=[a-z-])[^`;:,)\n]*[^`;:,)\n\s]",
)


class Printed(NamedTuple):
    """A command in the source of a module; a formatted value is `{}`."""

    module: str
    command: str


def commands_in(text: str) -> list[str]:
    """The command lines in a message."""
    return [found.group().rstrip(".") for found in _COMMAND.finditer(text)]


def printed() -> Iterator[Printed]:
    """Every command that a string in Keyfront's source contains."""
    for name, path in sorted(MODULES.items()):
        if not inside(name, "keyfront"):
            continue
        tree = ast.parse(path.read_text())
        for text in _strings(tree):
            for command in commands_in(text):
                yield Printed(name, command)


def _strings(tree: ast.Module) -> Iterator[str]:
    skipped: set[int] = set()
    nodes = list(ast.walk(tree))
    for node in nodes:
        body = getattr(node, "body", None)
        if isinstance(body, list):
            for each in body:  # a docstring of a module, a class, a function, or a constant
                if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
                    skipped.add(id(each.value))
        if isinstance(node, ast.JoinedStr):
            skipped.update(id(value) for value in node.values)
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(value.value) if isinstance(value, ast.Constant) else "{}" for value in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "rotation"
            and node.args
        ):
            words = [str(word.value) if isinstance(word, ast.Constant) else "{}" for word in node.args]
            yield " ".join(["keyfront rotation", *words])
