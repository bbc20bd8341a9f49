"""A declaration file read and planned without any API: the existing state is given as facts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keyfront.declared import document
from keyfront.declared.desired import Setup, setup
from keyfront.declared.document import Document
from keyfront.declared.plan import MANAGED, Facts, Found, Named, Plan, Step, managed_policies, plan
from keyfront.declared.resources import ROWS

KEYS = Path(__file__).parents[1] / "vectors" / "keys"
FILES = {f"{name}.pem": (KEYS / f"{name}.pub").read_bytes() for name in ("rsa", "ec", "other")}
FILES |= {"private.pem": (KEYS / "rsa.pem").read_bytes(), "secret.txt": b"hush-hush\r\n", "bytes": b"\xff"}
FILES["large"] = b"x" * (2**20 + 1)

NAME = 'name = "media"\n'

SITE = (
    NAME
    + """
[PublicKey.films]
EncodedKey = { file = "rsa.pem" }

[KeyGroup.viewers]
Items = ["films"]

[Distribution.site]
DefaultCacheBehavior.TargetOriginId = "app"
DefaultCacheBehavior.ViewerProtocolPolicy = "https-only"
DefaultCacheBehavior.CachePolicyId = "Managed-CachingOptimized"
DefaultCacheBehavior.TrustedKeyGroups = ["viewers"]

[[Distribution.site.Origins]]
Id = "app"
DomainName = "app.example.com"
CustomOriginConfig = { HTTPPort = 80, HTTPSPort = 443, OriginProtocolPolicy = "https-only" }
"""
)


def load(path: str) -> bytes:
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory")
    return FILES[path]


def read(text: str, environment: str = "", given: tuple[str, ...] = (), **surroundings: str) -> Document:
    return document.read(
        text, "site.toml", kinds=ROWS, environment=environment, given=given, surroundings=surroundings
    )


def wish(text: str, environment: str = "") -> Setup:
    return setup(read(text, environment), load)


def planned(
    text: str,
    facts: Facts | None = None,
    *,
    environment: str = "",
    now: float = 0,
    delete: bool = False,
    adopt: bool = False,
) -> Plan:
    declared = read(text, environment)
    there = {**{kind: managed_policies(kind) for kind in MANAGED}, **(facts or {})}
    return plan(setup(declared, load), there, declared.places, declared.file, now, delete=delete, adopt=adopt)


def taken(plan_: Plan, before: Facts | None = None) -> dict[str, tuple[Found, ...]]:
    """The state after the plan's steps: the API in its simplest form, with ids counted up."""
    there = {found.id: found for kind in (before or {}).values() for found in kind if not found.managed}
    made: dict[tuple[str, str], str] = {}
    for step in plan_.steps:
        if step.action == "delete":
            del there[step.id]
            continue
        id_ = step.id or f"{step.kind}-{len(there)}"
        made[step.kind, step.label] = id_
        there[id_] = found_of(step, id_, made, there.get(id_))
    return {
        kind: tuple(found for found in there.values() if found.kind == kind)
        + (managed_policies(kind) if kind in MANAGED else ())
        for kind in ROWS
    }


def found_of(step: Step, id_: str, made: Mapping[tuple[str, str], str], old: Found | None) -> Found:
    config: dict[str, Any] = _with_ids(step.config, made)
    tags = {**((old.tags if old else None) or {}), **(step.tags or {})}
    return Found(
        kind=step.kind,
        id=id_,
        name=config.get("Name", ""),
        comment=config[ROWS[step.kind].comment],
        created=old.created if old else 1_000_000.0,
        config=config,
        tags={key: text for key, text in tags.items() if key not in step.untag},
        aliases=tuple((config.get("Aliases") or {}).get("Items") or ()),
    )


def _with_ids(value: Any, made: Mapping[tuple[str, str], str]) -> Any:
    if isinstance(value, Named):
        return value.prefix + made[value.kind, value.label]
    if isinstance(value, dict):
        return {key: _with_ids(inner, made) for key, inner in value.items()}
    return [_with_ids(item, made) for item in value] if isinstance(value, list) else value


def lines_of(plan_: Plan) -> list[str]:
    """A plan in short form: `~ Distribution site: Enabled true → false`."""
    marks = {"create": "+", "update": "~", "disable": "0", "delete": "-"}
    lines = []
    for step in plan_.steps:
        lines.append(f"{marks[step.action]} {step.kind} {step.label}")
        if step.action == "update":
            lines += [f"    {d.path}: {d.before} → {d.after}" for d in step.differences]
    return lines
