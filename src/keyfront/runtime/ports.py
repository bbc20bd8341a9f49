"""The ports of an installation: reserved before any process starts, and held while processes come and go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from keyfront.errors import SettingsError
from keyfront.runtime.handover import HandedPort
from keyfront.runtime.installation import url_host
from keyfront.runtime.reload import UpSettings
from keyfront.runtime.settings import ControlSettings

if TYPE_CHECKING:
    from keyfront.edge.worker_settings import WorkerSettings


class ReservedPorts:
    """Bound sockets that hold the ports of this installation across process restarts. Use as a context manager.

    :param holds: returns whether a listening socket for an address is already there: no other is needed to reserve it.
    :param handed: the ports that the program before this one reserved. An option that has not changed keeps its port.
    """

    def __init__(self, holds: Callable[[str, int], bool], handed: Iterable[HandedPort] = ()) -> None:
        self._holds = holds
        self._handed = {port.option: port for port in handed}
        self.held: list[HandedPort] = []

    def __enter__(self) -> ReservedPorts:
        return self

    def __exit__(self, *_: object) -> None:
        for port in (*self.held, *self._handed.values()):
            _close(port)

    def release_others(self) -> None:
        """Release the ports that the program before this one reserved and this one does not use."""
        while self._handed:
            _close(self._handed.popitem()[1])

    @property
    def addresses(self) -> set[tuple[str, int]]:
        """The addresses that are in use."""
        return {(port.host, port.number) for port in self.held}

    def reserve(self, option: str, host: str, port: int) -> int:
        """Reserve a port and return its number. With port 0, the system chooses one.

        :param option: the option that names the address, for the error message.
        :raises SettingsError: if the address cannot be used.
        """
        handed = self._handed.get(option)
        if handed is not None and (handed.host, handed.wanted) == (host, port):
            self.held.append(self._handed.pop(option))
            return handed.number
        if port and self._holds(host, port):
            self.held.append(HandedPort(option, host, port, port, -1))
            return port
        from keyfront.edge.net.listen import reserve

        try:
            bound = reserve(host, port)
        except OSError as error:
            raise SettingsError(
                f"--{option} {url_host(host)}:{port} cannot be used: {error.strerror}"
            ) from error
        number: int = bound.getsockname()[1]
        self.held.append(HandedPort(option, host, port, number, bound.detach()))
        return number


def _close(port: HandedPort) -> None:
    if port.fd >= 0:
        os.close(port.fd)


def reserve_ports(given: UpSettings, ports: ReservedPorts) -> UpSettings:
    """Reserve all ports. Returns the settings with the port numbers."""
    edge, control = reserve_edge_ports(given.worker, ports), given.control
    if not edge.feed:
        control, edge = reserve_control_port(control, edge, ports)
    metrics = given.metrics
    if metrics is not None:
        port = ports.reserve("edge-metrics", metrics.host, metrics.port)
        metrics = msgspec.structs.replace(metrics, port=port)
        egress = msgspec.structs.replace(edge.edge.egress, metrics_port=port)
        edge = msgspec.structs.replace(edge, edge=msgspec.structs.replace(edge.edge, egress=egress))
    return msgspec.structs.replace(given, worker=edge, control=control, metrics=metrics)


def reserve_edge_ports(edge: WorkerSettings, ports: ReservedPorts) -> WorkerSettings:
    """Reserve the ports for viewers and for other edges. Returns the settings with the port numbers."""
    replace = msgspec.structs.replace
    edge = replace(edge, port=ports.reserve("edge", edge.host, edge.port))
    if edge.tls is not None:
        tls = replace(edge.tls, port=ports.reserve("tls", edge.tls.host, edge.tls.port))
        edge = replace(edge, tls=tls, edge=replace(edge.edge, https_port=tls.port))
    if edge.shield is not None:
        host, port = edge.shield
        edge = replace(edge, shield=(host, ports.reserve("shield", host, port)))
    return edge


def reserve_control_port(
    control: ControlSettings, edge: WorkerSettings, ports: ReservedPorts
) -> tuple[ControlSettings, WorkerSettings]:
    """Reserve the API's port, to which no worker ever connects as an origin. Returns both settings with its number."""
    replace = msgspec.structs.replace
    control = replace(control, port=ports.reserve("control", control.host, control.port))
    if control.edges is not None:
        host, port = control.edges
        control = replace(control, edges=(host, ports.reserve("edges", host, port)))
    egress = replace(edge.edge.egress, control_port=control.port)
    return control, replace(edge, edge=replace(edge.edge, egress=egress))
