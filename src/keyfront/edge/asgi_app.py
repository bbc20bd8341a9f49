"""The edge as an ASGI application in its own process: settings, follower, and `create_app`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from keyfront.edge.follower import Follower, FollowerSettings
from keyfront.edge.http.asgi import EdgeApp, Receive, Scope, Send
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.logs.append_file import DEFAULT_RETENTION
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.errors import SettingsError


class AsgiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of `create_app`. `data` is the data folder of a `keyfront up`. `name` is the name that the worker
    reports under; by default `asgi-` and its process ID. `trusted_proxies` are networks in CIDR notation. A disk cache
    is in the data folder unless `edge` names another. `region` is that of the `keyfront up`."""

    data: str
    name: str = ""
    trusted_proxies: tuple[str, ...] = ()
    access_log: bool = True
    edge: EdgeSettings = EdgeSettings()
    region: str = ""


class Worker:
    """An edge under an ASGI server: created on the server's lifespan startup, closed on its lifespan shutdown."""

    def __init__(self, settings: AsgiSettings) -> None:
        self._settings = settings
        self._peers = TrustedProxies(settings.trusted_proxies)
        self._app: EdgeApp | None = None
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._app is None:
            raise RuntimeError(
                "the server does not support ASGI's lifespan protocol, or did not wait for its startup"
            )
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1

    async def _live(self, receive: Receive, send: Send) -> None:
        settings = self._settings
        await receive()
        data = Path(settings.data)
        edge_settings = settings.edge
        if edge_settings.cache_disk and not edge_settings.cache_dir:
            edge_settings = msgspec.structs.replace(edge_settings, cache_dir=str(data / "cache"))
        if not edge_settings.origin_credentials:
            edge_settings = msgspec.structs.replace(
                edge_settings, origin_credentials=str(data / "origin-credentials")
            )
        log = AccessLog(
            data / "logs" / "access.jsonl" if settings.access_log else None, retention=DEFAULT_RETENTION
        )
        edge = Edge(edge_settings, log)
        if edge.tiers.disk is not None:
            edge.tiers.disk.start()
        name = settings.name or f"asgi-{os.getpid()}"
        follower = Follower(edge, FollowerSettings(name, data, region=settings.region), lambda: self._open)
        follower.poll()
        follower.report()
        stop = asyncio.Event()
        following = asyncio.create_task(follower.follow(stop))
        self._app = EdgeApp(edge, peers=self._peers)
        await send({"type": "lifespan.startup.complete"})
        while (await receive())["type"] != "lifespan.shutdown":
            pass
        stop.set()
        await following
        await edge.aclose()
        log.close()
        follower.leave()
        await send({"type": "lifespan.shutdown.complete"})


def create_app() -> Worker:
    """The application factory for an ASGI server. The environment variable `KEYFRONT_EDGE` holds its settings,
    `AsgiSettings` as JSON.

    :raises SettingsError: if the variable is missing or its settings are invalid.
    """
    text = os.environ.get("KEYFRONT_EDGE", "")
    if not text:
        raise SettingsError(
            'KEYFRONT_EDGE is not set; the least that it holds is {"data": "/path/to/the/data/folder"}'
        )
    try:
        settings = msgspec.json.decode(text, type=AsgiSettings)
        app = Worker(settings)
    except (msgspec.MsgspecError, ValueError) as error:
        raise SettingsError(f"KEYFRONT_EDGE cannot be understood: {error}") from error
    if not Path(settings.data).is_dir():
        raise SettingsError(f"KEYFRONT_EDGE: there is no folder {settings.data}")
    return app
