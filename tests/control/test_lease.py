"""A lease has one holder; the audit log records the actions of rotations."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from keyfront.control.audit import search as trail
from keyfront.control.audit.rotation_events import AuditListener
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.store import lease as leases
from keyfront.control.store.lease import Lease, SoleLeader
from keyfront.control.store.store import Store
from keyfront.lifecycle.events import RotationEvent
from tests.control.harness import ACCOUNT, BOTH, where

STORES = BOTH


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(where(tmp_path))
    yield made
    made.close()


def test_a_lease_has_one_holder(store: Store) -> None:
    one, other = Lease(store, "rotation", "one"), Lease(store, "rotation", "other")
    elsewhere = Lease(store, "something else", "other")
    assert (one.held, other.held) == (False, False)
    assert one.renew()
    assert not other.renew()
    assert elsewhere.renew()
    assert one.renew()
    assert (one.held, other.held) == (True, False)
    one.release()
    assert not one.held
    assert other.renew()
    assert not one.renew()
    one.release()  # it does not hold the lease
    assert other.renew()


def test_a_lease_of_one_who_is_gone_is_over_soon(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LENGTH", 0.2)
    one, other = Lease(store, "rotation", "one"), Lease(store, "rotation", "other")
    assert one.renew()
    ends = time.monotonic() + 10
    while not other.renew():
        assert time.monotonic() < ends
    assert not one.held
    assert not one.renew()


def test_of_many_who_want_it_at_once_one_has_it(store: Store) -> None:
    taken: list[bool] = []
    ready = threading.Barrier(8)

    def want(number: int) -> None:
        lease = Lease(store, "rotation", str(number))
        ready.wait()
        taken.append(lease.renew())

    threads = [threading.Thread(target=want, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_who_is_alone_always_leads() -> None:
    alone = SoleLeader()
    assert alone.held
    assert alone.renew()


# ---- the audit log


def test_each_step_is_recorded(store: Store) -> None:
    audited = AuditListener(AuditWriter(store, random.Random(1)), ACCOUNT)
    event = RotationEvent(
        "before", 1_800_000_000.0, "films", "G1", "switch", "films-2", "K2", "every edge trusts it"
    )
    audited.on_event(event)
    audited.on_event(replace(event, moment="after"))
    audited.on_event(replace(event, moment="failed", error="no"))
    one, other = (each.record for each in trail.search(store, trail.AuditQuery(resource="G1")))
    assert (one["eventName"], one["eventSource"], one["readOnly"]) == ("RotationSwitch", "keyfront", False)
    assert one["requestParameters"] == {
        "keyGroupId": "G1",
        "keyGroup": "films",
        "key": "films-2",
        "keyPairId": "K2",
        "reason": "every edge trusts it",
    }
    assert (other["errorCode"], other["errorMessage"]) == ("RotationFailed", "no")
    assert trail.verify(store).fault == ""
