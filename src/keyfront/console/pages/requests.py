"""Requests that edges recorded: the latest ones, with filters, and one of them."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from starlette.responses import Response

from keyfront.cloudfront.requests import PATH, ExplainedRequest, LoggedRequests
from keyfront.console.guard import BASE
from keyfront.console.visit import Page, Visit

FILTERS = {
    "distribution": "DistributionId",
    "status": "Status",
    "verdict": "Verdict",
    "reason": "Reason",
    "key": "KeyPairId",
    "path": "Path",
    "address": "Address",
    "since": "Since",
    "until": "Until",
}


async def requests(visit: Visit) -> Response:
    chosen = {name: visit.query(name).strip() for name in FILTERS}
    chosen = {name: value for name, value in chosen.items() if value}
    params = {FILTERS[name]: value for name, value in chosen.items()}
    marker = visit.query("marker")
    if marker:
        params["Marker"] = marker
    read = await visit.read(visit.api.own("GET", PATH, LoggedRequests, params))
    if read.value is None and read.code != "InvalidArgument":
        return visit.refused(read)
    return visit.page(
        "requests.html",
        200 if read.value is not None else 400,
        requests=read.value or LoggedRequests(),
        fault=read.refusal,
        chosen=chosen,
        live=not marker and read.value is not None,
        here=f"{BASE}/requests?{urlencode(chosen)}" if chosen else f"{BASE}/requests",
    )


async def request(visit: Visit) -> Response:
    id_ = visit.parameter("id")
    place = {"Place": visit.query("place")} if visit.query("place") else {}
    path = f"{PATH}/{quote(id_, safe='')}"
    read = await visit.read(visit.api.own("GET", path, ExplainedRequest, place))
    if read.value is None:
        return visit.refused(read)
    return visit.page("request.html", id=id_, found=read.value, record=read.value.record)


PAGES = (Page("/requests", requests, "Requests"), Page("/requests/{id}", request))
