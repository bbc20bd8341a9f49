"""Sessions of the console: the user's own, and those of everyone if the user may see them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from keyfront.cloudfront.console_sessions import PATH, ConsoleSessions
from keyfront.console.visit import Page, Visit


async def sessions(visit: Visit) -> Response:
    if visit.request.method == "POST":
        return await _end(visit, visit.field("id"))
    all_ = await visit.read(visit.api.own("GET", PATH, ConsoleSessions))
    return visit.page("sessions.html", own=visit.own.all(), all=all_)


async def _end(visit: Visit, id_: str) -> Response:
    """End one of the user's own sessions, or another one if the user may."""
    if visit.own.end(id_):
        return visit.go("/sessions", "The session was ended.")
    done = await visit.read(visit.api.own("DELETE", f"{PATH}/{quote(id_, safe='')}", dict[str, Any]))
    if done.value is None:
        return visit.refused(done)
    return visit.go("/sessions", "The session was ended.")


PAGES = (Page("/sessions", sessions, "Sessions", posts=True),)
