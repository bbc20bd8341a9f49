"""A control plane whose edges follow over a network: `Deployed`, key usage, and numbers after a restore."""

from __future__ import annotations

import asyncio
import time

from keyfront.control.call import Call, Caller
from keyfront.control.keys.usage import KeyUsageCollector, uses
from keyfront.control.service import Service, ServiceSettings
from keyfront.control.store.store import Store
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.regions import Regions
from tests.control.harness import CALLER
from tests.fleet.contract.conftest import AnyFleet
from tests.fleet.jetstream.harness import NatsControl
from tests.fleet.remote.harness import Control, until
from tests.keys import rsa_pem
from tests.up import distribution_config

ACCOUNT = "000000000000"


class Plane:
    """A control plane with a store of its own, and the hub of `control`."""

    def __init__(self, fleet: AnyFleet, name: str, control: Control | NatsControl) -> None:
        folder = fleet.folder / name
        folder.mkdir()
        self.control = control
        self.store = Store(folder / "keyfront.db")
        self.feeds = Regions(FileFeed(folder), remotes=(control.hub,))
        self.service = Service(self.store, self.feeds, ServiceSettings(account=ACCOUNT))
        self.service.start(time.time())
        self.calls = 0

    def call(self, operation: str, **params: object) -> dict[str, object]:
        self.calls += 1
        caller: Caller = CALLER
        call = Call(operation, dict(params), caller, "192.0.2.7", "tests", f"{self.calls:032x}", time.time())
        return self.service.run(call).output

    def key(self, name: str) -> str:
        config = {"CallerReference": name, "Name": name, "EncodedKey": rsa_pem()}
        found: dict[str, dict[str, str]] = self.call("CreatePublicKey", PublicKeyConfig=config)  # type: ignore[assignment]
        return found["PublicKey"]["Id"]

    def number(self) -> int:
        published = self.feeds.published()
        assert published is not None
        return published.number


async def test_deployed_waits_for_edges_elsewhere_and_their_usage_counts(fleet: AnyFleet) -> None:
    control = await fleet.control()
    plane = await asyncio.to_thread(Plane, fleet, "one", control)
    machine = await fleet.following(control)
    await machine.reaches(plane.number())
    machine.work()
    await until(control.reports)
    made = plane.call("CreateDistribution", DistributionConfig=distribution_config("d", 8000, []))
    id_ = made["Distribution"]["Id"]  # type: ignore[index]

    def status() -> str:
        return plane.call("GetDistribution", Id=id_)["Distribution"]["Status"]  # type: ignore[index, no-any-return]

    await machine.reaches(plane.number())
    assert status() == "InProgress"  # its worker has not applied it
    key = plane.key("k")
    await machine.reaches(plane.number())
    machine.work({"run": "r", "keys": [[key, "SHA1", "E0", 7]], "ends": []})
    await until(lambda: status() == "Deployed")
    collector = KeyUsageCollector(plane.store, control.hub)

    def counted() -> int:
        collector.gather(time.time())
        with plane.store.read() as transaction:
            return sum(one.requests for one in uses(transaction, time.time()).items)

    await until(lambda: counted() == 7)
    machine.feed.remove_report("worker-1")  # the worker has exited: its last report is counted once
    await until(lambda: not machine.feed.ended() or counted() != 7)
    assert counted() == 7


async def test_a_restored_control_plane_goes_on_above_its_edges(fleet: AnyFleet) -> None:
    control = await fleet.control()
    plane = await asyncio.to_thread(Plane, fleet, "one", control)
    for name in ("a", "b", "c"):
        plane.call("CreateDistribution", DistributionConfig=distribution_config(name, 8000, []))
    machine = await fleet.following(control)
    await machine.reaches(plane.number())
    before = plane.number()
    await machine.stop()
    restored = await asyncio.to_thread(Plane, fleet, "restored", control)  # a state from before all that
    assert restored.number() < before
    machine.follow()

    def followed() -> bool:
        restored.service.follow(time.time())
        return restored.number() > before

    await until(followed)
    await machine.reaches(restored.number())
    assert restored.service.follow(time.time())
    number = restored.number()
    restored.service.follow(time.time())
    assert restored.number() == number  # once, not again and again
