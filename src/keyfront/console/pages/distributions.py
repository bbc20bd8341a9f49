"""Distributions: the list, one with its behaviors and the key groups that guard them, and the change of a guard."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from keyfront.console.pages.facts import GROUPS, impact, key_facts
from keyfront.console.visit import Page, Read, Visit

PAGE = 25
"""A distribution in a list is some kilobytes of XML."""

Config = dict[str, Any]


class Behavior(msgspec.Struct, frozen=True):
    """A behavior as the pages show it. `number` is 0 for the default behavior, which comes last."""

    number: int
    path: str
    origin: str
    viewers: str
    groups: tuple[str, ...]
    signers: bool

    @property
    def restricted(self) -> bool:
        """Whether only signed requests are served."""
        return bool(self.groups) or self.signers


def behaviors_of(config: Mapping[str, Any]) -> list[Behavior]:
    """The behaviors of a distribution's config, or of a list's item, in the order in which paths are compared."""
    ordered = (config.get("CacheBehaviors") or {}).get("Items") or ()
    found = [_behavior(number, each, each["PathPattern"]) for number, each in enumerate(ordered, 1)]
    return [*found, _behavior(0, config["DefaultCacheBehavior"], "*")]


def _behavior(number: int, found: Mapping[str, Any], path: str) -> Behavior:
    return Behavior(
        number,
        path,
        str(found.get("TargetOriginId", "")),
        str(found.get("ViewerProtocolPolicy", "")),
        tuple((found.get("TrustedKeyGroups") or {}).get("Items") or ()),
        bool((found.get("TrustedSigners") or {}).get("Enabled")),
    )


async def _group_names(visit: Visit) -> dict[str, str]:
    """The names of key groups by id, as far as the user may read them."""
    read = await visit.read(visit.api.page("ListKeyGroups", "KeyGroupList", MaxItems=str(GROUPS)))
    items = read.value[0] if read.value else []
    return {item["KeyGroup"]["Id"]: item["KeyGroup"]["KeyGroupConfig"]["Name"] for item in items}


async def distributions(visit: Visit) -> Response:
    marker = {"Marker": visit.query("marker")} if visit.query("marker") else {}
    listed, names = await asyncio.gather(
        visit.read(visit.api.page("ListDistributions", "DistributionList", MaxItems=str(PAGE), **marker)),
        _group_names(visit),
    )
    if listed.value is None:
        return visit.refused(listed)
    items, following = listed.value
    return visit.page(
        "distributions.html",
        items=[(item, behaviors_of(item)) for item in items],
        following_marker=following,
        names=names,
    )


async def distribution(visit: Visit) -> Response:
    id_ = visit.parameter("id")
    found, names = await asyncio.gather(
        visit.read(visit.api.call("GetDistribution", Id=id_)), _group_names(visit)
    )
    if found.value is None:
        return visit.refused(found)
    whole = found.value["Distribution"]
    return visit.page(
        "distribution.html",
        distribution=whole,
        config=whole["DistributionConfig"],
        behaviors=behaviors_of(whole["DistributionConfig"]),
        names=names,
    )


async def change_guard(visit: Visit) -> Response:
    """Choose the key groups that guard a behavior. A change that breaks links, or begins to ask for signatures, says so
    first."""
    id_, number = visit.parameter("id"), int(visit.parameter("number"))
    found, names = await asyncio.gather(
        visit.read(
            visit.api.editable("GetDistributionConfig", "UpdateDistribution", "DistributionConfig", id_)
        ),
        _group_names(visit),
    )
    if found.value is None:
        return visit.refused(found)
    config: Config = found.value["DistributionConfig"]
    behavior = next((each for each in behaviors_of(config) if each.number == number), None)
    if behavior is None:
        return visit.problem("There is no such behavior", f"The distribution {id_} has fewer behaviors.", 404)
    offered = {**names, **{each: names.get(each, each) for each in behavior.groups}}
    back = f"/distributions/{id_}"
    if visit.request.method == "GET":
        return visit.page(
            "change_guard.html",
            id=id_,
            behavior=behavior,
            offered=offered,
            etag=found.value["ETag"],
        )
    chosen = [each for each in offered if visit.field(f"group-{each}")]
    if visit.field("etag") != found.value["ETag"]:
        return visit.problem(
            "The distribution has changed",
            "Someone changed it since you opened the form. Look at it again before you change it.",
            412,
        )
    dropped = [each for each in behavior.groups if each not in chosen]
    begins = bool(chosen) and not behavior.restricted
    opens = behavior.restricted and not chosen and not behavior.signers
    asks = ",".join(dropped) + ("+" if begins else "-" if opens else "")
    if asks and visit.field("confirm") != asks:
        keys = await _keys_of_groups(visit, dropped, chosen)
        facts = await key_facts(visit)
        return visit.page(
            "confirm.html",
            title=f"Change who may open {behavior.path} of {id_}?",
            intro=_intro(behavior, begins=begins, opens=opens, dropped=[offered[each] for each in dropped]),
            impacts=[] if opens else [impact(facts, key, name, visit.now, id_) for key, name in keys],
            unrotated=False,
            action=visit.path,
            fields={
                **{f"group-{each}": "on" for each in chosen},
                "etag": visit.field("etag"),
                "confirm": asks,
            },
            button="Change it",
            back=back,
        )
    _guard(config, number, chosen)
    done = await visit.read(
        visit.api.call("UpdateDistribution", Id=id_, IfMatch=visit.field("etag"), DistributionConfig=config)
    )
    if done.value is None:
        return visit.refused(done)
    return visit.go(back, f"{behavior.path} was changed. Edges apply it within seconds.")


def _intro(behavior: Behavior, *, begins: bool, opens: bool, dropped: list[str]) -> str:
    if begins:
        return (
            "It is open to everyone now. Afterward, edges refuse every request without a valid signature: links and "
            "pages that lead there unsigned stop working."
        )
    if opens:
        return "Only signed requests are served now. Afterward, it is open to everyone, with or without a signature."
    return f"Edges stop accepting the keys of {', '.join(dropped)} for {behavior.path}."


async def _keys_of_groups(
    visit: Visit, dropped: list[str], remaining: list[str]
) -> Iterator[tuple[str, str]]:
    """The ids of the keys in `dropped` that no group in `remaining` has."""
    read = await asyncio.gather(
        *(visit.read(visit.api.call("GetKeyGroup", Id=each)) for each in (*dropped, *remaining))
    )
    items = [_items(each) for each in read]
    kept = {key for each in items[len(dropped) :] for key in each}
    lost = dict.fromkeys(key for each in items[: len(dropped)] for key in each if key not in kept)
    return ((key, key) for key in lost)


def _items(read: Read[dict[str, Any]]) -> list[str]:
    return list(read.value["KeyGroup"]["KeyGroupConfig"].get("Items") or ()) if read.value else []


def _guard(config: Config, number: int, groups: list[str]) -> None:
    """Let these key groups guard a behavior."""
    behavior = (
        config["DefaultCacheBehavior"] if number == 0 else config["CacheBehaviors"]["Items"][number - 1]
    )
    behavior["TrustedKeyGroups"] = {"Enabled": bool(groups), "Quantity": len(groups)}
    if groups:
        behavior["TrustedKeyGroups"]["Items"] = groups


PAGES = (
    Page("/distributions", distributions, "Distributions"),
    Page("/distributions/{id}", distribution),
    Page("/distributions/{id}/behaviors/{number:int}", change_guard, posts=True),
)
