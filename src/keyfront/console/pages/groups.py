"""Key groups: the list, one group with its keys and its rotation, and changes."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from keyfront.cloudfront import rotations
from keyfront.cloudfront.rotations import RotationPlan, RotationState
from keyfront.console.pages.facts import KeyFacts, impact, key_facts
from keyfront.console.pages.timeline import Life, timeline
from keyfront.console.visit import Page, Read, Visit

PAGE = 50
CHOICES = 200
"""Public keys that a form offers."""


async def groups(visit: Visit) -> Response:
    marker = {"Marker": visit.query("marker")} if visit.query("marker") else {}
    listed, facts = await asyncio.gather(
        visit.read(visit.api.page("ListKeyGroups", "KeyGroupList", MaxItems=str(PAGE), **marker)),
        key_facts(visit),
    )
    if listed.value is None:
        return visit.refused(listed)
    items, following = listed.value
    return visit.page(
        "groups.html",
        groups=[item["KeyGroup"] for item in items],
        following_marker=following,
        facts=facts,
    )


class GroupKey(msgspec.Struct, frozen=True):
    """A key of a group, as the page shows it. `key` is the list's item; None if it could not be read."""

    id: str
    key: dict[str, Any] | None

    @property
    def name(self) -> str:
        return str(self.key["Name"]) if self.key is not None else self.id


async def _keys_of(visit: Visit, ids: list[str]) -> list[GroupKey]:
    found = await asyncio.gather(*(visit.read(visit.api.call("GetPublicKey", Id=id_)) for id_ in ids))
    return [GroupKey(id_, _flat(read)) for id_, read in zip(ids, found, strict=True)]


def _flat(read: Read[dict[str, Any]]) -> dict[str, Any] | None:
    if read.value is None:
        return None
    key = read.value["PublicKey"]
    return {"Name": key["PublicKeyConfig"]["Name"], "CreatedTime": key["CreatedTime"]}


async def group(visit: Visit) -> Response:
    id_ = visit.parameter("id")
    found, facts = await asyncio.gather(visit.read(visit.api.call("GetKeyGroup", Id=id_)), key_facts(visit))
    if found.value is None:
        return visit.refused(found)
    group_ = found.value["KeyGroup"]
    ids = list(group_["KeyGroupConfig"].get("Items") or ())
    rotation = facts.rotation_of(id_)
    members, trusting, plan = await asyncio.gather(
        _keys_of(visit, ids),
        visit.read(
            visit.api.page(
                "ListDistributionsByKeyGroup", "DistributionIdList", KeyGroupId=id_, MaxItems=str(PAGE)
            )
        ),
        _plan(visit, id_, rotation),
    )
    return visit.page(
        "group.html",
        group=group_,
        members=members,
        facts=facts,
        rotation=rotation,
        plan=plan,
        trusting=trusting,
        chart=timeline(_lives(members, facts, rotation), visit.now),
    )


async def _plan(visit: Visit, id_: str, rotation: RotationState | None) -> Read[RotationPlan]:
    if rotation is None:
        return Read()
    return await visit.read(visit.api.own("GET", f"{rotations.PATH}/{quote(id_, safe='')}", RotationPlan))


def _lives(members: list[GroupKey], facts: KeyFacts, rotation: RotationState | None) -> list[Life]:
    """The lives of the keys for the timeline: from creation to the end of the time, and until links expire."""
    found = []
    for member in members:
        rotated = facts.rotated(member.id)
        begins = rotated.since if rotated is not None else 0.0
        if not begins and member.key is not None:
            begins = member.key["CreatedTime"].timestamp()
        use = facts.use(member.id)
        ends = facts.end(member.id)
        last_link = use.signatures_end if use is not None else 0.0
        if begins:
            found.append(
                Life(
                    member.name, begins, ends, last_link, rotated is not None and rotated.stage == "DRAINING"
                )
            )
    return found


async def new_group(visit: Visit) -> Response:
    listed = await visit.read(visit.api.page("ListPublicKeys", "PublicKeyList", MaxItems=str(CHOICES)))
    offered = listed.value[0] if listed.value else []
    fault = listed.refusal
    if visit.request.method == "POST":
        config: dict[str, Any] = {
            "Name": visit.field("name"),
            "Items": [item["Id"] for item in offered if visit.field(f"key-{item['Id']}")],
            "Comment": visit.field("comment"),
        }
        made = await visit.read(visit.api.call("CreateKeyGroup", KeyGroupConfig=config))
        if made.value is not None:
            id_ = made.value["KeyGroup"]["Id"]
            return visit.go(f"/groups/{id_}", f"The key group {config['Name']} was created.")
        fault = made.refusal
    status = 400 if fault and visit.request.method == "POST" else 200
    return visit.page("new_group.html", status, fault=fault, offered=offered, form=visit.form)


async def change_group(visit: Visit) -> Response:
    """Add keys, or remove some after a page that says what this breaks."""
    id_ = visit.parameter("id")
    found, listed, facts = await asyncio.gather(
        visit.read(visit.api.call("GetKeyGroup", Id=id_)),
        visit.read(visit.api.page("ListPublicKeys", "PublicKeyList", MaxItems=str(CHOICES))),
        key_facts(visit),
    )
    if found.value is None:
        return visit.refused(found)
    config, etag = found.value["KeyGroup"]["KeyGroupConfig"], found.value["ETag"]
    before = list(config.get("Items") or ())
    offered = {item["Id"]: item["Name"] for item in (listed.value[0] if listed.value else [])}
    for key_id in before:
        offered.setdefault(key_id, key_id)
    if visit.request.method == "GET":
        return visit.page(
            "change_group.html",
            group_id=id_,
            config=config,
            offered=offered,
            etag=etag,
            rotation=facts.rotation_of(id_),
        )
    after = [key_id for key_id in offered if visit.field(f"key-{key_id}")]
    removed = [key_id for key_id in before if key_id not in after]
    if removed and visit.field("confirm") != ",".join(removed):
        fields = {f"key-{key_id}": "on" for key_id in after}
        return visit.page(
            "confirm.html",
            title=f"Remove {_some(removed, offered)} from {config['Name']}?",
            intro="Edges stop trusting these keys within seconds, unless another group of a behavior has them.",
            impacts=[impact(facts, key_id, offered[key_id], visit.now) for key_id in removed],
            unrotated=any(facts.rotated(key_id) is not None for key_id in removed),
            action=visit.path,
            fields={**fields, "etag": visit.field("etag"), "confirm": ",".join(removed)},
            button="Remove",
            back=f"/groups/{id_}",
        )
    new = {**config, "Items": [*(k for k in before if k in after), *(k for k in after if k not in before)]}
    done = await visit.read(
        visit.api.call("UpdateKeyGroup", Id=id_, IfMatch=visit.field("etag"), KeyGroupConfig=new)
    )
    if done.value is None:
        return visit.refused(done)
    return visit.go(f"/groups/{id_}", f"The key group {config['Name']} was changed.")


def _some(ids: list[str], names: dict[str, str]) -> str:
    return names[ids[0]] if len(ids) == 1 else f"{len(ids)} keys"


async def delete_group(visit: Visit) -> Response:
    id_ = visit.parameter("id")
    found, facts = await asyncio.gather(visit.read(visit.api.call("GetKeyGroup", Id=id_)), key_facts(visit))
    if found.value is None:
        return visit.refused(found)
    config = found.value["KeyGroup"]["KeyGroupConfig"]
    if visit.request.method == "POST" and visit.field("confirm") == id_:
        done = await visit.read(visit.api.call("DeleteKeyGroup", Id=id_, IfMatch=found.value["ETag"]))
        if done.value is None:
            return visit.refused(done)
        return visit.go("/groups", f"The key group {config['Name']} was deleted.")
    members = await _keys_of(visit, list(config.get("Items") or ()))
    return visit.page(
        "confirm.html",
        title=f"Delete the key group {config['Name']}?",
        intro="CloudFront's API deletes a key group only if no distribution trusts it. Its public keys remain.",
        impacts=[impact(facts, each.id, each.name, visit.now) for each in members],
        unrotated=facts.rotation_of(id_) is not None,
        action=visit.path,
        fields={"confirm": id_},
        button="Delete the key group",
        back=f"/groups/{id_}",
    )


PAGES = (
    Page("/groups", groups, "Key groups"),
    Page("/groups/new", new_group, posts=True),
    Page("/groups/{id}", group),
    Page("/groups/{id}/change", change_group, posts=True),
    Page("/groups/{id}/delete", delete_group, posts=True),
)
