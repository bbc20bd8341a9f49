"""How commands print what they list: in columns for people, as JSON for programs."""

from __future__ import annotations

import json
from typing import Any

import click


def print_columns(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """One line a row, so that grep and awk can read it. Says `none` on standard error, if there are none."""
    if not rows:
        click.echo("none", err=True)
        return
    widths = [max(len(row[number]) for row in (heads, *rows)) for number in range(len(heads))]
    for row in (heads, *rows):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
