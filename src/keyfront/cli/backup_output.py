"""What `keyfront backup` prints."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from keyfront.backup.archive.container import Manifest
    from keyfront.backup.capture import Archive
    from keyfront.backup.create import Outcome
    from keyfront.backup.restore.plan import Plan


def print_created(outcome: Outcome, quiet: bool) -> None:
    if not quiet:
        if outcome.name:
            click.echo(
                f"{outcome.name} ({size_text(outcome.size)}) is verified, in {' and '.join(outcome.made)}"
            )
        for place in outcome.unchanged:
            click.echo(f"nothing has changed since the last archive in {place}")
        for removed in outcome.removed:
            click.echo(f"removed {removed}")
        for text in outcome.missing:
            if text not in outcome.trouble:
                click.echo(f"not in it: {text}")
    for text in (*outcome.trouble, *outcome.notes):
        click.echo(f"keyfront: {text}", err=True)


def print_complete(name: str, manifest: Manifest) -> None:
    click.echo(f"{name} is whole, and makes snapshot {manifest.snapshot} when it is restored")
    click.echo(
        f"  taken {iso(manifest.taken)} by Keyfront {manifest.keyfront} on {manifest.host} of {manifest.store}"
    )
    counts = manifest.counts
    click.echo(
        f"  {counts.get('store/resource', 0)} resources, {counts.get('store/audit', 0)} audit records, "
        f"{counts.get('files', 0)} files, {counts.get('records', 0)} records, {counts.get('keys', 0)} private keys, "
        f"{len(manifest.proofs)} proofs"
    )
    click.echo(f"  audit anchor {manifest.audit}")
    for text in manifest.missing:
        click.echo(f"  not in it: {text}")


_MARKS = {"add": "+", "change": "~", "remove": "-"}


def print_plan(plan: Plan, archive: Archive, folder: Path) -> None:
    manifest = archive.manifest
    click.echo(f"{iso(manifest.taken)}, snapshot {manifest.snapshot}, onto {folder}:")
    for change in plan.changes:
        text = f"  {_MARKS[change.deed]} {change.what} {change.name}"
        click.echo("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
    if not plan.changes:
        click.echo("  nothing but what is there already")
    click.echo(f"  audit log: {plan.audit}")
    for note in plan.notes:
        click.echo(f"  note: {note}")


def size_text(count: int) -> str:
    if count < 1 << 20:
        return f"{count / 1024:.1f} KiB"
    return f"{count / (1 << 20):.1f} MiB"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
