"""The invalidations of a distribution: the list, and a new one."""

from __future__ import annotations

import asyncio
import secrets

from starlette.responses import Response

from keyfront.console.visit import Page, Visit

SHOWN = 10
"""Invalidations on a page. The paths of each need a call of their own."""


async def invalidations(visit: Visit) -> Response:
    id_ = visit.parameter("id")
    fault, paths = "", ""
    if visit.request.method == "POST":
        paths = visit.field("paths")
        items = [line.strip() for line in paths.splitlines() if line.strip()]
        batch = {
            "Paths": {"Quantity": len(items), "Items": items},
            "CallerReference": f"console-{secrets.token_hex(8)}",
        }
        made = await visit.read(
            visit.api.call("CreateInvalidation", DistributionId=id_, InvalidationBatch=batch)
        )
        if made.value is not None:
            created = made.value["Invalidation"]["Id"]
            return visit.go(f"/distributions/{id_}/invalidations", f"The invalidation {created} was created.")
        fault = made.refusal
    marker = {"Marker": visit.query("marker")} if visit.query("marker") else {}
    listed = await visit.read(
        visit.api.page(
            "ListInvalidations", "InvalidationList", DistributionId=id_, MaxItems=str(SHOWN), **marker
        )
    )
    if listed.value is None and not fault:
        return visit.refused(listed)
    items_, following = listed.value or ([], "")
    details = await asyncio.gather(
        *(visit.read(visit.api.call("GetInvalidation", DistributionId=id_, Id=item["Id"])) for item in items_)
    )
    return visit.page(
        "invalidations.html",
        400 if fault else 200,
        id=id_,
        items=[
            (item, read.value["Invalidation"]["InvalidationBatch"]["Paths"].get("Items") or ())
            if read.value
            else (item, ())
            for item, read in zip(items_, details, strict=True)
        ],
        following_marker=following,
        fault=fault,
        paths=paths,
        refusal=listed.refusal,
    )


PAGES = (Page("/distributions/{id}/invalidations", invalidations, posts=True),)
