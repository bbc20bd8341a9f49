"""Machines as network namespaces on one bridge, and what happens to a fleet on them.

    python -m tests.stories.machines FOLDER STORE

runs in a network and mount namespace of its own (`unshare`), which has the bridge, the viewers, and the origin. Two
control planes share the store; two edges follow them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from click.testing import CliRunner

from keyfront.cli.main import keyfront
from tests.application import Request, Response, served
from tests.stories.conftest import PAGE, Viewers
from tests.up import Up, distribution_config

HERE = "10.77.0.1"
ADDRESSES = {"control-a": "10.77.0.2", "control-b": "10.77.0.3", "paris": "10.77.0.11", "rome": "10.77.0.12"}
EDGES_PORT = 9443


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def connect_machines() -> None:
    """Create the bridge, and a network namespace for each machine."""
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    ip("link", "set", "lo", "up")
    ip("link", "add", "bridge", "type", "bridge")
    ip("addr", "add", f"{HERE}/24", "dev", "bridge")
    ip("link", "set", "bridge", "up")
    for name, address in ADDRESSES.items():
        ip("netns", "add", name)
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", name, "master", "bridge", "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")


class Machine:
    """A machine, with Keyfront on it."""

    def __init__(self, name: str, folder: Path, options: tuple[str, ...] = ()) -> None:
        self.name = name
        control = name.startswith("control")
        self.up = Up(
            folder / name,
            workers=1,
            options=("--cache-disk", "0", *options),
            enrolled=not control,
            host=ADDRESSES[name],
            within=("ip", "netns", "exec", name),
        )

    def keyfront(self, *words: str) -> str:
        """The standard output of a command for this machine's data folder."""
        done = CliRunner().invoke(keyfront, [*words, "--data", str(self.up.data)])
        assert done.exit_code == 0 or words[0] == "status", (words, done.output, done.exception)
        return done.stdout

    def warnings(self) -> list[str]:
        found: list[str] = json.loads(self.keyfront("status", "--json"))["Warnings"]
        return found

    def separate(self, *others: str) -> None:
        """Let nothing pass between this machine and the others, in either direction."""
        self._routes("add", others)

    def reconnect(self, *others: str) -> None:
        self._routes("del", others)

    def _routes(self, action: str, others: tuple[str, ...]) -> None:
        for other in others:
            ip("-n", self.name, "route", action, "unreachable", f"{ADDRESSES[other]}/32")
            ip("-n", other, "route", action, "unreachable", f"{ADDRESSES[self.name]}/32")


class Site:
    """A distribution, whose state tells what an edge has received."""

    def __init__(self, control: Up, origin_port: int, reference: str) -> None:
        config = distribution_config(reference, origin_port, [])
        config["Origins"]["Items"][0]["DomainName"] = HERE
        made = control.client().create_distribution(DistributionConfig=config)["Distribution"]
        self.id: str = made["Id"]
        self.host: str = made["DomainName"]

    def is_at(self, edge: Machine) -> bool:
        return edge.up.get(self.host, "/a").status == 200


def story(folder: Path, store: str) -> None:
    connect_machines()
    edges_at = {name: f"{ADDRESSES[name]}:{EDGES_PORT}" for name in ("control-a", "control-b")}
    a, b = (Machine(name, folder, ("--store", store, "--edges", at)) for name, at in edges_at.items())
    paris, rome = Machine("paris", folder), Machine("rome", folder)
    with ExitStack() as running:

        def respond(_request: Request) -> Response:
            return Response(PAGE, {"Cache-Control": "max-age=3600"})

        port = running.enter_context(served(respond, HERE))
        for control in (a, b):
            running.enter_context(control.up)
        site = Site(a.up, port, "first")
        enroll(a, [paris, rome], edges_at.values())
        for edge in (paris, rome):
            running.enter_context(edge.up)
            edge.up.until(lambda edge=edge: site.is_at(edge))  # type: ignore[misc]

        partition(a, paris, rome, port)
        failover(a, b, [paris, rome], port)
        upgrade([paris, rome], site)
        revocation(b, paris, rome, port)
        assert site.is_at(rome)


def enroll(control: Machine, edges: list[Machine], addresses: Iterable[str]) -> None:
    """Each with its own token, which works once."""
    urls = [word for address in addresses for word in ("--control", f"https://{address}")]
    tokens = {edge.name: control.keyfront("edge", "enroll-token", *_store(control)).strip() for edge in edges}
    for edge in edges:
        edge.keyfront("edge", "join", *urls, "--token", tokens[edge.name], "--name", edge.name)


def _store(control: Machine) -> tuple[str, str]:
    at = control.up.options.index("--store")
    return control.up.options[at], control.up.options[at + 1]


def partition(control: Machine, paris: Machine, rome: Machine, port: int) -> None:
    """An edge that no control plane reaches serves what it has, says so, and receives the rest afterwards."""
    paris.separate("control-a", "control-b")
    made = Site(control.up, port, "during the partition")
    rome.up.until(lambda: made.is_at(rome))
    _until(paris, lambda: any(line.startswith("no control plane for") for line in paris.warnings()))
    assert not made.is_at(paris)
    paris.reconnect("control-a", "control-b")
    paris.up.until(lambda: made.is_at(paris))


def failover(a: Machine, b: Machine, edges: list[Machine], port: int) -> None:
    """A control plane is lost; the other one goes on with all edges."""
    a.up.kill()
    made = Site(b.up, port, "without a")
    for edge in edges:
        edge.up.until(lambda edge=edge: made.is_at(edge))  # type: ignore[misc]


def upgrade(edges: list[Machine], site: Site) -> None:
    """One edge after the other gets another program; no request to either of them fails meanwhile."""
    with ExitStack() as viewing:
        viewers = [viewing.enter_context(Viewers(edge.up, site.host, 1, pause=0.05)) for edge in edges]
        for edge in edges:
            before = set(edge.up.children())
            assert edge.keyfront("restart") == "restarted\n"
            edge.up.until(lambda: not before & set(edge.up.children()))  # noqa: B023
            for each in viewers:
                each.wait_for_answers()
    for each in viewers:
        assert (each.refused, each.lost, each.wrong) == (0, 0, [])


def revocation(control: Machine, paris: Machine, rome: Machine, port: int) -> None:
    """A revoked edge receives nothing more, and says why; the other one does."""
    control.keyfront("edge", "revoke", "rome", *_store(control))
    _until(rome, lambda: any("revoked" in line for line in rome.warnings()))
    made = Site(control.up, port, "after the revocation")
    paris.up.until(lambda: made.is_at(paris))
    assert not made.is_at(rome)


def _until(machine: Machine, true: Callable[[], bool]) -> None:
    """The condition costs a whole command: it is checked once there is no connection."""
    link = machine.up.data / "identity" / "link.json"
    machine.up.until(lambda: json.loads(link.read_bytes())["control"] == "")
    machine.up.until(true)


if __name__ == "__main__":
    os.umask(0o077)
    story(Path(sys.argv[1]), sys.argv[2])
