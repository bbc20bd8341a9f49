"""The rules of data residency: which edges get which resources.

A distribution or key group that is tied to regions is only for edges in these regions; one that is not tied is for all
edges. An edge without a region gets only what is not tied. So every region has its own snapshot, derived here from the
whole one, with the same number.

A region's snapshot omits what is tied elsewhere, and everything that is needed only by that:

- a distribution, with its names, its origins and their secret headers, and its invalidations;
- a key group and its public keys, except keys that are also in a key group tied to this region. A behavior that trusts
  the group still names it and stays restricted, so it refuses the signatures that only this group would admit. A key
  group that is not tied goes to all regions, but without the keys that it shares with a tied group: listing a key in
  another group must not export it;
- a response headers policy that no distribution in the region uses.

If a wildcard alias covers a name of an omitted distribution, that name must not reach the other distribution: the
origin behind the wildcard might serve, by Host, what the omitted distribution protects. Such names are reserved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from keyfront.errors import SettingsError
from keyfront.model.compile import compile_snapshot
from keyfront.model.snapshot import Distribution, KeyGroup, PublicKey, Snapshot

TAG = "keyfront:regions"
"""The tag that ties a distribution or key group to regions: their names, separated by spaces."""

NOWHERE = ("?",)
"""The regions of a resource that no edge may have."""

MAX_REGIONS = 16
"""Maximum number of regions that one resource can be tied to."""

_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def region(text: str) -> str:
    """`text`, if it is a valid name of a region.

    :raises SettingsError: if it is not.
    """
    if not _REGION.fullmatch(text):
        raise SettingsError(
            f"{text[:64]!r} is not the name of a region: 1 to 32 lower-case letters, digits and hyphens"
        )
    return text


def regions_of(value: str) -> tuple[str, ...]:
    """The regions in a value of TAG, in order of name.

    :raises SettingsError: if there is none, or too many, or an invalid name. An invalid value must not count as no tie.
    """
    names = tuple(sorted({region(text) for text in value.split()}))
    if not names:
        raise SettingsError(f"the tag {TAG} names no region; remove the tag to untie the resource")
    if len(names) > MAX_REGIONS:
        raise SettingsError(f"the tag {TAG} names more than {MAX_REGIONS} regions")
    return names


def is_misspelled(key: str) -> bool:
    """True for the key of a tag that was probably meant to be TAG, and would have no effect."""
    plain = re.sub(r"[^a-z]", "", key.lower())
    return key != TAG and plain in ("keyfrontregions", "keyfrontregion")


def tied_keys(keys: Iterable[PublicKey], groups: Iterable[KeyGroup]) -> list[PublicKey]:
    """The keys, each tied to the regions of the tied groups that contain it.

    :param groups: all key groups, trusted or not.
    """
    found: dict[str, set[str]] = {}
    for group in groups:
        for id_ in group.key_ids if group.regions else ():
            found.setdefault(id_, set()).update(group.regions)
    return [
        msgspec.structs.replace(key, regions=tuple(sorted(found[key.id]))) if key.id in found else key
        for key in keys
    ]


def belongs(one: Distribution | KeyGroup | PublicKey, name: str) -> bool:
    """True if an edge in the region `name` (empty: none) may have it."""
    return not one.regions or name in one.regions


def for_region(whole: Snapshot, name: str) -> Snapshot:
    """The part of `whole` for edges in the region `name`, with the same number. If nothing is tied, only the region's
    name differs.

    :param whole: a snapshot of everything, made by `compile_snapshot`.
    :param name: empty: for edges without a region.
    """
    if not whole.tied:
        return whole if whole.region == name else msgspec.structs.replace(whole, region=name)
    here = [one for one in whole.distributions if belongs(one, name)]
    found = compile_snapshot(
        here,
        [key for key in whole.public_keys if belongs(key, name)],
        [group for group in whole.key_groups if belongs(group, name)],
        whole.number,
        whole.created,
        whole.response_headers_policies,
    )
    absent = (one for one in whole.distributions if not belongs(one, name))
    return msgspec.structs.replace(found, region=name, reserved=_reserved(here, absent))


def _reserved(here: Iterable[Distribution], absent: Iterable[Distribution]) -> tuple[str, ...]:
    """The names of the `absent` distributions that a wildcard alias of a distribution in `here` covers."""
    wildcards = tuple(alias[1:] for one in here for alias in one.aliases if alias.startswith("*."))
    if not wildcards:
        return ()
    names = (name for one in absent for name in (one.domain_name, *one.aliases))
    return tuple(sorted(name for name in names if name.removeprefix("*").endswith(wildcards)))


def retied(before: Snapshot, after: Snapshot) -> set[str]:
    """The ids of the distributions in `after` that trust a key whose regions have changed."""
    if not (before.tied or after.tied):
        return set()
    regions = {key.id: key.regions for key in before.public_keys}
    keys = {key.id for key in after.public_keys if regions.get(key.id, key.regions) != key.regions}
    groups = {group.id for group in after.key_groups if keys.intersection(group.key_ids)}
    return {
        one.id
        for one in after.distributions
        if any(groups.intersection(behavior.trusted_key_groups) for behavior in one.behaviors)
    }


def fault(snapshot: Snapshot, name: str) -> str:
    """Why an edge in the region `name` must not use `snapshot`; empty if it may."""
    if snapshot.region != name:
        return f"it is for {_described(snapshot.region)}, and this edge is in {_described(name)}"
    for what, one in _tieable(snapshot):
        if not belongs(one, name):
            return (
                f"{what} {one.id} is tied to {', '.join(one.regions)}, and this edge is in {_described(name)}"
            )
    return ""


def _tieable(snapshot: Snapshot) -> Iterator[tuple[str, Distribution | KeyGroup | PublicKey]]:
    """Everything that can be tied, each with the name of its kind."""
    for distribution in snapshot.distributions:
        yield "distribution", distribution
    for group in snapshot.key_groups:
        yield "key group", group
    for key in snapshot.public_keys:
        yield "public key", key


def _described(name: str) -> str:
    return f"region {name}" if name else "no region"


def warnings(whole: Snapshot, regions: Iterable[str]) -> list[str]:
    """Warnings about ties that have probably unintended effects.

    :param regions: those that have edges, or are meant to; an empty name stands for edges without a region.
    """
    if not whole.tied:
        return []
    known = sorted(set(regions))
    groups = {group.id: group for group in whole.key_groups}
    found: list[str] = []
    for name in known:
        keys = {key.id for key in whole.public_keys if belongs(key, name)}
        for one in whole.distributions:
            if belongs(one, name):
                found += _unusable_behaviors(one, groups, keys, name)
    found += _shared_keys(whole, groups.values())
    for what, tied in _tieable(whole):
        if what != "public key" and tied.regions and not set(tied.regions) & set(known):
            found.append(
                f"{what} {tied.id} is tied to {', '.join(tied.regions)}, where there is no edge, so no edge has it"
            )
    return found


def _unusable_behaviors(
    one: Distribution, groups: Mapping[str, KeyGroup], keys: set[str], name: str
) -> list[str]:
    """Behaviors that admit no viewer in this region, because all their trusted keys are tied elsewhere."""
    found = []
    for behavior in one.behaviors:
        trusted = [groups[id_] for id_ in behavior.trusted_key_groups if id_ in groups]
        here = [group for group in trusted if belongs(group, name) and keys.intersection(group.key_ids)]
        if trusted and not here:
            found.append(
                f"distribution {one.id}, behavior {behavior.path_pattern}: none of its trusted key groups has a key "
                f"for edges in {_described(name)}, so every signature is refused there"
            )
    return found


def _shared_keys(whole: Snapshot, groups: Iterable[KeyGroup]) -> list[str]:
    """Public keys whose regions differ from those of a key group that contains them."""
    tied = {key.id: key.regions for key in whole.public_keys if key.regions}
    found = []
    for group in groups:
        for id_ in group.key_ids:
            regions = tied.get(id_, ())
            if regions and not group.regions:
                found.append(
                    f"public key {id_} of key group {group.id} is tied to {', '.join(regions)} by another key group "
                    "that contains it, and goes nowhere else"
                )
            elif further := sorted(set(regions) - set(group.regions)):
                found.append(
                    f"public key {id_} of key group {group.id}, which is tied to {', '.join(group.regions)}, is also "
                    f"for {', '.join(further)}: another key group that contains it is tied there"
                )
    return found
