"""Every `keyfront` command in the documentation meets the command line: the command exists, has the options that are
given, and gets the arguments that it requires. What the commands do is shown by `tests/stories/test_first_day.py`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from keyfront.cli.main import keyfront
from tests.rows import rows

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]

_COMMAND = re.compile(r"(?:^|[\s;&|(`])(?:\.venv/bin/)?(keyfront [a-z][^`\n]*)")
_INSIDE = re.compile(r"\$\((?:\.venv/bin/)?(keyfront [a-z][^)]*)\)")
_SYNOPSIS = re.compile(r"\[(?!:)|\(-|GROUP|…\]")
"""What only the notation of a command's options has."""


def lines(text: str) -> Iterator[str]:
    """The logical lines of a page's shell blocks: indented, or fenced as `sh`."""
    fenced = False
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced and line.strip() in ("```sh", "```bash", "```shell")
        elif fenced or (line.startswith("    ") and not line.startswith("     ")):
            yield line.strip().removeprefix("$ ")


def words(command: str) -> list[str]:
    """The words of one command, up to where the shell or a comment ends it."""
    found = []
    for word in shlex.split(command, comments=True):
        if word in ("|", "||", "&&", "&", ">", ">>", "<", ";"):
            break
        found.append(word)
    return found


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in lines(page.read_text()):
            found = _INSIDE.search(line) or _COMMAND.search(line)
            if found and not _SYNOPSIS.search(found.group(1)):
                yield str(page.relative_to(ROOT)), found.group(1)


COMMANDS = sorted(set(commands()))


def test_there_are_many() -> None:
    assert len(COMMANDS) > 80


@rows(("page", "line"), COMMANDS)
def test_a_command_of_a_page_meets_the_command_line(page: str, line: str) -> None:
    rest = words(line)[1:]
    command: click.Command = keyfront
    context = click.Context(command, info_name="keyfront")
    while isinstance(command, click.Group):
        name, *rest = rest
        if "|" in name:
            return  # a synopsis of several commands
        found = command.get_command(context, name)
        assert found is not None, f"{page}: there is no command {name}"
        command = found
        context = click.Context(command, parent=context, info_name=name)
    if "--help" in rest:
        return
    given, left, _ = command.make_parser(context).parse_args(list(rest))
    assert not left, f"{page}: {line}: too many arguments: {left}"
    for parameter in command.params:
        if parameter.required:
            assert given.get(str(parameter.name)) not in (None, ()), (
                f"{page}: {line}: {parameter.name} is missing"
            )
