"""A plan, for people and for programs. Neither form contains secrets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from keyfront.declared.diff import Difference
from keyfront.declared.plan import Named, Plan, Step, called
from keyfront.declared.resources import ROWS
from keyfront.errors import KeyLoadError
from keyfront.signing.keys import load_public_key

HIDDEN = "(hidden)"

_MARKS = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "disable": ("~", "red"),
    "delete": ("-", "bold red"),
}
_DULL = ("CallerReference", "Enabled")
"""Members of a created resource that are not worth showing."""
_DONE = {"create": "created", "update": "changed", "disable": "disabled", "delete": "deleted"}


def plain(text: str) -> str:
    """`text` without characters that a terminal would interpret instead of showing."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


class Hider:
    """Keeps secrets out of the output: the values of secret variables, wherever they appear, and of headers that
    origins trust."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted(secrets, key=len, reverse=True)

    def text(self, text: str) -> str:
        for secret in self._secrets:
            if text == secret or len(secret) > 5:  # a short one would occur in ordinary words
                text = text.replace(secret, HIDDEN)
        return plain(text)

    def value(self, value: Any, member: str = "") -> Any:
        """`value` for JSON, without secrets, and with the fingerprint in place of a public key."""
        if isinstance(value, Mapping):
            return {str(key): self.value(inner, str(key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, member) for item in value]
        if isinstance(value, Named):
            return value.label
        if not isinstance(value, str):
            return value
        if member == "HeaderValue":
            return HIDDEN
        if member == "EncodedKey":
            return _key(value)
        return self.text(value)

    def difference(self, difference: Difference) -> dict[str, Any]:
        member = difference.path.rpartition(".")[2]
        return {
            "path": difference.path,
            "before": self.value(difference.before, member),
            "after": self.value(difference.after, member),
        }


def _key(pem: str) -> str:
    try:
        key = load_public_key(pem)
    except KeyLoadError:
        return "a key that CloudFront would not accept"
    return f"{key.algorithm}, SHA-256 {key.fingerprint}"


def as_json(plan: Plan, endpoint: str, hide: Hider) -> dict[str, Any]:
    """The plan for programs."""
    return {
        "set_up": plan.owner,
        "endpoint": endpoint,
        "changes": [
            {
                "action": step.action,
                "kind": step.kind,
                "label": step.label,
                "id": step.id or None,
                "differences": [hide.difference(each) for each in step.differences],
            }
            for step in plan.steps
        ],
        "left_over": [{"kind": f.kind, "id": f.id, "name": called(f)} for f in plan.left_over],
        "notes": [hide.text(note) for note in plan.notes],
    }


def show(plan: Plan, endpoint: str, hide: Hider, console: Console) -> None:
    """Print the plan for people, in color on a terminal."""
    console.print(Text(plan.owner, "bold") + Text(f" at {endpoint}", "not bold"))
    for step in plan.steps:
        mark, style = _MARKS[step.action]
        console.print(Text(f"{mark} ", style) + title(step))
        for each in step.differences:
            line = _line(each, hide, created=step.action == "create")
            if line is not None:
                console.print(Text("      ") + line)
    for note in plan.notes:
        console.print(Text("! ", "bold yellow") + Text(hide.text(note)))
    for found in plan.left_over:
        name = f"{ROWS[found.kind].title} {plain(called(found))} ({found.id})"
        console.print(Text("? ", "dim") + Text(f"left over: {name}; --delete deletes it"))
    console.print(Text(summary(plan)))


def title(step: Step) -> Text:
    id_ = f" ({step.id})" if step.id else ""
    suffix = " is disabled" if step.action == "disable" else ""
    return Text(f"{ROWS[step.kind].title} ") + Text(plain(step.label), "bold") + Text(f"{id_}{suffix}")


def done(step: Step, id_: str) -> str:
    return f"{ROWS[step.kind].title} {plain(step.label)} ({id_}): {_DONE[step.action]}"


def summary(plan: Plan) -> str:
    if not plan.changes:
        return "no changes"
    counts = {action: sum(step.action == action for step in plan.steps) for action in _DONE}
    return f"{counts['create']} to create, {counts['update']} to change, {counts['delete']} to delete"


def _line(difference: Difference, hide: Hider, *, created: bool) -> Text | None:
    shown = hide.difference(difference)
    before, after = shown["before"], shown["after"]
    path = Text(difference.path)
    if created:
        dull = after in ("", []) or path.plain in _DULL or path.plain.endswith("TrustedKeyGroups.Enabled")
        return None if dull else path + Text(f"  {_value_text(after)}", "green")
    if (
        isinstance(difference.before, list)
        and isinstance(difference.after, list)
        and ": order" not in difference.path
    ):
        more = [f"+{_value_text(item)}" for item in after if item not in before]
        less = [f"-{_value_text(item)}" for item in before if item not in after]
        if more or less:
            return (
                path + Text("  " + " ".join(more), "green") + Text(" " * bool(more) + " ".join(less), "red")
            )
    if after is None:
        return path + Text(
            "  gone" if isinstance(before, Mapping) else f"  {_value_text(before)} → nothing", "red"
        )
    if before is None:
        return path + Text(f"  nothing → {_value_text(after)}", "green")
    return path + Text(f"  {_value_text(before)}", "red") + Text(" → ") + Text(_value_text(after), "green")


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_value_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} {_value_text(inner)}" for key, inner in value.items()) + "}"
    return '""' if value == "" else str(value)
