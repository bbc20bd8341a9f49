"""What `keyfront rotation` prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from keyfront.cli.durations import duration_text
from keyfront.cli.output import iso_text, minute_text, print_columns, print_json, print_note, print_warning
from keyfront.errors import CustodyUnavailable

if TYPE_CHECKING:
    from keyfront.custody.key_record import Entry, RotationPolicy
    from keyfront.lifecycle.executor import Outcome, RotationExecutor
    from keyfront.lifecycle.facts import Facts
    from keyfront.lifecycle.forecast import Planned
    from keyfront.lifecycle.rotation import Done, Step, Wait


ACTION_NEEDED = 3
"""Exit status if someone must act before the rotation can continue."""


def step_with_retries(executor: RotationExecutor, group: str) -> Outcome:
    """Perform the next step of a group, even if custody is unavailable for a moment."""
    for pause in (0.5, 2.0):
        try:
            return executor.step(group)
        except CustodyUnavailable:
            time.sleep(pause)
    return executor.step(group)


def print_step(group: str, outcome: Outcome, as_json: bool) -> None:
    """Print the step that was performed or failed, if there is one."""
    step = outcome.taken
    if step is None:
        return
    if as_json:
        _print_json_line({"group": group, **_step_json(step), "error": outcome.error or None})
    elif outcome.error:
        print_warning(f"{group}: {step.action.value} {step.name} failed: {outcome.error}")
    else:
        id_ = f" ({step.key_pair_id})" if step.key_pair_id else ""
        click.echo(f"{group}: {step.action.value} {step.name}{id_}: {step.reason}")


def print_wait(group: str, wait: Wait | None, as_json: bool) -> None:
    """Print what the rotation waits for."""
    if as_json:
        _print_json_line({"group": group, "waits": _wait_json(wait)})
    elif wait is None:
        click.echo(f"{group}: nothing to do")
    else:
        click.echo(f"{group}: {'! ' if wait.attention else ''}{wait.reason}")


def print_status(executor: RotationExecutor, groups: list[str], as_json: bool) -> int:
    from keyfront.lifecycle.rotation import Step, Wait, next_step

    shown, action_needed = [], False
    for group in groups:
        facts = executor.facts(executor.versioned(group))
        found = next_step(facts, executor.now())
        action_needed = action_needed or (isinstance(found, Wait) and found.attention)
        if as_json:
            shown.append(_status_json(facts, found, executor.api.endpoint))
            continue
        record = facts.record
        click.echo(f"{record.group}  {record.key_group_id}  {executor.api.endpoint}")
        print_columns(
            ("key", "id", "stage", "since", "until", "custody"),
            [_row(facts, entry) for entry in record.entries],
        )
        if isinstance(found, Step):
            click.echo(f"next: {found.action.value} {found.name}: {found.reason}")
        elif isinstance(found, Wait):
            click.echo(f"{'! ' if found.attention else ''}{found.reason}")
        else:
            click.echo("nothing to do")
    if as_json:
        print_json(shown)
    elif not groups:
        print_note("no key group is rotated")
    return ACTION_NEEDED if action_needed else 0


def _row(facts: Facts, entry: Entry) -> tuple[str, ...]:
    from keyfront.custody.key_record import Stage
    from keyfront.lifecycle.key_names import name_of

    since = {
        Stage.CREATED: entry.created,
        Stage.PUBLISHED: entry.published,
        Stage.SIGNING: entry.signing,
        Stage.DRAINING: entry.draining,
        Stage.RETIRED: entry.retired,
    }[entry.stage]
    until = facts.trusted_until(entry) if entry.stage is Stage.DRAINING else 0.0
    notes = " compromised" if entry.compromised else " leaving" if entry.leaving and not entry.retired else ""
    return (
        name_of(entry.uri),
        entry.key_pair_id or "-",
        entry.stage.value + notes,
        minute_text(since, "-"),
        minute_text(until, ""),
        entry.uri,
    )


def print_rotation_plan(
    executor: RotationExecutor, steps: tuple[Planned, ...], then: Wait | Done, *, as_json: bool
) -> int:
    from keyfront.lifecycle.rotation import Wait

    if as_json:
        planned = [{"at": iso_text(each.at), **_step_json(each.step)} for each in steps]
        print_json({"steps": planned, "then": _wait_json(then if isinstance(then, Wait) else None)})
    else:
        print_columns(
            ("not before", "step", "key", "why"),
            [
                (minute_text(each.at, "-"), each.step.action.value, each.step.name, each.step.reason)
                for each in steps
            ],
        )
        click.echo(f"then: {then.reason}" if isinstance(then, Wait) else "then: nothing")
    return ACTION_NEEDED if isinstance(then, Wait) and then.attention else 0


def _status_json(facts: Facts, found: Step | Wait | Done, endpoint: str) -> dict[str, Any]:
    from keyfront.lifecycle.key_names import name_of
    from keyfront.lifecycle.rotation import Step, Wait

    record = facts.record
    return {
        "group": record.group,
        "key_group_id": record.key_group_id,
        "endpoint": endpoint,
        "terms": policy_json(record.terms),
        "keys": [
            {
                "name": name_of(entry.uri),
                "id": entry.key_pair_id or None,
                "stage": entry.stage.value,
                "compromised": entry.compromised,
                "uri": entry.uri,
                **{
                    name: iso_text(getattr(entry, name))
                    for name in (
                        "created",
                        "published",
                        "signing",
                        "draining",
                        "drain_until",
                        "leaving",
                        "retired",
                    )
                },
            }
            for entry in record.entries
        ],
        "next": _step_json(found) if isinstance(found, Step) else None,
        "waits": _wait_json(found if isinstance(found, Wait) else None),
    }


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "step": step.action.value,
        "key": step.name,
        "id": step.key_pair_id or None,
        "reason": step.reason,
    }


def _wait_json(wait: Wait | None) -> dict[str, Any] | None:
    if wait is None:
        return None
    return {"reason": wait.reason, "until": iso_text(wait.until), "attention": wait.attention}


def policy_json(terms: RotationPolicy) -> dict[str, Any]:
    every = terms.every if isinstance(terms.every, str) else duration_text(terms.every)
    return {
        "custody": terms.place,
        "algorithm": terms.algorithm,
        "hash": terms.hash_name,
        "every": every or "never",
        "overlap": duration_text(terms.overlap),
        "max_lifetime": duration_text(terms.max_lifetime),
        "max_staleness": duration_text(terms.max_staleness),
        "settle": duration_text(terms.settle),
        "grace": duration_text(terms.grace),
        "application": terms.application,
        "paused": terms.paused,
    }


def _print_json_line(value: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(value))
