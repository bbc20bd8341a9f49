"""Rotations as stories, on a whole control plane: what applications sign, what edges accept, and until when."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from keyfront.errors import RotationError
from keyfront.model.kinds import Quotas
from tests.control.plane import Plane
from tests.lifecycle.site import DAY, Site

NEW = ["create", "register", "publish", "confirm", "switch"]
OLD = ["release", "remove", "retire", "unregister", "destroy"]
Make = Callable[[], Site]


def key(number: int, actions: list[str]) -> list[str]:
    return [f"{action} {number}" for action in actions]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    quotas = Quotas(public_keys=100, key_groups=100)
    with Plane(tmp_path_factory.mktemp("plane"), quotas=quotas) as running:
        yield running


@pytest.fixture
def site(
    plane: Plane, tmp_path_factory: pytest.TempPathFactory, numbers: Iterator[int] = itertools.count()
) -> Site:
    made = Site(plane, tmp_path_factory.mktemp("custody"), f"photos {next(numbers)}")
    made.start()
    return made


def test_a_link_of_the_last_second_is_good_until_its_own_end(site: Site) -> None:
    site.executor.rotate(site.group)
    while site.stages != "1 SIGNING, 2 PUBLISHED":
        if site.step().taken is None:
            site.obey()
            site.now += 61
    last = site.link(7 * DAY)
    ends = site.now + 7 * DAY
    site.now += 1
    site.step()
    assert site.stages == "1 DRAINING, 2 SIGNING"
    assert site.verdict(site.link()) == site.verdict(last) == "granted"

    assert site.run(29) == []
    assert site.verdict(last, ends - 1) == "granted"
    assert site.verdict(last, ends) == "expired"
    assert site.run(2) == key(1, OLD)
    assert site.verdict(last, ends - 1) == "unknown_key"
    assert site.stages == "1 RETIRED, 2 SIGNING"
    assert site.held() == ["2"]


def test_rotations_that_overlap_wait_for_a_place(site: Site) -> None:
    site.executor.rotate(site.group)
    assert site.run() == key(2, NEW)
    early = site.link()
    site.executor.rotate(site.group)
    assert site.run() == []
    wait = site.step().wait
    assert wait is not None
    assert "already, 1 of them not of this rotation, and 2 of its 5 slots are reserved" in wait.reason
    assert site.verdict(early) == "granted"
    assert sorted(site.run(31)) == sorted([*key(1, OLD), *key(3, NEW)])
    assert site.stages == "1 RETIRED, 2 DRAINING, 3 SIGNING"


def test_back_to_the_key_before(site: Site) -> None:
    site.executor.rotate(site.group)
    site.run()
    new = site.link(7 * DAY)
    site.executor.rollback(site.group)
    assert site.stages == "1 SIGNING, 2 DRAINING"
    assert site.verdict(site.link()) == site.verdict(new) == "granted"
    before = site.now
    assert site.run(50) == []
    assert site.verdict(new, before + 7 * DAY - 1) == "granted"
    site.executor.resume(site.group)
    assert site.run() == key(2, OLD)
    with pytest.raises(RotationError, match="no key to go back to"):
        site.executor.rollback(site.group)


def test_a_compromised_key_is_out_at_once(site: Site) -> None:
    stolen = site.link(7 * DAY)
    site.executor.emergency(site.group, site.entry(1).key_pair_id)
    assert site.run(0, obey=False)[:5] == ["remove 1", "create 2", "register 2", "publish 2", "switch 2"]
    site.obey()
    assert site.verdict(stolen) == "unknown_key"
    assert site.verdict(site.link()) == "granted"
    assert site.run() == key(1, OLD[2:])
    assert site.held() == ["2"]


def test_a_compromised_key_serves_until_its_successor_is_everywhere(site: Site) -> None:
    stolen = site.link(7 * DAY)
    site.executor.emergency(site.group, site.entry(1).key_pair_id, keep_serving=True)
    assert site.run(0, obey=False) == ["create 2", "register 2", "publish 2"]
    assert site.verdict(stolen) == site.verdict(site.link()) == "granted"
    assert site.run() == [*key(2, NEW[3:]), "remove 1", *key(1, OLD[2:])]
    assert site.verdict(stolen) == "unknown_key"
    assert site.verdict(site.link()) == "granted"


def test_what_somebody_takes_out_by_hand_is_put_back(site: Site) -> None:
    link = site.link()
    site.change_by_hand([site.foreign])
    site.obey()
    assert site.verdict(link) == "unknown_key"
    assert site.run() == ["publish 1"]
    site.obey()
    assert site.verdict(link) == "granted"
