"""The rotation of a key group: its start, and an operator's commands. Each command is confirmed on a page that says
what it does."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from keyfront.cloudfront import rotations
from keyfront.cloudfront.rotations import RotationState
from keyfront.console.pages.facts import impact, key_facts
from keyfront.console.visit import Page, Visit

DAY = 86_400


class Command(msgspec.Struct, frozen=True):
    """A command: its question, what it does, and the notice when it was accepted."""

    title: str
    intro: str
    button: str
    done: str


COMMANDS = {
    "rotate": Command(
        "Replace the signing key of {} now?",
        "A new key is made, published to all edges, and takes over. The key that signs now is trusted until its links "
        "have expired, so no link breaks.",
        "Replace it now",
        "The rotation has begun.",
    ),
    "pause": Command(
        "Pause the rotation of {}?",
        "No further step is taken until it is resumed. Signers go on to sign, and edges trust the same keys.",
        "Pause",
        "The rotation is paused.",
    ),
    "resume": Command(
        "Resume the rotation of {}?",
        "Steps that are due are taken at once.",
        "Resume",
        "The rotation goes on.",
    ),
    "roll-back": Command(
        "Go back to the previous key of {}?",
        "The previous key signs again, the newest one is trusted until its links have expired, and the rotation "
        "pauses. A new key that does not sign yet is withdrawn.",
        "Go back",
        "The previous key signs again; the rotation is paused.",
    ),
    "stop": Command(
        "Stop rotating {}?",
        "Its keys stay in the group and in custody, and Keyfront no longer manages them. Whatever signs by the name of "
        "the key group stops when it has not read the record for as long as the terms allow.",
        "Stop the rotation",
        "The key group is no longer rotated.",
    ),
    "emergency": Command(
        "Replace a compromised key of {}?",
        "Edges stop trusting the key within seconds, without an overlap: every link that it signed is refused. If it "
        "signs now, another key takes over.",
        "Refuse everything that it signed",
        "The key is being removed from all edges.",
    ),
}


async def command(visit: Visit) -> Response:
    id_, name = visit.parameter("id"), visit.parameter("command")
    chosen = COMMANDS.get(name)
    facts = await key_facts(visit)
    state = facts.rotation_of(id_)
    if chosen is None:
        return visit.problem("There is no such command", "The rotation has no such command.", 404)
    if state is None:
        why = " ".join(facts.refusals) or "Start its rotation first."
        return visit.problem("The key group is not rotated", why, 404 if not facts.refusals else 403)
    key_id = visit.field("key") or visit.query("key")
    if name == "emergency" and not any(each.key_pair_id == key_id for each in state.keys):
        return visit.problem("There is no such key", "The key is not part of the rotation.", 404)
    back = f"/groups/{id_}"
    if visit.request.method == "POST" and visit.field("confirm") == name:
        params: dict[str, str | bool] = {}
        if name == "emergency":
            params = {"Key": key_id, "KeepServing": bool(visit.field("keep"))}
        path = f"{rotations.PATH}/{quote(id_, safe='')}/{name}"
        done = await visit.read(visit.api.own("POST", path, RotationState, params))
        return visit.refused(done) if done.value is None else visit.go(back, chosen.done)
    impacts = [
        impact(facts, each.key_pair_id, each.name, visit.now)
        for each in state.keys
        if name == "emergency" and each.key_pair_id == key_id
    ]
    return visit.page(
        "confirm.html",
        title=chosen.title.format(state.group),
        intro=chosen.intro,
        impacts=impacts,
        unrotated=False,
        action=visit.path,
        fields={"confirm": name, **({"key": key_id} if key_id else {})},
        checks={"keep": "Trust it until its successor is trusted everywhere, so that no page breaks earlier"}
        if name == "emergency"
        else {},
        button=chosen.button,
        back=back,
    )


async def start(visit: Visit) -> Response:
    id_ = visit.parameter("id")
    found, facts = await asyncio.gather(visit.read(visit.api.call("GetKeyGroup", Id=id_)), key_facts(visit))
    if found.value is None:
        return visit.refused(found)
    group = found.value["KeyGroup"]["KeyGroupConfig"]["Name"]
    if facts.rotation_of(id_) is not None:
        return visit.problem(
            "The key group is rotated already", f"Its page shows the rotation of {group}.", 409
        )
    fault = ""
    if visit.request.method == "POST":
        params, fault = _terms(visit)
        if not fault:
            path = f"{rotations.PATH}/{quote(id_, safe='')}"
            done = await visit.read(visit.api.own("POST", path, RotationState, params))
            if done.value is not None:
                return visit.go(f"/groups/{id_}", f"{group} is rotated from now on.")
            fault = done.refusal
    status = 400 if fault else 200
    return visit.page("start_rotation.html", status, id=id_, group=group, fault=fault, form=visit.form)


def _terms(visit: Visit) -> tuple[dict[str, str | bool], str]:
    """The parameters of StartRotation, or what is wrong with the form."""
    params: dict[str, str | bool] = {"Algorithm": visit.field("algorithm")}
    for name, member in (("every", "Every"), ("overlap", "Overlap"), ("lifetime", "MaxLifetime")):
        text = visit.field(name)
        if not text:
            continue
        if name == "every" and " " in text:
            params[member] = text  # a cron expression
            continue
        try:
            days = float(text)
        except ValueError:
            days = -1.0
        if not 0 < days < 36_500:
            return {}, f"{text[:40]!r} is not a number of days."
        params[member] = str(days * DAY)
    return params, ""


PAGES = (
    Page("/groups/{id}/rotation/start", start, posts=True),
    Page("/groups/{id}/rotation/{command}", command, posts=True),
)
