"""What `keyfront backup` prints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from keyfront.backup.archive.container import Manifest
    from keyfront.backup.archive.names import Name
    from keyfront.backup.capture import Archive
    from keyfront.backup.create import Outcome
    from keyfront.backup.drill import Report
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
                click.echo(f"not included: {text}")
    for text in (*outcome.trouble, *outcome.notes):
        click.echo(f"keyfront: {text}", err=True)


def archives_json(found: Mapping[Name, int]) -> list[dict[str, Any]]:
    return [
        {
            "Archive": str(name),
            "Taken": iso(name.taken),
            "Installation": name.origin,
            "Snapshot": name.snapshot,
            "Holds": name.holds,
            "Bytes": size,
        }
        for name, size in found.items()
    ]


def print_archives(found: Mapping[Name, int]) -> None:
    for name, size in found.items():
        click.echo(
            f"{iso(name.taken)}  installation {name.origin}  snapshot {name.snapshot}  {size_text(size)}  {name}"
        )
    if not found:
        click.echo("none", err=True)


def archive_json(name: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "Archive": name,
        "Taken": iso(manifest.taken),
        "Keyfront": manifest.keyfront,
        "Host": manifest.host,
        "Data": manifest.data,
        "Store": manifest.store,
        "Schema": manifest.schema,
        "Snapshot": manifest.snapshot,
        "Audit": manifest.audit,
        "Contains": manifest.counts,
        "Missing": list(manifest.missing),
        "Proofs": len(manifest.proofs),
    }


def print_verified(name: str, manifest: Manifest) -> None:
    click.echo(f"{name} is intact, and restores snapshot {manifest.snapshot}")
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
        click.echo(f"  not included: {text}")


def print_drill(name: str, report: Report) -> None:
    click.echo(f"{name} became a Keyfront with snapshot {report.snapshot} in {report.seconds:.1f} s")
    for result in report.results:
        how = f"{result.where} ({result.how}, key {result.key_pair_id})"
        click.echo(f"  FAILED {how}: {result.fault}" if result.fault else f"  opens  {how}")
    for behavior in report.not_asked:
        click.echo(f"  NOT ASKED {behavior}: give a signed URL for it, with --url")


_MARKS = {"add": "+", "change": "~", "remove": "-"}


def print_plan(plan: Plan, archive: Archive, folder: Path) -> None:
    manifest = archive.manifest
    click.echo(f"{iso(manifest.taken)}, snapshot {manifest.snapshot}, onto {folder}:")
    for change in plan.changes:
        text = f"  {_MARKS[change.kind]} {change.what} {change.name}"
        click.echo("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
    if not plan.changes:
        click.echo("  no changes")
    click.echo(f"  audit log: {plan.audit}")
    for note in plan.notes:
        click.echo(f"  note: {note}")


def size_text(count: int) -> str:
    if count < 1 << 20:
        return f"{count / 1024:.1f} KiB"
    return f"{count / (1 << 20):.1f} MiB"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
