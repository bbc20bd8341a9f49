"""Rendering of the templates in the package, with escaping on, and the filters that they use."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from keyfront.console.guard import BASE

FOLDER = Path(__file__).parent / "templates"


def make_environment() -> Environment:
    """The templates, compiled when they are first used, and never read again."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "size": size, "span": span, "percent": percent, "when": when}
    environment.filters |= {"pretty": pretty, "moment": moment}
    environment.globals["base"] = BASE
    return environment


def count(number: float) -> str:
    """12345 as `12,345`."""
    return f"{number:,.0f}"


def size(number: float) -> str:
    """Bytes with a unit: `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def span(seconds: float) -> str:
    """A duration in its largest unit, with a space that does not break: `3 d`, `5 h`, `12 min`."""
    seconds = abs(seconds)
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds // length:.0f}\u00a0{unit}"
    return f"{seconds:.0f}\u00a0s"


def percent(share: float) -> str:
    """A share (0 to 1) in percent, with more digits where they matter."""
    return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.1%}" if share >= 0.001 else "<0.1%"


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def moment(time: float) -> Markup:
    """Epoch seconds as an element `time` in UTC with seconds, for what happened just now."""
    found = datetime.fromtimestamp(float(time), UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        found.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), found.strftime("%Y-%m-%d %H:%M:%S")
    )


def when(moment: Any) -> Markup | str:
    """Epoch seconds or a datetime as an element `time` in UTC; a dash for none."""
    if not moment:
        return "–"
    found = moment if isinstance(moment, datetime) else datetime.fromtimestamp(float(moment), UTC)
    found = found.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        found.strftime("%Y-%m-%dT%H:%M:%SZ"), found.strftime("%Y-%m-%d %H:%M UTC")
    )
