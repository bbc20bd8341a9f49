"""The stand-in on the control port while the control plane cannot run: 503 for every call, with the reason.

In the meantime, edges serve their last snapshot. The control plane starts once everything that it needs can be opened.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import uuid
from collections.abc import Callable, Iterable

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from keyfront.control.wire import codec
from keyfront.control.wire.app import serve, service_routes
from keyfront.control.wire.health import Check, Health
from keyfront.errors import ApiError
from keyfront.fleet.heartbeat import BEAT
from keyfront.monitoring.metrics_access import Audience

log = logging.getLogger("keyfront.control")

AGAIN = 1.0
"""Seconds between two attempts to open what the control plane needs."""


class Unavailable:
    """Responds on the control port until the control plane can run.

    :param reason: why the control plane cannot run; without secrets.
    :param checks: further checks of `/healthz`.
    :param registry: what `/metrics` shows.
    :param metrics_for: who may read `/metrics`.
    """

    def __init__(
        self, reason: str, checks: dict[str, Check], registry: CollectorRegistry, metrics_for: Audience
    ) -> None:
        def control() -> Iterable[str]:
            yield reason

        self._error = ApiError("ServiceUnavailable", f"The control plane cannot work: {reason}", 503)
        self._app = Starlette(
            routes=service_routes(self._refuse, Health({"control": control, **checks}), registry, metrics_for)
        )

    async def _refuse(self, request: Request) -> Response:
        answer = codec.write_error(self._error, str(uuid.uuid4()))
        headers = {**dict(answer.headers), "Retry-After": f"{AGAIN:.0f}"}
        return Response(b"" if request.method == "HEAD" else answer.body, answer.status, headers)

    async def serve(
        self,
        sock: socket.socket,
        on_ready: Callable[[], None],
        try_open: Callable[[], None],
        beat: Callable[[], None],
        lifeline: int,
    ) -> bool:
        """Answer until `try_open`, called repeatedly in a thread, raises no error. Closes the socket.

        :returns: True if the control plane can start, False if the process should exit.

        :param beat: called several times a second.
        """
        stop, ended = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            ended.set()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        loop.add_reader(lifeline, end)

        async def heartbeat() -> None:
            while True:
                beat()
                await asyncio.sleep(BEAT)

        async def retry() -> None:
            limiter = CapacityLimiter(1)
            while True:
                await asyncio.sleep(AGAIN)
                try:
                    await to_thread.run_sync(try_open, limiter=limiter, abandon_on_cancel=True)
                except Exception as error:
                    log.debug("the control plane still cannot work: %s", error)
                else:
                    stop.set()

        tasks = [asyncio.create_task(heartbeat()), asyncio.create_task(retry())]
        try:
            await serve(self._app, sock, on_ready, stop=stop)
        finally:
            for task in tasks:
                task.cancel()
            loop.remove_reader(lifeline)
        return not ended.is_set()
