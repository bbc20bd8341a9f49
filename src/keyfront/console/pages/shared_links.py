"""Shared links: signed URLs and cookies that are used from many places."""

from __future__ import annotations

from starlette.responses import Response

from keyfront.cloudfront.shared_links import PATH, SharedLinks
from keyfront.console.visit import Page, Visit

SHOWN = 200
MEASURES = ("networks", "countries", "agents", "requests", "bytes")


async def shared_links(visit: Visit) -> Response:
    read = await visit.read(visit.api.own("GET", PATH, SharedLinks))
    if read.value is None:
        return visit.refused(read)
    items = read.value.items
    return visit.page(
        "shared_links.html",
        rows=[
            (link, [(name, getattr(link.now, name), link.thresholds.get(name)) for name in MEASURES])
            for link in items[:SHOWN]
        ],
        more=max(0, len(items) - SHOWN),
    )


PAGES = (Page("/shared-links", shared_links, "Shared links"),)
