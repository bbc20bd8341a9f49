"""The console's routes in an application. The console itself is made for the first request, because its templates take
time and memory that many control planes never need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from keyfront.console.guard import BASE, HEADERS


def console_routes(make: Callable[[], ASGIApp]) -> list[BaseRoute]:
    """The routes of the console.

    :param make: makes the console's application, in a thread.
    """
    return [Route(BASE, _to_first_page, methods=["GET"]), Mount(BASE, app=_OnDemand(make))]


async def _to_first_page(_: Request) -> Response:
    return RedirectResponse(BASE + "/", 308, dict(HEADERS))


class _OnDemand:
    """An application that is made for its first request."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._making:
            if self._app is None:
                self._app = await to_thread.run_sync(self._make)
            app = self._app
        await app(scope, receive, send)
