"""Custom error responses: pages that a site provides in place of errors (§5.6)."""

from __future__ import annotations

from typing import Final

from keyfront.edge.rules.decide import internal_plan
from keyfront.edge.rules.routing import Site
from keyfront.edge.semantics.fields import CONDITIONAL
from keyfront.edge.serving.exchange import Exchange, Timings
from keyfront.edge.serving.lookup import CacheLookup
from keyfront.edge.types.messages import Reply, Request
from keyfront.errors import OriginFailure, clear_traceback

_OF_THIS_REQUEST: Final = CONDITIONAL | {
    b"content-encoding",
    b"content-language",
    b"content-type",
    b"content-md5",
}
"""Headers that concern the page that the viewer requested, and must not be sent for another one."""


class CustomErrors:
    """Gets a site's error pages, through the cache like any other page."""

    def __init__(self, lookup: CacheLookup) -> None:
        self._lookup = lookup

    async def replace(self, site: Site, exchange: Exchange, reply: Reply) -> Reply:
        """The site's page for the reply's status, or the reply itself if there is no page or the page's origin failed.
        If the page's origin responds with a status other than 200, the viewer gets that response."""
        rule = site.error_responses.get(reply.status)
        if rule is None or not rule.page_path:
            return reply
        viewer = exchange.request
        request = Request(
            "GET",
            rule.page_path,
            viewer.host,
            [(n, v) for n, v in viewer.headers if n not in _OF_THIS_REQUEST],
            scheme=viewer.scheme,
            client_ip=viewer.client_ip,
            client_port=viewer.client_port,
            version=viewer.version,
        )
        inner = Exchange(request, exchange.request_id, exchange.now, Timings(exchange.timings.began))
        plan = inner.plan = internal_plan(site, rule.page_path, request)
        inner.key = self._lookup.key(plan, request)
        try:
            page = await self._lookup.respond_from_cache_or_origin(inner, plan)
        except OriginFailure as failure:
            clear_traceback(failure)
            return reply
        await _close_body(reply)
        if page.status == 200:
            page.status = rule.response_code or reply.status
        page.x_cache, page.detail, page.reason = "Error", reply.detail, reply.reason
        if viewer.method == "HEAD":
            await _close_body(page)
            page.body = b""
        return page


async def _close_body(reply: Reply) -> None:
    close = getattr(reply.body, "aclose", None)
    if close is not None:
        await close()
