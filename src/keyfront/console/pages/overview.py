"""The first page: traffic, denials, edges, and what needs attention."""

from __future__ import annotations

from starlette.responses import Response

from keyfront.cloudfront.installation_status import PATH, InstallationStatus, Traffic
from keyfront.console.visit import Page, Visit


def hit_ratio(traffic: Traffic) -> float | None:
    """The share of cacheable requests answered from the cache; None if there were none. Refusals and errors count in
    neither part, as in CloudFront's cache statistics."""
    hits = sum(number for name, number in traffic.results.items() if name in ("Hit", "RefreshHit"))
    all_ = hits + traffic.results.get("Miss", 0)
    return hits / all_ if all_ else None


async def overview(visit: Visit) -> Response:
    read = await visit.read(visit.api.own("GET", PATH, InstallationStatus))
    status = read.value
    return visit.page(
        "overview.html",
        200 if status is not None else 403 if read.code == "AccessDenied" else 503,
        status=status,
        refusal=read.refusal,
        ratio=hit_ratio(status.traffic) if status is not None else None,
    )


PAGES = (Page("/", overview, "Overview"),)
