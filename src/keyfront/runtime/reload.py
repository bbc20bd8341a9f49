"""Reloads: what new settings can change while Keyfront runs, and how the result reaches the command that waits for it.

A reload replaces every process, on the same listening sockets; only what the supervisor itself holds stays as it is
until a restart: the lock on the data folder, the addresses, the number of sockets (the workers), and the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from keyfront.private_files import replace_file
from keyfront.runtime.installation import is_running
from keyfront.runtime.logs import LogSettings
from keyfront.runtime.settings import ControlSettings, MetricsSettings, Supervision

if TYPE_CHECKING:
    from keyfront.edge.logs.delivery_settings import DeliverySettings
    from keyfront.edge.worker_settings import WorkerSettings

RELOADED = "reload.json"
RESTARTED = "restart.json"
"""The files in the data folder with the results of the last reload and of the last restart."""


class UpSettings(msgspec.Struct, frozen=True):
    """Everything that `keyfront up` runs with. `data` is the data folder. `metrics`: the port for the metrics of the
    edge; None: there is none."""

    data: Path
    worker: WorkerSettings
    control: ControlSettings
    supervision: Supervision
    logs: LogSettings
    metrics: MetricsSettings | None = None
    delivery: DeliverySettings | None = None


class Result(msgspec.Struct, frozen=True):
    """The result of a reload or restart.

    - `began`: seconds of `time.monotonic()`, before the settings were read.
    - `error`: why nothing was changed; empty after a success.
    - `restart`: options whose new values need a restart.
    """

    began: float
    error: str = ""
    restart: tuple[str, ...] = ()


_FIXED: dict[str, Callable[[UpSettings], Any]] = {
    "data": lambda one: one.data,
    "edge": lambda one: (one.worker.host, one.worker.port),
    "tls": lambda one: one.worker.tls and (one.worker.tls.host, one.worker.tls.port),
    "shield": lambda one: one.worker.shield,
    "feed": lambda one: one.worker.feed,
    "region": lambda one: one.worker.region,
    "workers": lambda one: one.supervision.workers,
    "edge-metrics": lambda one: one.metrics and (one.metrics.host, one.metrics.port),
    "control": lambda one: (one.control.host, one.control.port),
    "edges": lambda one: one.control.edges,
    "store": lambda one: one.control.store,
    "store-password-file": lambda one: one.control.store_password_file,
}
"""Each option that needs a restart, and its value."""


def needs_restart(given: UpSettings, wanted: UpSettings) -> Iterator[str]:
    """The options, with their dashes, whose values differ and can only change with a restart."""
    for option, value in _FIXED.items():
        if value(given) != value(wanted):
            yield f"--{option}"


def reloaded(running: UpSettings, wanted: UpSettings) -> UpSettings:
    """The wanted settings, except for what only a restart can change, which stays as it is running.

    :param running: with the numbers of the ports that are in use.
    """
    replace = msgspec.structs.replace
    worker, control = running.worker, running.control
    tls = worker.tls
    if tls is not None and wanted.worker.tls is not None:
        tls = replace(tls, certificates=wanted.worker.tls.certificates, local=wanted.worker.tls.local)
    egress = replace(
        wanted.worker.edge.egress,
        control_port=worker.edge.egress.control_port,
        metrics_port=worker.edge.egress.metrics_port,
        public=worker.edge.egress.public,
    )
    return UpSettings(
        running.data,
        replace(
            wanted.worker,
            data=worker.data,
            host=worker.host,
            port=worker.port,
            tls=tls,
            shield=worker.shield,
            feed=worker.feed,
            region=worker.region,
            edge=replace(
                wanted.worker.edge,
                cache_dir=worker.edge.cache_dir,
                https_port=worker.edge.https_port,
                egress=egress,
            ),
        ),
        replace(
            wanted.control,
            data=control.data,
            host=control.host,
            port=control.port,
            edges=control.edges,
            store=control.store,
            store_password_file=control.store_password_file,
            region=control.region,
        ),
        replace(wanted.supervision, workers=running.supervision.workers),
        wanted.logs,
        _reloaded_metrics(running.metrics, wanted.metrics),
        wanted.delivery,
    )


def _reloaded_metrics(
    running: MetricsSettings | None, wanted: MetricsSettings | None
) -> MetricsSettings | None:
    if running is None or wanted is None:
        return running
    return msgspec.structs.replace(wanted, host=running.host, port=running.port)


def write_result(folder: Path, name: str, result: Result) -> None:
    """:raises OSError: if it cannot be written."""
    replace_file(folder / name, msgspec.json.encode(result), durable=False)


def read_result(folder: Path, name: str) -> Result | None:
    """The result of the last reload or restart; None if there was none."""
    try:
        return msgspec.json.decode((folder / name).read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError):
        return None


def remove_results(folder: Path) -> None:
    """Remove the results of an earlier run: the clock of `Result.began` starts again with the machine.

    :raises OSError: if they cannot be removed.
    """
    for name in (RELOADED, RESTARTED):
        (folder / name).unlink(missing_ok=True)


def write_pid(lock: int) -> None:
    """Write this process's number into the lock file of the data folder, which it holds.

    :param lock: the lock's file descriptor.
    """
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def running_pid(folder: Path) -> int | None:
    """The number of the `keyfront up` that holds the lock on the data folder; None if there is none.

    :raises OSError: if the lock cannot be read.
    """
    if not is_running(folder):
        return None
    text = (folder / "lock").read_text().strip()
    return int(text) if text.isdigit() else None
