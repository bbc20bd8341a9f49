"""Users, their access keys, and their policies, to read. `keyfront access` changes them."""

from __future__ import annotations

from starlette.responses import Response

from keyfront.cloudfront.access import PATH, Users
from keyfront.console.visit import Page, Visit

PAGE = 50


async def users(visit: Visit) -> Response:
    read = await visit.read(visit.api.own("GET", PATH, Users))
    if read.value is None:
        return visit.refused(read)
    everyone = read.value.users
    begin = _number(visit.query("marker"))
    following = str(begin + PAGE) if begin + PAGE < len(everyone) else ""
    return visit.page(
        "users.html",
        users=everyone[begin : begin + PAGE],
        policies=read.value.policies,
        following_marker=following,
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0


PAGES = (Page("/users", users, "Users"),)
