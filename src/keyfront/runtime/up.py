"""`keyfront up`: the control process and the edge workers of one machine, under one supervisor.

The supervisor owns what must survive any one process: the lock on the data folder, the ports and their listening
sockets, the heartbeat board, and the memory that workers share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from keyfront.backup.restore.lock import lock_data_folder, refuse_half_restored
from keyfront.custody.default_paths import Installation, own_custody
from keyfront.errors import KeyfrontError, SettingsError
from keyfront.runtime.adopted import AdoptedProcesses
from keyfront.runtime.data_format import claim
from keyfront.runtime.handover import HANDOVER, HandedListeners, Handover, offered, release, set_inheritable
from keyfront.runtime.installation import local_url, url_host, write_installation
from keyfront.runtime.log_delivery import LogDelivery
from keyfront.runtime.machine import Machine, edge_prefix, remove_old_reports
from keyfront.runtime.ports import ReservedPorts, reserve_ports
from keyfront.runtime.reload import (
    RELOADED,
    RESTARTED,
    Result,
    UpSettings,
    needs_restart,
    reloaded,
    remove_results,
    write_pid,
    write_result,
)
from keyfront.runtime.restart import SIGNALS, execute, signals_blocked, trial
from keyfront.runtime.settings import ControlSettings, store_url, without_any_password
from keyfront.runtime.systemd import (
    READY,
    STOPPING,
    activated_sockets,
    check_sockets,
    notify,
    reloading,
    stay_alive,
    watchdog_interval,
)

if TYPE_CHECKING:
    from keyfront.edge.net.listeners import Listeners
    from keyfront.edge.worker_settings import WorkerSettings

logger = logging.getLogger("keyfront.supervisor")

RETRY: Final = 5.0
"""Seconds until a reload is tried again that was needed because a process from before a restart has exited."""


async def run_up(given: UpSettings, reread: Callable[[], UpSettings], command: Sequence[str]) -> None:
    """Run all processes until SIGTERM or SIGINT, and print one line when they are ready. SIGHUP reloads the settings,
    SIGUSR2 replaces the program.

    :param given: if `given.worker.feed` is set, there are only workers, and `given.control` is not used.
    :param reread: reads the settings again; it raises KeyfrontError if they cannot be used.
    :param command: the command line that starts the program again.
    :raises SettingsError: if the data folder or a port cannot be used, or a process does not start.
    """
    from keyfront.edge.net.listeners import Listeners
    from keyfront.edge.net.open_files import raise_open_files
    from keyfront.fleet.file_feed import FileFeed

    folder = given.data
    handover = offered(os.environ, HANDOVER)
    with contextlib.ExitStack() as held:
        # `Requests` unblocks them. Until then, SIGHUP and SIGUSR2 would end the process.
        _block_signals()
        if handover is None:  # otherwise, they stay blocked for a caretaker
            held.callback(signal.pthread_sigmask, signal.SIG_UNBLOCK, SIGNALS)
        listeners = held.enter_context(contextlib.closing(Listeners()))
        if handover is None:
            lock = lock_data_folder(folder, f"another keyfront uses the data folder {folder}")
            remove_results(folder)
            write_pid(lock)
            listeners.adopt_all(activated_sockets(os.environ, os.getpid()))
        else:
            set_inheritable(handover, False)
            lock = handover.lock
            for each in handover.listeners:
                listeners.adopt((each.host, each.port), each.fds, given=each.given)
        held.callback(os.close, lock)
        refuse_half_restored(folder)
        claim(folder)
        ports = held.enter_context(
            ReservedPorts(listeners.holds, handover.ports if handover is not None else ())
        )
        running = reserve_ports(given, ports)
        raise_open_files()
        requests = Requests()
        adopted = None
        if handover is None:
            check_sockets(listeners.given, ports.addresses)
            remove_old_reports(FileFeed(running.worker.feed or folder), edge_prefix(running.worker))
        else:
            adopted = AdoptedProcesses(handover.processes, requests.reload.set)
        machine = Machine(running, listeners, adopted)
        delivery = LogDelivery(lambda: machine.running)
        service = _Service(given, machine, requests, _Inventory(lock, ports, listeners), delivery)
        background = [
            asyncio.create_task(stay_alive(watchdog_interval(os.environ, os.getpid()))),
            asyncio.create_task(delivery.run()),
        ]
        if running.worker.tls is not None:
            from keyfront.runtime.local_authority import keep_covered

            background.append(asyncio.create_task(keep_covered(lambda: machine.running)))
        if handover is not None:
            release(os.environ, HANDOVER)
        try:
            if handover is None:
                if not await until(requests.stop, machine.start()):
                    return
                await _describe(folder, described(folder, running.worker, running.control, time.time()))
                print(ready_line(running), flush=True)
                notify(READY)
            elif not await service.take_over(handover.began):
                return
            await service.serve(reread, command)
            requests.stop.clear()  # the next signal ends the wait
            await until(requests.stop, machine.leave())
        finally:
            notify(STOPPING)
            await machine.stop()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await delivery.finish()


class Requests:
    """What an operator or the service manager has requested by signal. Created on the event loop."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        self.restart = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        # A thread that does not block a signal would receive it while the main thread does (`signals_blocked`).
        if sys.version_info < (3, 12):
            watcher = asyncio.PidfdChildWatcher()  # the default would start a thread for each process
            watcher.attach_loop(loop)
            asyncio.set_child_watcher(watcher)
        loop.set_default_executor(ThreadPoolExecutor(1, initializer=_block_signals))
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        loop.add_signal_handler(signal.SIGUSR2, self.restart.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    async def next(self) -> None:
        """Wait for a request to reload or restart."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (self.reload, self.restart)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()


def _block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class _Inventory(msgspec.Struct, frozen=True):
    """What outlives the program at a restart, apart from processes."""

    lock: int
    ports: ReservedPorts
    listeners: Listeners

    def handover(self, began: float, data: Path, machine: Machine) -> Handover:
        return Handover(
            began,
            str(data),
            self.lock,
            tuple(self.ports.held),
            tuple(
                HandedListeners(*address, tuple(fds), given) for address, fds, given in self.listeners.all()
            ),
            machine.handed(),
        )


class _Service:
    """Performs reloads and restarts while the machine serves."""

    def __init__(
        self,
        given: UpSettings,
        machine: Machine,
        requests: Requests,
        inventory: _Inventory,
        delivery: LogDelivery,
    ) -> None:
        self._given = given
        self._machine = machine
        self._requests = requests
        self._inventory = inventory
        self._delivery = delivery

    async def serve(self, reread: Callable[[], UpSettings], command: Sequence[str]) -> None:
        """Reload or restart whenever that is requested, until Keyfront is to stop."""
        requests = self._requests
        while await until(requests.stop, requests.next()):
            if requests.restart.is_set():
                requests.restart.clear()
                go_on = await self._restart(command)
            else:
                requests.reload.clear()
                go_on = await self._reload(reread)
            if not go_on:
                return

    async def _reload(self, reread: Callable[[], UpSettings]) -> bool:
        """Returns False if Keyfront is to stop."""
        machine, began = self._machine, time.monotonic()
        notify(reloading(began))
        result = Result(began)
        try:
            wanted = reread()
            result = Result(began, restart=tuple(needs_restart(self._given, wanted)))
            if not await until(self._requests.stop, machine.replace(reloaded(machine.running, wanted))):
                return False
            await self._describe()
        except (KeyfrontError, OSError) as failure:
            result = Result(began, str(failure))
            logger.error("the settings are not reloaded, and the ones before stay in use: %s", failure)
            if machine.is_adopted:
                asyncio.get_running_loop().call_later(RETRY, self._requests.reload.set)
        else:
            logger.info("settings reloaded", extra={"seconds": round(time.monotonic() - began, 3)})
            if result.restart:
                logger.warning(
                    "a restart is needed for %s: use `keyfront restart`", ", ".join(result.restart)
                )
        self._report(result, RELOADED)
        return True

    async def _restart(self, command: Sequence[str]) -> bool:
        """Execute the program again. Returns only if that is impossible: False if Keyfront is to stop."""
        began, stop = time.monotonic(), self._requests.stop
        if not await until(stop, self._machine.drained()):
            return False
        notify(reloading(time.monotonic()))
        try:
            if not await until(stop, trial(command, self._handover(began))):
                return False
            async with self._delivery.paused(), signals_blocked():
                if not stop.is_set():
                    # Whatever was requested until now, the new program does by starting.
                    execute(command, self._handover(time.monotonic()))
        except SettingsError as failure:
            logger.error("Keyfront is not restarted, and goes on as before: %s", failure)
            self._report(Result(began, str(failure)), RESTARTED)
        return not stop.is_set()

    def _handover(self, began: float) -> Handover:
        return self._inventory.handover(began, self._given.data, self._machine)

    async def take_over(self, began: float) -> bool:
        """Replace the processes that the program before this one has started. Returns False if Keyfront is to stop.

        :param began: when this program was executed, seconds of `time.monotonic()`.
        """
        machine, inventory = self._machine, self._inventory
        result = Result(began)
        try:
            if not await until(self._requests.stop, machine.replace(machine.running)):
                return False
        except (KeyfrontError, OSError) as failure:
            result = Result(began, str(failure))
            logger.error("the processes from before the restart stay, as far as they can: %s", failure)
        else:
            logger.info("restarted", extra={"seconds": round(time.monotonic() - began, 3)})
        inventory.listeners.keep(inventory.ports.addresses)
        inventory.ports.release_others()
        await self._describe()
        running = machine.running
        print(ready_line(running), flush=True)
        self._report(result, RESTARTED, RELOADED)
        return True

    async def _describe(self) -> None:
        running = self._machine.running
        await _describe(running.data, described(running.data, running.worker, running.control, time.time()))

    def _report(self, result: Result, *names: str) -> None:
        """Write the result into the files `names`, for the commands that wait for it."""
        try:
            for name in names:
                write_result(self._given.data, name, result)
        except OSError as failure:
            logger.warning("the command that waits for the result cannot get it: %s", failure)
        notify(READY)


def ready_line(running: UpSettings) -> str:
    """The line on standard output that says where everything listens."""
    edge, control, metrics = running.worker, running.control, running.metrics
    words = ["keyfront ready", f"edge=http://{url_host(edge.host)}:{edge.port}"]
    if edge.tls is not None:
        words.append(f"tls=https://{url_host(edge.tls.host)}:{edge.tls.port}")
    if edge.shield is not None:
        words.append(f"shield={url_host(edge.shield[0])}:{edge.shield[1]}")
    words.append(
        f"feed={edge.feed}" if edge.feed else f"control=http://{url_host(control.host)}:{control.port}"
    )
    if control.edges is not None and not edge.feed:
        words.append(f"edges=https://{url_host(control.edges[0])}:{control.edges[1]}")
    if metrics is not None:
        words.append(f"metrics=http://{url_host(metrics.host)}:{metrics.port}/metrics")
    return " ".join([*words, f"data={running.data}"])


async def until(stop: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Await `work`. Returns False if `stop` was set first; the work is then canceled.

    :raises Exception: what the work raises.
    """
    stopped, finished = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(work)
    try:
        await asyncio.wait([stopped, finished], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        finished.cancel()
        await asyncio.gather(stopped, finished, return_exceptions=True)
    if finished.cancelled():
        return False
    finished.result()
    return True


def described(folder: Path, edge: WorkerSettings, control: ControlSettings, now: float) -> Installation:
    """What commands need to know about this installation.

    :param now: epoch seconds.
    """
    viewers = Installation(
        feed=edge.feed,
        edge=local_url("http", edge.host, edge.port),
        tls=local_url("https", edge.tls.host, edge.tls.port) if edge.tls is not None else "",
        certificates=edge.tls.certificates if edge.tls is not None else "",
        local_certificates=edge.tls.local if edge.tls is not None else "",
        version=version("keyfront"),
        started=now,
    )
    if edge.feed:
        return viewers
    return msgspec.structs.replace(
        viewers,
        control=local_url("http", control.host, control.port),
        records=control.records or own_custody(folder),
        rotation=control.rotation,
        store=without_any_password(store_url(control.store)),
        store_password_file=control.store_password_file,
        nats="" if control.nats is None else control.nats.text,
    )


async def _describe(folder: Path, found: Installation) -> None:
    try:
        await asyncio.to_thread(write_installation, folder, found)
    except OSError as error:  # a full disk does not prevent Keyfront from serving
        logger.warning("commands will not find this Keyfront by its data folder: %s", error)
