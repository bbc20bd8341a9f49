"""The process that answers Prometheus for the edge workers of one machine: it reads the counters that they write to
shared memory, so a scrape never delays a request of a viewer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path

import uvicorn
from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from keyfront.control.wire.head_timeout import HeadTimeoutH11Protocol
from keyfront.errors import SettingsError
from keyfront.fleet.counter_table import CounterMemory
from keyfront.fleet.heartbeat import BEAT, Board
from keyfront.monitoring.edge_metrics import machine_families
from keyfront.monitoring.exposition import DENIED, BuildInfo, exposition
from keyfront.monitoring.metrics_access import Audience
from keyfront.runtime.delivery_collector import DeliveryCollector
from keyfront.runtime.restarts import Restarts
from keyfront.runtime.settings import MetricsInherited, MetricsSettings, read_token
from keyfront.uvicorn_server import StoppableServer

MAX_CONNECTIONS = 64
"""Concurrent connections; a Prometheus needs one."""
IDLE = 75
"""Seconds before an idle connection is closed: longer than the usual interval between two scrapes, one minute."""


class MachineCounters(Collector):
    """The counters of all workers of this machine, added up."""

    def __init__(self, memory: CounterMemory) -> None:
        self._memory = memory

    def collect(self) -> Iterable[Metric]:
        return machine_families(self._memory.read(time.monotonic()))


def main(settings: MetricsSettings) -> None:
    """Answer until SIGTERM, or until the parent exits. Two inherited pipes are named in the environment: the lifeline,
    and the one to write to when the port responds.

    :raises SettingsError: if the process was not started by `keyfront up`, or the token cannot be read.
    """
    inherited = settings.inherited
    if inherited is None:
        raise SettingsError("the metrics process is started by `keyfront up`")
    lifeline, ready = int(os.environ["KEYFRONT_LIFELINE"]), int(os.environ["KEYFRONT_READY"])
    registry = CollectorRegistry()
    registry.register(MachineCounters(CounterMemory(inherited.counters)))
    board = Board(inherited.board, inherited.slots)
    registry.register(Restarts(board, inherited.processes))
    registry.register(DeliveryCollector(Path(inherited.data)))
    registry.register(BuildInfo())
    audience = Audience(settings.readers, read_token(settings.token))

    def on_ready() -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone: the lifeline ends this process
            os.write(ready, b"ready\n")
        os.close(ready)

    config = uvicorn.Config(
        application(registry, audience),
        http=HeadTimeoutH11Protocol,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(ip_network(one, strict=False)) for one in settings.trusted_proxies],
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=1,
    )
    asyncio.run(_serve(StoppableServer(config, on_ready), inherited, board, lifeline))


def application(registry: CollectorRegistry, audience: Audience) -> Starlette:
    """`GET /metrics` for the clients in `audience`."""
    one_at_a_time = CapacityLimiter(1)

    async def metrics(request: Request) -> Response:
        headers = request.scope["headers"]
        if not audience.admits(request.client, headers):
            return PlainTextResponse(DENIED, 403)
        found = await to_thread.run_sync(exposition, registry, headers, limiter=one_at_a_time)
        return Response(found.body, headers=found.headers)

    return Starlette(routes=[Route("/metrics", metrics)])


async def _serve(server: StoppableServer, inherited: MetricsInherited, board: Board, lifeline: int) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    loop.add_reader(lifeline, server.stop)

    async def beat() -> None:
        while True:
            board.beat(inherited.slot, time.monotonic())
            await asyncio.sleep(BEAT)

    beating = asyncio.create_task(beat())
    try:
        await server.serve([socket.socket(fileno=inherited.socket)])
    finally:
        beating.cancel()
        loop.remove_reader(lifeline)
