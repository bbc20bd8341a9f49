"""Why a request is granted or refused: a pasted URL, with method, cookies, and the viewer's address."""

from __future__ import annotations

from starlette.responses import Response

from keyfront.cloudfront.requests import EXPLANATION_PATH, Explanation
from keyfront.console.visit import Page, Visit

METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
FIELDS = {"url": "Url", "method": "Method", "cookie": "Cookie", "address": "Address"}


async def explain(visit: Visit) -> Response:
    if visit.request.method == "GET":
        fields = {"url": visit.query("url"), "method": "GET"}
        return visit.page("explain.html", fields=fields, methods=METHODS, found=None, fault="")
    fields = {name: visit.field(name) for name in FIELDS}
    cookie = fields["cookie"]
    if cookie.lower().startswith("cookie:"):
        fields["cookie"] = cookie.partition(":")[2].strip()
    params: dict[str, str | bool] = {FIELDS[name]: value for name, value in fields.items() if value}
    read = await visit.read(visit.api.own("POST", EXPLANATION_PATH, Explanation, params))
    if read.value is None and read.code != "InvalidArgument":
        return visit.refused(read)
    return visit.page(
        "explain.html",
        200 if read.value is not None else 400,
        fields=fields,
        methods=METHODS,
        found=read.value,
        fault=read.refusal,
    )


PAGES = (Page("/explain", explain, "Explain", posts=True),)
