"""The audit log: newest first, with filters."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response

from keyfront.cloudfront.audit_events import PATH, Events
from keyfront.console.guard import BASE
from keyfront.console.visit import Page, Visit

FILTERS = {"user": "User", "event": "Event", "resource": "Resource", "since": "Since", "until": "Until"}
FLAGS = {"errors": "Errors", "writes": "Writes"}


async def audit(visit: Visit) -> Response:
    chosen = {name: visit.query(name).strip() for name in (*FILTERS, *FLAGS)}
    chosen = {name: value for name, value in chosen.items() if value}
    params = {member: chosen[name] for name, member in FILTERS.items() if name in chosen}
    params |= {member: "true" for name, member in FLAGS.items() if name in chosen}
    if visit.query("marker"):
        params["Marker"] = visit.query("marker")
    read = await visit.read(visit.api.own("GET", PATH, Events, params))
    if read.value is None and read.code != "InvalidArgument":
        return visit.refused(read)
    return visit.page(
        "audit.html",
        200 if read.value is not None else 400,
        events=read.value or Events(),
        fault=read.refusal,
        chosen=chosen,
        here=f"{BASE}/audit?{urlencode(chosen)}" if chosen else f"{BASE}/audit",
    )


PAGES = (Page("/audit", audit, "Audit"),)
