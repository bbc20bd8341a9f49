"""The script of a first day: follow README and the guides word for word, in an environment of its own.

    python -m tests.firstday                 # every page, in order
    python -m tests.firstday docs/guide/keys.md …

It ends with the first command that does not do what its page says. `--follow` reads pages from standard input, one a
line, and writes one JSON line for each: the tests drive it that way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.firstday.blocks import Block, blocks, exchanges, shows
from tests.firstday.day import SERVERS, Day, Failed, isolate, release
from tests.firstday.pages import PAGES, Latest, Output, Page, Save, Shell, Skip
from tests.imports import ROOT

SHARED = "keyfront up --data ./state"
"""The Keyfront that the README starts. It runs through the day."""


class Reader:
    """Somebody who follows one page."""

    def __init__(self, day: Day, page: Page) -> None:
        self.day = day
        self.page = page
        self.printed = ""
        self.all_printed = ""

    def follow(self) -> None:
        """Follow the page from top to bottom.

        :raises Failed: at the first command that does not do what the page says.
        """
        where = f"{self.page.path} (what it takes for granted)"
        self.day.open_terminal()
        self.day.typed = self.page.typed
        try:
            if self.page.alone:
                self.day.stop_all()
            else:
                self.day.serve(SHARED, where)
            if self.page.before:
                self.day.run(self.page.before, where)
            for command in self.page.servers:
                self.day.serve(command, where)
            if self.page.names:
                self.day.run('eval "$(keyfront env)"', where)
                self.all_printed += self.day.python(self.page.names, where)
            for block in blocks(ROOT / self.page.path):
                self.block(block)
        finally:
            self.day.close_terminal()
            self.day.stop_all(but="" if self.page.alone else SHARED)

    def block(self, block: Block) -> None:
        where = f"{self.page.path}:{block.line}"
        treatment = next((found for text, found in self.page.treat.items() if text in block.text), None)
        named = re.match(r"# (\S+\.\w+)\n", block.text)
        if isinstance(treatment, Skip):
            return
        if block.kind != "sh":
            self._first(block.text, where)
        if isinstance(treatment, Save) or named:
            name = treatment.name if isinstance(treatment, Save) else named[1]  # type: ignore[index]
            (Path(self.day.environment()[1]) / name).write_text(self.filled(block.text, where))
        elif isinstance(treatment, Output):
            if not shows(block.text, self.printed):
                raise Failed(
                    f"{where}: the page shows\n{block.text}\nand the commands printed\n{self.printed}"
                )
        elif block.kind == "sh":
            self.printed = ""
            self.shell(block.text, where)
        elif block.kind == "console":
            for command, output in exchanges(block.text):
                self.printed = ""
                self.shell(command, where)
                if output.strip() and not shows(output, self.printed):
                    raise Failed(f"{where}: the page shows\n{output}\nand {command} printed\n{self.printed}")
        elif block.kind == "python":
            self.printed = self.day.python(self.filled(block.text, where), where)
            self.all_printed += self.printed
        else:
            raise Failed(f"{where}: nothing says what this block is\n{block.text}")

        for begins, part in self.page.prints.items():
            if block.text.startswith(begins) and part not in self.printed:
                raise Failed(f"{where}: {part!r} is not in what was printed\n{self.printed}")

    def _first(self, text: str, where: str) -> None:
        for part, command in self.page.first.items():
            if part in text:
                self.printed = self.day.run(self.filled(command, where), where)

    def shell(self, text: str, where: str) -> None:
        """Run the commands of a block; what runs until it is stopped, in a terminal of its own."""
        waiting = ""
        for line in _lines(text):
            if any(text in line for text in self.page.first):
                self._run(waiting, where)
                waiting = ""
                self._first(line, where)
            if SERVERS.match(line):
                if self.page.alone == "one at a time":
                    self.day.stop_all()
                self._run(waiting, where)
                waiting = ""
                self._keep(self.day.serve(self.filled(line, where).strip(), where))
            else:
                command = re.sub(r"\s+#.*", "", line.rstrip("\n")).strip()
                status = next((s for begins, s in self.page.exits.items() if command.startswith(begins)), 0)
                if any(placeholder in line for placeholder in self.page.replace):
                    self._run(waiting, where)  # the placeholder may stand for what it prints
                    waiting = ""
                filled = self.filled(line, where)
                waiting += filled if not status else f"{filled.rstrip()} || [ $? = {status} ]\n"
        self._run(waiting, where)

    def _run(self, script: str, where: str) -> None:
        if script.strip():
            self._keep(self.day.run(script, where))

    def _keep(self, output: str) -> None:
        self.printed += output
        self.all_printed += output

    def filled(self, text: str, where: str) -> str:
        """The text with what its placeholders stand for."""
        for placeholder, value in self.page.replace.items():
            if placeholder not in text:
                continue
            if isinstance(value, Latest):
                found = re.findall(value.pattern, self.all_printed, re.MULTILINE)
                if not found:
                    raise Failed(
                        f"{where}: nothing that was printed can be {placeholder}\n{self.all_printed}"
                    )
                value = str(found[-1])
            elif isinstance(value, Shell):
                value = self.day.run(value.command, where).strip()
            text = text.replace(placeholder, value)
        return text


def _lines(text: str) -> Iterator[str]:
    """The lines of a script, each with those that continue it."""
    line = ""
    for each in text.splitlines(keepends=True):
        line += each
        if not each.endswith(("\\\n", "|\n")):
            yield line
            line = ""
    if line:
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.firstday")
    parser.add_argument("pages", nargs="*")
    parser.add_argument("--follow", action="store_true", help="read pages from standard input")
    parser.add_argument("--go-on", action="store_true", help="do not end with the first failure")
    parser.add_argument("--installed", type=Path, help="the environment to use, in place of this one")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        unshare = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork"]
        unshare += ["--mount-proc", "--kill-child"]
        os.execvp("unshare", [*unshare, sys.executable, "-m", "tests.firstday", "--inside", *sys.argv[1:]])
    known = {page.path: page for page in PAGES}
    with tempfile.TemporaryDirectory(prefix="kf-day-") as folder:
        isolate(Path(folder))
        with contextlib.ExitStack() as stack:
            stack.callback(release, Path(folder))
            day = stack.enter_context(Day(Path(folder), arguments.installed))
            wanted = (line.strip() for line in sys.stdin) if arguments.follow else arguments.pages or known
            for name in wanted:
                if missing := known[name].missing():
                    print(f"{name}: not followed, because there is no {', '.join(missing)}", flush=True)
                    continue
                began, before = time.monotonic(), sum(os.times()[:4])
                try:
                    Reader(day, known[name]).follow()
                    failure = ""
                except Failed as error:
                    failure = str(error)
                if arguments.follow:
                    print(json.dumps(failure), flush=True)
                elif failure and not arguments.go_on:
                    sys.exit(failure)
                elif failure:
                    print(f"{name}: NOT as it says\n{failure}", flush=True)
                else:
                    used = sum(os.times()[:4]) - before
                    print(
                        f"{name}: as it says ({time.monotonic() - began:.1f} s, {used:.1f} s of CPU)",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
