"""How commands print: results to standard output, in columns for people and as JSON for programs; messages to standard
error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click


def print_columns(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print one line per row, so that grep and awk can read it. Without rows, print `none` to standard error."""
    if not rows:
        click.echo("none", err=True)
        return
    widths = [max(len(row[number]) for row in (heads, *rows)) for number in range(len(heads))]
    for row in (heads, *rows):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def print_note(text: str) -> None:
    """Print what a command has done, to standard error."""
    click.echo(text, err=True)


def print_warning(text: str) -> None:
    """Print `keyfront: TEXT` to standard error."""
    click.echo(f"keyfront: {text}", err=True)


def minute_text(seconds: float | None, missing: str) -> str:
    """Epoch seconds as `YYYY-MM-DD HH:MM` in UTC; `missing` for None and 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else missing


def iso_text(seconds: float | None) -> str | None:
    """Epoch seconds as ISO 8601 in UTC, to the second; None for None and 0."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None
