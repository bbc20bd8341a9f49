"""The planner: it computes the steps from the current state to the desired one. Pure, so a plan can be read first.

1. Each desired resource is found again by its name (distributions by caller reference). A resource that is found and
   has another mark, or none, belongs to someone else: it is not touched unless it is to be adopted.
2. Names become IDs where there is one. A resource yet to be created stays `Named`, and gets its ID when the step is
   taken.
3. Both configs are completed as the API completes them, and compared.
4. Steps are in the order that the API requires: creations and changes from keys to distributions, then distributions
   disabled, then deletions from distributions to keys. A distribution that gives up an alias is changed before the one
   that takes it.
5. A resource that has our mark and is not desired is left over. It is deleted only if deletion was requested.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from keyfront.declared.desired import Desired, NamedReference, Setup, owner_of, references
from keyfront.declared.diff import Difference, differences, leaves
from keyfront.declared.locations import Places
from keyfront.declared.problems import Faults, nearest
from keyfront.declared.resources import RANK, ROWS, Row
from keyfront.errors import KeyLoadError
from keyfront.model import managed
from keyfront.model.exposure import guarding_pattern, page_warning
from keyfront.signing.keys import load_public_key

DAY = 86_400


class Named(msgspec.Struct, frozen=True):
    """The ID of a resource that is yet to be created."""

    kind: str
    label: str
    prefix: str = ""


class Found(msgspec.Struct, frozen=True):
    """An existing resource. `config` and `tags` are None if they were not requested. `created` is epoch seconds.
    `managed` marks CloudFront's own policies. Only distributions have the last three fields."""

    kind: str
    id: str
    name: str
    comment: str
    created: float = 0
    managed: bool = False
    config: dict[str, Any] | None = None
    tags: dict[str, str] | None = None
    aliases: tuple[str, ...] = ()
    domain_name: str = ""
    status: str = ""

    @property
    def owner(self) -> str:
        return "" if self.managed else owner_of(self.comment)


Facts = Mapping[str, tuple[Found, ...]]
"""The existing resources, by kind."""

MANAGED = {
    "CachePolicy": managed.CACHE_POLICIES,
    "OriginRequestPolicy": managed.ORIGIN_REQUEST_POLICIES,
    "ResponseHeadersPolicy": managed.RESPONSE_HEADERS_POLICIES,
}


def managed_policies(kind: str) -> tuple[Found, ...]:
    """Return CloudFront's own policies, whose IDs are the same everywhere: for callers that may not list them."""
    return tuple(
        Found(kind=kind, id=id_, name=config["Name"], comment="", managed=True)
        for id_, config in MANAGED[kind].items()
    )


Action = Literal["create", "update", "disable", "delete"]


def called(found: Found) -> str:
    """Return the readable name of a resource: its name, or the label in its caller reference if the reference is one of
    ours."""
    reference = str((found.config or {}).get("CallerReference", ""))
    return found.name or reference.removeprefix(f"{found.owner}/") or found.id


class Step(msgspec.Struct, frozen=True):
    """One change. `config` is the API's complete config, with `Named` where IDs are not known yet. `before` is the
    config that was read; it must be unchanged when the step is taken."""

    action: Action
    kind: str
    label: str
    id: str = ""
    config: dict[str, Any] = {}
    before: dict[str, Any] = {}
    differences: tuple[Difference, ...] = ()
    tags: dict[str, str] | None = None
    untag: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """`left_over` are our resources that are not desired and stay. `notes` say what a change means for viewers, and
    which keys are due for replacement."""

    owner: str
    steps: tuple[Step, ...] = ()
    left_over: tuple[Found, ...] = ()
    notes: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    """The file's labels of existing resources, by ID."""

    @property
    def changes(self) -> bool:
        return bool(self.steps)


def needed(setup: Setup, listed: Facts, *, adopt: bool) -> list[Found]:
    """Return the listed resources whose config `plan` needs."""
    found: list[Found] = []
    for row in ROWS.values():
        desired = [each for each in setup.desired if each.kind == row.name]
        names = {each.identity for each in desired} if row.identity != "CallerReference" else set()
        # Only the config contains the caller reference: if the file chooses one, or adopts, every config must be read.
        search = row.identity == "CallerReference" and any(each.chosen or adopt for each in desired)
        for found_ in listed.get(row.name, ()):
            ours = found_.owner == setup.owner
            if not found_.managed and (ours or found_.name in names or search):
                found.append(found_)
    return found


def plan(
    setup: Setup, facts: Facts, places: Places, file: str, now: float, *, delete: bool, adopt: bool
) -> Plan:
    """Return the steps from `facts` to `setup`.

    :param now: epoch seconds; the ages of keys are computed from it.
    :param delete: delete what is left over.
    :param adopt: take over resources that have a desired name and belong to someone else, or to no one.
    :raises DeclarationError: if a name refers to nothing, or to a resource that is not ours, or if a change is
        impossible.
    """
    faults = Faults(file, places)
    matches = {each.path: _match(each, facts, setup.owner, adopt, faults) for each in setup.desired}
    known = _Names(setup, facts, matches, faults)
    faults.check()
    steps: list[Step] = []
    for each in setup.desired:
        step = _step(each, matches[each.path], known, faults)
        if step is not None:
            steps.append(step)
    _aliases(setup, facts, matches, faults)
    faults.check()

    used = {found.id for found in matches.values() if found is not None}
    spare = [
        found
        for kind in ROWS
        for found in facts.get(kind, ())
        if found.owner == setup.owner and found.id not in used | known.referenced
    ]
    gone = spare if delete else []
    return Plan(
        owner=setup.owner,
        steps=(*_ordered(steps), *_deletions(gone)),
        left_over=() if delete else tuple(spare),
        notes=(*_meaning(steps, known), *_exposed(steps), *_due(setup, matches, now)),
        labels=known.labels,
    )


def _match(desired: Desired, facts: Facts, owner: str, adopt: bool, faults: Faults) -> Found | None:
    row = ROWS[desired.kind]
    for found in facts.get(desired.kind, ()):
        there = (found.config or {}).get(row.identity) if row.identity == "CallerReference" else found.name
        if there != desired.identity:
            continue
        if found.managed:
            faults.add(
                desired.path, f"{desired.identity} is a policy of CloudFront's own: choose another Name"
            )
        elif found.owner != owner and not adopt:
            whose = f"is the set-up {found.owner}'s" if found.owner else "bears no mark of this set-up"
            faults.add(
                desired.path,
                f"there is a {row.title} {found.id} of this {row.identity} already, which {whose}: "
                "--adopt takes it over",
            )
        return found
    return None


class _Names:
    """The meaning of references, and the names of IDs."""

    def __init__(
        self, setup: Setup, facts: Facts, matches: Mapping[Any, Found | None], faults: Faults
    ) -> None:
        self._facts = facts
        self._ids = {path: found.id for path, found in matches.items() if found is not None}
        self._desired = {each.path for each in setup.desired}
        self.labels = {found.id: str(path[1]) for path, found in matches.items() if found is not None}
        self._called = {found.id: found.name or found.id for kind in facts.values() for found in kind}
        self._called |= self.labels
        self.referenced: set[str] = set()
        """IDs that the file refers to."""
        for each in setup.desired:
            for reference in ROWS[each.kind].refers_to:
                for at, holder, key in references(each.config, reference):
                    named: NamedReference = holder[key]
                    found = self._candidates(named)
                    if not found:
                        self._refuse(named, (*each.path, *at), faults)
                    elif isinstance(found[0], str):
                        self.referenced.add(found[0])

    def _candidates(self, reference: NamedReference) -> list[Any]:
        path = (reference.kind, reference.text)
        if path in self._desired:
            return [self._ids.get(path) or Named(reference.kind, reference.text)]
        there = self._facts.get(reference.kind, ())
        return [f.id for f in there if f.name == reference.text] or [
            f.id for f in there if f.id == reference.text
        ]

    def _refuse(self, reference: NamedReference, at: tuple[str | int, ...], faults: Faults) -> None:
        title = ROWS[reference.kind].title if reference.kind in ROWS else reference.kind
        names = {str(label) for kind, label in self._desired if kind == reference.kind}
        names |= {found.name for found in self._facts.get(reference.kind, ()) if found.name}
        faults.add(at, f"there is no {title} {reference.text!r}{nearest(reference.text, names)}")

    def resolve(self, desired: Desired) -> dict[str, Any]:
        """Return the config with IDs, and `Named` for those not known yet."""
        config = copy.deepcopy(desired.config)
        for reference in ROWS[desired.kind].refers_to:
            for _, holder, key in references(config, reference):
                named: NamedReference = holder[key]
                found = self._candidates(named)[0]
                holder[key] = (
                    Named(found.kind, found.label, named.prefix)
                    if isinstance(found, Named)
                    else named.prefix + found
                )
        return config

    def call(self, value: Any) -> Any:
        """Return `value` with names in place of IDs, for display."""
        if isinstance(value, Named):
            return value.label
        if isinstance(value, str):
            return self._called.get(value, value)
        if isinstance(value, list):
            return [self.call(item) for item in value]
        if isinstance(value, Mapping):
            return {key: self.call(inner) for key, inner in value.items()}
        return value


def _step(desired: Desired, found: Found | None, known: _Names, faults: Faults) -> Step | None:
    row = ROWS[desired.kind]
    stated = known.resolve(desired)
    if found is None or found.config is None:
        return Step(
            action="create",
            kind=row.name,
            label=desired.label,
            config=_complete(row, stated),
            differences=tuple(Difference(path, None, known.call(value)) for path, value in leaves(stated)),
            tags=desired.tags,
        )
    if row.has_reference:  # it never changes, and matters only when a resource is created
        stated["CallerReference"] = found.config["CallerReference"]
    if row.name == "PublicKey" and _same_key(stated["EncodedKey"], found.config["EncodedKey"]):
        stated["EncodedKey"] = found.config["EncodedKey"]
    after = _complete(row, stated)
    changed = differences(_complete(row, found.config), after)
    for difference in changed:
        if difference.path in row.fixed:
            faults.add(
                (*desired.path, difference.path),
                f"a {row.title} never changes its {difference.path}: give it another {row.identity}"
                + (", or leave Name out, so that each key gets its own" if row.name == "PublicKey" else ""),
            )
    tags, untag = _tags(desired.tags, found.tags)
    changed += [Difference(f"Tags[{key}]", (found.tags or {}).get(key), text) for key, text in tags.items()]
    changed += [Difference(f"Tags[{key}]", (found.tags or {}).get(key), None) for key in untag]
    if not changed:
        return None
    return Step(
        action="update",
        kind=row.name,
        label=desired.label,
        id=found.id,
        config=after,
        before=found.config,
        differences=tuple(
            Difference(each.path, known.call(each.before), known.call(each.after)) for each in changed
        ),
        tags=tags or None,
        untag=untag,
    )


def _tags(
    wanted: dict[str, str] | None, there: dict[str, str] | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the tags to set and those to remove. AWS's own are left alone, and so are all tags if the file has no
    Tags."""
    if wanted is None:
        return {}, ()
    there = there or {}
    new = {key: text for key, text in wanted.items() if there.get(key) != text}
    return new, tuple(key for key in there if key not in wanted and not key.startswith("aws:"))


def _complete(row: Row, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config as the API would return it, plus any other members of `config`, so that nothing stated is
    dropped here."""
    return _keep(row.complete(config), config)  # type: ignore[no-any-return]


def _keep(complete: Any, stated: Any) -> Any:
    if isinstance(complete, Mapping) and isinstance(stated, Mapping):
        found = dict(complete)
        for member, value in stated.items():
            found[member] = _keep(complete[member], value) if member in complete else value
        return found
    if isinstance(complete, list) and isinstance(stated, list) and len(complete) == len(stated):
        ordered = all(isinstance(item, Mapping) for item in stated)
        return [_keep(*pair) for pair in zip(complete, stated, strict=True)] if ordered else complete
    return complete


def _same_key(one: str, other: str) -> bool:
    try:
        return load_public_key(one) == load_public_key(other)
    except KeyLoadError:
        return one.strip() == other.strip()


# ---- ordering


def _ordered(steps: Iterable[Step]) -> list[Step]:
    """Sort by kind. Among distributions, one that gives up an alias comes before the one that takes it."""
    waiting = sorted(steps, key=lambda step: RANK[step.kind])  # stable: the file's order within a kind
    found: list[Step] = []
    while waiting:
        free = next(
            (s for s in waiting if not any(_takes_from(s, o) for o in waiting if o is not s)), waiting[0]
        )
        first = waiting[0] if waiting[0].kind != "Distribution" else free
        waiting.remove(first)
        found.append(first)
    return found


def _takes_from(step: Step, other: Step) -> bool:
    if step.kind != "Distribution" or other.kind != "Distribution":
        return False
    had, has = _aliases_of(other.before), _aliases_of(other.config)
    return bool(_aliases_of(step.config) & (had - has))


def _aliases_of(config: Mapping[str, Any]) -> set[str]:
    return {str(alias).lower() for alias in (config.get("Aliases") or {}).get("Items") or ()}


def _aliases(setup: Setup, facts: Facts, matches: Mapping[Any, Found | None], faults: Faults) -> None:
    """Report aliases that belong to a distribution which this file does not change: they are not available."""
    ours = {found.id for found in matches.values() if found is not None}
    for each in setup.desired:
        if each.kind != "Distribution":
            continue
        for found in facts.get("Distribution", ()):
            taken = _aliases_of(each.config) & {alias.lower() for alias in found.aliases}
            if found.id in ours or not taken:
                continue
            stated = (found.config or {}).get("CallerReference", "")
            hint = (
                f"it is left over from this set-up: CallerReference = {stated!r} keeps it under the new label"
                if found.owner == setup.owner and stated
                else "it is not this set-up's"
            )
            names = ", ".join(sorted(taken))
            faults.add((*each.path, "Aliases"), f"the distribution {found.id} has {names} already; {hint}")


def _deletions(found: Iterable[Found]) -> list[Step]:
    going = sorted(found, key=lambda each: -RANK[each.kind])
    disable = [
        Step(
            action="disable",
            kind=each.kind,
            label=called(each),
            id=each.id,
            config={**(each.config or {}), "Enabled": False},
            before=each.config or {},
        )
        for each in going
        if (each.config or {}).get("Enabled")
    ]
    delete = []
    for each in going:
        before = dict(each.config or {})
        if "Enabled" in before:
            before["Enabled"] = False  # disabled by then
        delete.append(Step(action="delete", kind=each.kind, label=called(each), id=each.id, before=before))
    return [*disable, *delete]


# ---- notes to read before confirming


def _meaning(steps: Iterable[Step], known: _Names) -> Iterable[str]:
    for step in steps:
        if step.action != "update":
            continue
        title = ROWS[step.kind].title
        if step.kind == "KeyGroup":
            for id_ in step.before.get("Items", []):
                if id_ not in step.config["Items"]:
                    yield (
                        f"{title} {step.label}: what was signed with {known.call(id_)} ({id_}) is refused from then on"
                    )
        for each in step.differences:
            if each.path.endswith("TrustedKeyGroups") and not each.after:
                where = each.path.removesuffix(".TrustedKeyGroups")
                yield f"{title} {step.label}: {where} becomes public: it will require no signature"
            elif isinstance(each.before, Mapping) and each.before.get("TrustedKeyGroups", {}).get("Items"):
                yield (
                    f"{title} {step.label}: {each.path} goes, which required signatures: "
                    "its paths fall to the behaviors that remain"
                )


def _exposed(steps: Iterable[Step]) -> Iterable[str]:
    """Yield custom error pages that require a signature, and that viewers will see without one."""
    for step in steps:
        if step.kind != "Distribution" or step.action not in ("create", "update"):
            continue
        config = step.config
        listed = (config.get("CacheBehaviors") or {}).get("Items") or []
        every = [*listed, {**config["DefaultCacheBehavior"], "PathPattern": "*"}]
        behaviors = [
            (each["PathPattern"], bool((each.get("TrustedKeyGroups") or {}).get("Enabled"))) for each in every
        ]
        for page in (config.get("CustomErrorResponses") or {}).get("Items") or []:
            path = page.get("ResponsePagePath") or ""
            pattern = path and guarding_pattern(path, behaviors)
            if pattern:
                yield f"distribution {step.label}: {page_warning(page['ErrorCode'], path, pattern)}"


def _due(setup: Setup, matches: Mapping[Any, Found | None], now: float) -> Iterable[str]:
    for each in setup.desired:
        found = matches[each.path]
        if not each.rotation_days or found is None or not found.created:
            continue
        days = int((now - found.created) // DAY)
        if days >= each.rotation_days:
            yield (
                f"public key {each.label} ({found.id}) is {days} days old and due to be replaced: "
                f"rotation_days is {each.rotation_days}"
            )
