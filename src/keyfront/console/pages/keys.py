"""Public keys: the list, one key, a new one, and its deletion."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from starlette.responses import Response

from keyfront.console.pages.facts import GROUPS, impact, key_facts
from keyfront.console.visit import Page, Visit

PAGE = 50


async def keys(visit: Visit) -> Response:
    marker = {"Marker": visit.query("marker")} if visit.query("marker") else {}
    listed, groups, facts = await asyncio.gather(
        visit.read(visit.api.page("ListPublicKeys", "PublicKeyList", MaxItems=str(PAGE), **marker)),
        visit.read(visit.api.page("ListKeyGroups", "KeyGroupList", MaxItems=str(GROUPS))),
        key_facts(visit),
    )
    if listed.value is None:
        return visit.refused(listed)
    items, following = listed.value
    within = _groups_by_key(groups.value[0] if groups.value else [])
    return visit.page("keys.html", items=items, following_marker=following, within=within, facts=facts)


def _groups_by_key(items: list[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for item in items:
        group = item["KeyGroup"]
        for key_id in group["KeyGroupConfig"].get("Items") or ():
            found.setdefault(key_id, []).append({"id": group["Id"], "name": group["KeyGroupConfig"]["Name"]})
    return found


async def key(visit: Visit) -> Response:
    id_ = visit.parameter("id")
    found, groups, facts = await asyncio.gather(
        visit.read(visit.api.call("GetPublicKey", Id=id_)),
        visit.read(visit.api.page("ListKeyGroups", "KeyGroupList", MaxItems=str(GROUPS))),
        key_facts(visit),
    )
    if found.value is None:
        return visit.refused(found)
    within = _groups_by_key(groups.value[0] if groups.value else []).get(id_, [])
    return visit.page("key.html", key=found.value["PublicKey"], within=within, facts=facts)


async def new_key(visit: Visit) -> Response:
    if visit.request.method == "GET":
        return visit.page("new_key.html", fault="", fields={})
    config = {
        "CallerReference": f"console-{secrets.token_hex(8)}",
        "Name": visit.field("name"),
        "EncodedKey": visit.field("pem").replace("\r\n", "\n") + "\n",
        "Comment": visit.field("comment"),
    }
    made = await visit.read(visit.api.call("CreatePublicKey", PublicKeyConfig=config))
    if made.value is None:
        fields = {name: visit.field(name) for name in ("name", "comment")}
        if "PRIVATE" not in visit.field("pem"):  # a private key is not sent back
            fields["pem"] = visit.field("pem")
        return visit.page("new_key.html", 400, fault=made.refusal, fields=fields)
    id_ = made.value["PublicKey"]["Id"]
    return visit.go(
        f"/keys/{id_}", f"The public key {id_} was created. Edges trust it once it is in a key group."
    )


async def delete_key(visit: Visit) -> Response:
    id_ = visit.parameter("id")
    found, facts = await asyncio.gather(visit.read(visit.api.call("GetPublicKey", Id=id_)), key_facts(visit))
    if found.value is None:
        return visit.refused(found)
    config = found.value["PublicKey"]["PublicKeyConfig"]
    if visit.request.method == "POST" and visit.field("confirm") == id_:
        done = await visit.read(visit.api.call("DeletePublicKey", Id=id_, IfMatch=found.value["ETag"]))
        if done.value is None:
            return visit.refused(done)
        return visit.go("/keys", f"The public key {config['Name']} ({id_}) was deleted.")
    return visit.page(
        "confirm.html",
        title=f"Delete the public key {config['Name']}?",
        intro="CloudFront's API deletes a public key only if no key group has it, so edges do not trust it any more.",
        impacts=[impact(facts, id_, config["Name"], visit.now)],
        unrotated=facts.rotated(id_) is not None,
        action=visit.path,
        fields={"confirm": id_},
        button="Delete the public key",
        back=f"/keys/{id_}",
    )


PAGES = (
    Page("/keys", keys, "Public keys"),
    Page("/keys/new", new_key, posts=True),
    Page("/keys/{id}", key),
    Page("/keys/{id}/delete", delete_key, posts=True),
)
