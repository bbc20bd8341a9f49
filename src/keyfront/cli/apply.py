"""`keyfront plan` and `keyfront apply`: read the file, query the API, plan, and perform the steps.

The result goes to standard output, as text or as one JSON document; errors go to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from keyfront.cli import plan_output
from keyfront.cli.account import Selection, choose
from keyfront.cli.output import print_warning
from keyfront.cli.plan_output import Hider
from keyfront.declared.account import Account
from keyfront.declared.desired import Setup, secret_values, setup
from keyfront.declared.document import Document, read
from keyfront.declared.plan import Facts, Plan, Step, plan
from keyfront.declared.resources import ROWS
from keyfront.declared.translate import LARGEST
from keyfront.errors import AccountError, DeclarationError, KeyfrontError, SettingsError


class ApplyOptions(msgspec.Struct, frozen=True):
    """The options of both commands."""

    file: Path
    environment: str
    given: tuple[str, ...]
    selection: Selection
    delete: bool
    destroy: bool
    adopt: bool


class Job:
    """A file, an account, and the plan between them.

    :raises DeclarationError: if the file is invalid.
    :raises SettingsError: if nothing names an API.
    :raises AccountError: if the API refuses, or is unreachable.
    """

    def __init__(self, options: ApplyOptions) -> None:
        self._options = options
        self._document = _read(options)
        self.setup = (
            Setup(self._document.owner)
            if options.destroy
            else setup(self._document, lambda path: _load(options.file.parent / path))
        )
        self.hide = Hider(self._document.secrets | secret_values(self.setup))
        chosen = choose(_selection(options.selection, self._document.endpoint_url))
        self.account = Account(chosen.endpoint_url, chosen.profile, chosen.credentials)
        self.plan, self.facts = self.compare()

    def compare(self) -> tuple[Plan, Facts]:
        """Query what exists, and plan what to do about it."""
        try:
            facts = self.account.facts(self.setup, adopt=self._options.adopt)
        except AccountError as error:
            raise AccountError(self.hide.text(str(error))) from None
        found = plan(
            self.setup,
            facts,
            self._document.places,
            self._document.file,
            time.time(),
            delete=self._options.delete or self._options.destroy,
            adopt=self._options.adopt,
        )
        return found, facts

    def as_json(self, found: Plan) -> dict[str, Any]:
        return plan_output.as_json(found, self.account.endpoint, self.hide)

    def show(self, console: Console) -> None:
        plan_output.show(self.plan, self.account.endpoint, self.hide, console)
        for title in self.account.unseen:
            print_warning(
                f"listing {title} is not allowed: those that this setup has left over are not shown"
            )


def _selection(given: Selection, declared: str) -> Selection:
    """The options' choice of an API. The address that the file declares counts if no option chooses another API."""
    if given.endpoint_url or given.aws or given.data is not None:
        return given
    return msgspec.structs.replace(given, endpoint_url=declared)


def _load(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST + 1)


def _read(options: ApplyOptions) -> Document:
    try:
        text = options.file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DeclarationError(f"{options.file}: {error.strerror or 'cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise DeclarationError(f"{options.file}: this is not UTF-8 text, so it is not TOML") from error
    return read(
        text,
        str(options.file),
        kinds=ROWS,
        environment=options.environment,
        given=options.given,
        surroundings=os.environ,
        bare=options.destroy,
    )


def show_plan(*, as_json: bool, detailed_exitcode: bool, **options: Any) -> int:
    """`keyfront plan`; the exit status."""
    try:
        job = Job(ApplyOptions(**options))
    except (AccountError, DeclarationError, SettingsError) as error:
        return _fail(error, 1 if detailed_exitcode else _status(error))
    if as_json:
        click.echo(json.dumps(job.as_json(job.plan), indent=2))
    else:
        job.show(_console())
    return 2 if detailed_exitcode and job.plan.changes else 0


def apply_plan(*, as_json: bool, yes: bool, wait: bool, timeout: float, **options: Any) -> int:
    """`keyfront apply`; the exit status."""
    try:
        job = Job(ApplyOptions(**options))
    except (AccountError, DeclarationError, SettingsError) as error:
        return _fail(error, _status(error))
    console = _console()
    if not as_json:
        job.show(console)
    if job.plan.changes and not yes:
        if as_json or not sys.stdin.isatty():
            return _fail(
                DeclarationError("standard input is not a terminal, so nobody can confirm: give --yes"), 2
            )
        click.confirm("Apply this plan?", abort=True)
    taken: list[str] = []
    remains, facts = job.plan, job.facts
    try:
        for step in job.plan.steps:
            taken.append(plan_output.done(step, job.account.take(step, timeout)))
            if not as_json:
                console.print(Text("✓ ", "green") + Text(taken[-1]))
        if wait:
            job.account.wait(job.account.distributions(job.setup.owner), timeout)
        if taken or wait:
            remains, facts = job.compare()
    except (AccountError, DeclarationError, KeyboardInterrupt) as error:
        stopped = job.hide.text(str(error)) or "interrupted"
        left = _not_done(job.plan.steps[len(taken) :])
        if as_json:
            report = {**job.as_json(job.plan), "done": taken, "failed": stopped, "not_done": left}
            click.echo(json.dumps(report, indent=2))
        _explain_stop(stopped, len(taken), left)
        return 1
    resources = _resources(job.setup, remains, facts)
    left_differences = job.as_json(remains)["changes"]
    if as_json:
        report = {
            **job.as_json(job.plan),
            "done": taken,
            "remaining": left_differences,
            "resources": resources,
        }
        click.echo(json.dumps(report, indent=2))
    else:
        for each in resources:
            where = "".join(f"  {each[key]}" for key in ("domain_name", "status") if key in each)
            console.print(Text(f"  {ROWS[each['kind']].title} {each['label']}  {each['id']}{where}"))
    for change in left_differences:
        paths = ", ".join(each["path"] for each in change["differences"])
        print_warning(
            f"{ROWS[change['kind']].title} {change['label']} still differs in {paths}: someone else has changed it, "
            "or the API writes it in another form; then use that form in the file"
        )
    return 0


def _resources(wanted: Setup, found: Plan, facts: Facts) -> list[dict[str, Any]]:
    """The setup's resources that exist, by their labels in the file and in its order."""
    order = {each.path: at for at, each in enumerate(wanted.desired)}
    there = [each for kind in facts.values() for each in kind if each.id in found.labels]
    return [
        {
            "kind": each.kind,
            "label": found.labels[each.id],
            "id": each.id,
            **({"domain_name": each.domain_name, "status": each.status} if each.domain_name else {}),
        }
        for each in sorted(there, key=lambda each: order[each.kind, found.labels[each.id]])
    ]


def _not_done(steps: tuple[Step, ...]) -> list[str]:
    return [f"{step.action} {ROWS[step.kind].title} {step.label}" for step in steps]


def _explain_stop(message: str, done: int, left: list[str]) -> None:
    lines = [f"stopped at: {left[0]}" if left else "stopped", *(f"  {line}" for line in message.splitlines())]
    if left:
        lines.append(
            f"{done} of {done + len(left)} steps are done and remain in effect; not done: {'; '.join(left)}"
        )
    lines.append("when the cause is fixed, run the same command again: it continues from here")
    for line in lines:
        print_warning(line)


def _status(error: KeyfrontError) -> int:
    return 1 if isinstance(error, AccountError) else 2


def _fail(error: KeyfrontError, status: int) -> int:
    for line in str(error).splitlines():
        print_warning(line)
    return status


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
