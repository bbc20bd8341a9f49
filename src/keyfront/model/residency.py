"""Data residency: which edges may have what.

A distribution or a key group that is tied to regions is for edges of these regions alone; what is tied to none is for
all. An edge that is in no region gets only what is for all. So every region has a snapshot of its own, made here from
the whole one, under the same number.

What belongs elsewhere is left out, and with it all that only it needed:

- a distribution, with its names, its origins and their secret headers, and its invalidations;
- a key group, with those public keys that no other key group of the region has. A behavior that trusts it goes on
  naming it and stays restricted, so it refuses every signature that this group alone would make good;
- a response headers policy that no distribution of the region names.

A name of a distribution that is left out must not become another one's here because a wildcard alias covers it: the
origin behind the wildcard may serve by Host what the absent distribution guards. Such names stay reserved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from keyfront.errors import SettingsError
from keyfront.model.compile import compile_snapshot
from keyfront.model.snapshot import Distribution, KeyGroup, Snapshot

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


def belongs(one: Distribution | KeyGroup, name: str) -> bool:
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
        whole.public_keys,
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


def fault(snapshot: Snapshot, name: str) -> str:
    """Why an edge of the region `name` must not obey `snapshot`; empty if it may."""
    if snapshot.region != name:
        return f"it is for {_called(snapshot.region)}, and this edge is in {_called(name)}"
    for what, one in _things(snapshot):
        if not belongs(one, name):
            return f"{what} {one.id} is tied to {', '.join(one.regions)}, and this edge is in {_called(name)}"
    return ""


def _things(snapshot: Snapshot) -> Iterator[tuple[str, Distribution | KeyGroup]]:
    """All that can be tied, and what it is called."""
    for distribution in snapshot.distributions:
        yield "distribution", distribution
    for group in snapshot.key_groups:
        yield "key group", group


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
    for one in whole.distributions:
        for name in known:
            if belongs(one, name):
                found += _unopened(one, groups, name)
    found += _shared_keys(whole)
    for what, tied in _things(whole):
        if tied.regions and not set(tied.regions) & set(known):
            found.append(
                f"{what} {tied.id} is tied to {', '.join(tied.regions)}, where there is no edge: nobody has it"
            )
    return found


def _unopened(one: Distribution, groups: dict[str, KeyGroup], name: str) -> list[str]:
    """Behaviors that let nobody in here, because all key groups that they trust are elsewhere."""
    return [
        f"distribution {one.id}, behavior {behavior.path_pattern}: none of the key groups that it trusts is for "
        f"edges in {_called(name)}, so every signature is refused there"
        for behavior in one.behaviors
        if behavior.restricted
        and behavior.trusted_key_groups
        and not any(id_ in groups and belongs(groups[id_], name) for id_ in behavior.trusted_key_groups)
    ]


def _shared_keys(whole: Snapshot) -> list[str]:
    """Public keys of a tied key group that another one takes further."""
    found = []
    for group in whole.key_groups:
        if not group.regions:
            continue
        for other in whole.key_groups:
            further = not other.regions or not set(other.regions) <= set(group.regions)
            for key in sorted(set(group.key_ids) & set(other.key_ids)) if further else ():
                where = ", ".join(other.regions) or "all regions"
                found.append(
                    f"public key {key} of key group {group.id} ({', '.join(group.regions)}) is also in key group "
                    f"{other.id}, which is for {where}"
                )
    return found
