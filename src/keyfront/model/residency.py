"""Data residency: which edges may have what.

A distribution or a key group that is tied to regions is for edges of these regions alone; what is tied to none is for
all. An edge that is in no region gets only what is for all. So every region has a snapshot of its own, made here from
the whole one, under the same number.

What belongs elsewhere is left out, and with it all that only it needed:

- a distribution, with its names, its origins and their secret headers, and its invalidations;
- a key group, and every public key that is in it, unless a key group that is tied to the region has that key as well.
  A behavior that trusts the group goes on naming it and stays restricted, so it refuses every signature that this
  group alone would make good. A key group that is tied to no region goes everywhere, but without the keys that it
  shares with a tied one: to list a key once more must not carry it abroad;
- a response headers policy that no distribution of the region names.

A name of a distribution that is left out must not become another one's here because a wildcard alias covers it: the
origin behind the wildcard may serve by Host what the absent distribution guards. Such names stay reserved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from keyfront.errors import SettingsError
from keyfront.model.compile import compile_snapshot
from keyfront.model.snapshot import Distribution, KeyGroup, PublicKey, Snapshot

TAG = "keyfront:regions"
"""The tag that ties a distribution or a key group: names of regions with blanks between them."""

NOWHERE = ("?",)
"""The regions of what no edge may have."""

MOST = 16
"""How many regions one thing can be tied to."""

_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def region(text: str) -> str:
    """`text`, if it can be the name of a region.

    :raises SettingsError: if not.
    """
    if not _REGION.fullmatch(text):
        raise SettingsError(
            f"{text[:64]!r} is not the name of a region: 1 to 32 lower-case letters, digits and hyphens"
        )
    return text


def regions_of(value: str) -> tuple[str, ...]:
    """The regions that the value of TAG names, in order of name.

    :raises SettingsError: if it names none, too many, or something else. A tie that cannot be read must not be taken
        for none.
    """
    names = tuple(sorted({region(text) for text in value.split()}))
    if not names:
        raise SettingsError(f"the tag {TAG} names no region; without the tag there is no tie")
    if len(names) > MOST:
        raise SettingsError(f"the tag {TAG} names more than {MOST} regions")
    return names


def misspelt(key: str) -> bool:
    """Is this the key of a tag that somebody took for TAG? Such a tag would tie nothing."""
    plain = re.sub(r"[^a-z]", "", key.lower())
    return key != TAG and plain in ("keyfrontregions", "keyfrontregion")


def tied_keys(keys: Iterable[PublicKey], groups: Iterable[KeyGroup]) -> list[PublicKey]:
    """`keys`, each tied to the regions of those of `groups` that have it and are tied.

    :param groups: all that there are, trusted by somebody or not.
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
    """May an edge of the region `name` (empty: of none) have it?"""
    return not one.regions or name in one.regions


def for_region(whole: Snapshot, name: str) -> Snapshot:
    """What an edge of the region `name` obeys of `whole`, under the same number; with an empty name, an edge that is in
    no region. The same as `whole` if nothing is tied, but for the region's name.

    :param whole: a snapshot of everything, as `compile_snapshot` makes it.
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
    """The names of `absent` distributions that a wildcard alias of one `here` covers."""
    wildcards = tuple(alias[1:] for one in here for alias in one.aliases if alias.startswith("*."))
    if not wildcards:
        return ()
    names = (name for one in absent for name in (one.domain_name, *one.aliases))
    return tuple(sorted(name for name in names if name.removeprefix("*").endswith(wildcards)))


def retied(before: Snapshot, after: Snapshot) -> set[str]:
    """The distributions of `after` for which a key counts in other regions than before, through whatever key group."""
    if not (before.tied or after.tied):
        return set()
    was = {key.id: key.regions for key in before.public_keys}
    keys = {key.id for key in after.public_keys if was.get(key.id, key.regions) != key.regions}
    groups = {group.id for group in after.key_groups if keys.intersection(group.key_ids)}
    return {
        one.id
        for one in after.distributions
        if any(groups.intersection(behavior.trusted_key_groups) for behavior in one.behaviors)
    }


def fault(snapshot: Snapshot, name: str) -> str:
    """Why an edge of the region `name` must not obey `snapshot`; empty if it may."""
    if snapshot.region != name:
        return f"it is for {_called(snapshot.region)}, and this edge is in {_called(name)}"
    for what, one in _things(snapshot):
        if not belongs(one, name):
            return f"{what} {one.id} is tied to {', '.join(one.regions)}, and this edge is in {_called(name)}"
    return ""


def _things(snapshot: Snapshot) -> Iterator[tuple[str, Distribution | KeyGroup | PublicKey]]:
    """All that can be tied, and what it is called."""
    for distribution in snapshot.distributions:
        yield "distribution", distribution
    for group in snapshot.key_groups:
        yield "key group", group
    for key in snapshot.public_keys:
        yield "public key", key


def _called(name: str) -> str:
    return f"region {name}" if name else "no region"


def warnings(whole: Snapshot, regions: Iterable[str]) -> list[str]:
    """What whoever tied things to regions may not have meant, in words.

    :param regions: those where there are edges, or are meant to be; empty stands for edges in no region.
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
                found += _unopened(one, groups, keys, name)
    found += _shared_keys(whole, groups.values())
    for what, tied in _things(whole):
        if what != "public key" and tied.regions and not set(tied.regions) & set(known):
            found.append(
                f"{what} {tied.id} is tied to {', '.join(tied.regions)}, where there is no edge: nobody has it"
            )
    return found


def _unopened(one: Distribution, groups: Mapping[str, KeyGroup], keys: set[str], name: str) -> list[str]:
    """Behaviors that let nobody in here, because the keys of all key groups that they trust are elsewhere."""
    found = []
    for behavior in one.behaviors:
        trusted = [groups[id_] for id_ in behavior.trusted_key_groups if id_ in groups]
        here = [group for group in trusted if belongs(group, name) and keys.intersection(group.key_ids)]
        if trusted and not here:
            found.append(
                f"distribution {one.id}, behavior {behavior.path_pattern}: none of the key groups that it trusts has a "
                f"key for edges in {_called(name)}, so every signature is refused there"
            )
    return found


def _shared_keys(whole: Snapshot, groups: Iterable[KeyGroup]) -> list[str]:
    """Public keys that are tied otherwise than a key group that has them."""
    tied = {key.id: key.regions for key in whole.public_keys if key.regions}
    found = []
    for group in groups:
        for id_ in group.key_ids:
            regions = tied.get(id_, ())
            if regions and not group.regions:
                found.append(
                    f"public key {id_} of key group {group.id} is tied to {', '.join(regions)} by another key group "
                    "that has it, and goes nowhere else"
                )
            elif further := sorted(set(regions) - set(group.regions)):
                found.append(
                    f"public key {id_} of key group {group.id}, which is tied to {', '.join(group.regions)}, is also "
                    f"for {', '.join(further)}: another key group that has it is tied there"
                )
    return found
