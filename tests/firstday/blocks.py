"""The blocks of a page: what a reader types, the programs that a page shows, and the output that it promises.

A fenced block has the kind that its fence names. An indented block is `console` if it begins with a prompt, `sh` if it
begins with a program, and `text` otherwise: an output, or something that is not typed at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROGRAMS = (
    "apt-get",
    "aws",
    "chmod",
    "curl",
    "eval",
    "export",
    "granian",
    "keyfront",
    "make",
    "mkcert",
    "mkdir",
    "openssl",
    "pip",
    "python3",
    "read",
    "softhsm2-util",
    "source",
    "sudo",
    "systemctl",
    "umask",
    "vault",
    "weed",
)
_TYPED = re.compile(rf"\. |([A-Z_]+=\S* )*(\.venv/bin/)?({'|'.join(PROGRAMS)})( |$)")
_KINDS = {"": "text", "bash": "sh", "shell": "sh"}


class Block(NamedTuple):
    """A block of a page.

    :ivar line: its first line, counted from 1.
    :ivar kind: `sh`, `console`, `python`, `json`, `toml`, …, or `text`.
    """

    line: int
    kind: str
    text: str


class Exchange(NamedTuple):
    """A command of a `console` block, and the output that the page shows below it."""

    command: str
    output: str


def blocks(path: Path) -> list[Block]:
    """The blocks of a page, from top to bottom."""
    return list(_blocks(path.read_text().splitlines()))


def _blocks(lines: list[str]) -> Iterator[Block]:
    at = 0
    item = 0  # how far the text of a list item is indented: an indented block there has four blanks more
    while at < len(lines):
        line = lines[at]
        if fence := re.fullmatch(r"( *)```(\S*)", line):
            ends = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
            inside = [each.removeprefix(fence[1]) for each in lines[at + 1 : ends]]
            kind = _KINDS.get(fence[2], fence[2])
            yield _block(at + 1, kind, inside)
            at = ends + 1
            continue
        if marker := re.match(r"([-*]|\d+\.) +", line):
            item = marker.end()
        elif line and not line.startswith(" "):
            item = 0
        indent = " " * (item + 4)
        if line.startswith(indent):
            ends = at
            while ends < len(lines) and (lines[ends].startswith(indent) or not lines[ends]):
                ends += 1
            inside = [each.removeprefix(indent) for each in lines[at:ends]]
            yield _block(at, "text", inside)
            at = ends
            continue
        at += 1


def _block(line: int, kind: str, lines: list[str]) -> Block:
    text = "\n".join(lines).rstrip() + "\n"
    first = next((each for each in lines if each.strip() and not each.startswith("#")), "")
    if kind == "text" and first.startswith("$ "):
        kind = "console"
    elif kind == "text" and _TYPED.match(first):
        kind = "sh"
    return Block(line + 1, kind, text)


def exchanges(text: str) -> list[Exchange]:
    """The commands of a `console` block; a command continues on the next line after a backslash."""
    found = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n", part)
        assert command is not None
        found.append(Exchange(command[0], part[command.end() :]))
    return found


_EXAMPLE = (
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b[0-9a-f]{40,}\b|(?<=-)[0-9a-f]{8}\b|\b[0-9a-f]{12}(?=…)"), "DIGEST"),
    (re.compile(r"\b[EK][0-9A-Z]{13}\b"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?Z?)?"), "TIME"),
    (re.compile(r"\b\d+\b"), "N"),
    (re.compile(r"\s+"), " "),
)
"""What a page can only give an example of: an ID, a digest, a time, a number, the width of a column or a line."""


def shows(expected: str, output: str) -> bool:
    """Whether a page shows what a program printed, or a part of it.

    On the page, `…` stands for anything, and IDs, times, and numbers are examples.
    """
    for pattern, name in _EXAMPLE:
        expected, output = pattern.sub(name, expected), pattern.sub(name, output)
    return re.search(".*".join(map(re.escape, expected.strip().split("…"))), output) is not None
