"""The first page: what needs attention, traffic, denials, and edges."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from keyfront.cloudfront import traffic
from keyfront.cloudfront.installation_status import PATH, InstallationStatus, Traffic
from keyfront.cloudfront.traffic import TrafficHistory
from keyfront.console.pages.chart import columns
from keyfront.console.visit import Page, Visit

HOURS = ("1", "3", "24")


def hit_ratio(counted: Traffic) -> float | None:
    """The share of cacheable requests answered from the cache; None if there were none. Refusals and errors count in
    neither part, as in CloudFront's cache statistics."""
    hits = sum(number for name, number in counted.results.items() if name in ("Hit", "RefreshHit"))
    all_ = hits + counted.results.get("Miss", 0)
    return hits / all_ if all_ else None


async def overview(visit: Visit) -> Response:
    hours = visit.query("hours") if visit.query("hours") in HOURS else HOURS[1]
    read, history = await asyncio.gather(
        visit.read(visit.api.own("GET", PATH, InstallationStatus)),
        visit.read(visit.api.own("GET", traffic.PATH, TrafficHistory, {"Hours": hours})),
    )
    status, points = read.value, history.value.points if history.value else ()
    times = [each.time for each in points]
    return visit.page(
        "overview.html",
        200 if status is not None else 403 if read.code == "AccessDenied" else 503,
        status=status,
        refusal=read.refusal,
        ratio=hit_ratio(status.traffic) if status is not None else None,
        hours=hours,
        choices=HOURS,
        history_refusal=history.refusal,
        charts=[
            ("Requests", "", columns(times, [each.requests for each in points])),
            ("Signatures refused", "bad", columns(times, [each.denials for each in points])),
        ]
        if points
        else [],
    )


PAGES = (Page("/", overview, "Overview"),)
