"""Rotations through every kind of fault: processes that die between any two steps, clocks that jump, lost answers,
edges that receive nothing, manual changes to the group, two executors at once. After every single change, the tests
check the invariant: every edge accepts what a key has signed under the terms until it expires."""

from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyfront.custody.key_record import Stage
from keyfront.errors import AccountError, CustodyError, RotationError
from tests.lifecycle.simulated_cloudfront import DAY, Crash, World

FAULTS = st.lists(st.sampled_from(["", "crash", "crashed", "refused", "unheard"]), max_size=2)


class Misfortune(RuleBasedStateMachine):
    @initialize(foreign=st.integers(0, 1), distributions=st.integers(0, 3))
    def begin(self, foreign: int, distributions: int) -> None:
        self.world = World(foreign=foreign, distributions=distributions)
        self.world.start()
        self.emergencies = 0
        self.world.run(days=1)

    def attempt(self, *faults: str) -> None:
        self.world.faults = list(faults)
        with contextlib.suppress(Crash, AccountError, CustodyError):
            self.world.step()
        self.world.faults = []

    @rule(faults=FAULTS)
    def step(self, faults: list[str]) -> None:
        self.attempt(*faults)

    @rule(times=st.integers(2, 6))
    def steps(self, times: int) -> None:
        for _ in range(times):
            self.attempt()

    @rule(faults=FAULTS)
    def two_at_once(self, faults: list[str]) -> None:
        def other() -> None:
            self.world.step()
            self.world.faults = list(faults)

        self.world.meanwhile = other
        self.attempt()
        self.world.meanwhile = lambda: None

    @rule(days=st.sampled_from([0.001, 0.01, 0.5, 5.0, 31.0, 95.0]))
    def time_passes(self, days: float) -> None:
        self.world.pass_to(self.world.now + days * DAY)

    @rule(ahead=st.sampled_from([0.0, 30.0, -59.0, 61.0, 3600.0, -3600.0, 400 * DAY, -400 * DAY]))
    def clock_jumps(self, ahead: float) -> None:
        self.world.ahead = ahead

    @rule()
    def edges_obey(self) -> None:
        self.world.obey()

    @rule(lost=st.booleans())
    def an_edge_is_lost(self, lost: bool) -> None:
        for edges in list(self.world.edges.values())[:1]:
            edges.lost = lost

    @rule(down=st.booleans())
    def custody_goes(self, down: bool) -> None:
        self.world.custody_down = down

    @rule(lag=st.booleans())
    def lists_lag(self, lag: bool) -> None:
        self.world.lists_lag = lag

    @rule(more=st.integers(-2, 4))
    def others_change_the_group(self, more: int) -> None:
        """They fill all remaining places, or leave."""
        world = self.world
        ours = [item for item in world.items if item not in world.foreign]
        for _ in range(max(0, min(more, 5 - len(world.items)))):
            world.add_foreign()
        if more < 0 and ours and len(world.foreign) >= -more:
            world.drop_foreign(-more)

    @rule()
    def rotate(self) -> None:
        self.order("rotate")

    @rule()
    def pause(self) -> None:
        self.order("pause")

    @rule()
    def resume(self) -> None:
        self.order("resume")

    @rule()
    def rollback(self) -> None:
        self.order("rollback")

    def order(self, name: str) -> None:
        with contextlib.suppress(RotationError, CustodyError):
            getattr(self.world.executor(), name)("photos")

    @precondition(lambda self: self.emergencies < 2)
    @rule(keep_serving=st.booleans(), which=st.integers(0, 4))
    def emergency(self, keep_serving: bool, which: int) -> None:
        entries = self.world.record.entries
        self.emergencies += 1
        key = entries[which % len(entries)].uri
        with contextlib.suppress(RotationError):
            self.world.executor().emergency("photos", key, keep_serving=keep_serving)

    @invariant()
    def never_two_sign(self) -> None:
        if hasattr(self, "world"):
            record = self.world.record  # reading it checks exactly that
            assert sum(entry.stage is Stage.SIGNING for entry in record.entries) == 1

    @invariant()
    def places_stay_free(self) -> None:
        if hasattr(self, "world"):
            ours = [item for item in self.world.items if item not in self.world.foreign]
            assert len(ours) <= (4 if self.emergencies else 3), ours

    def teardown(self) -> None:
        """After any faults: once all is well again, the rotation continues automatically and completes."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.ahead, world.custody_down, world.lists_lag, world.quota = 0.0, False, False, 100
        world.drop_foreign(max(0, len(world.foreign) - 1))
        for edges in world.edges.values():
            edges.lost = False
        world.executor().resume("photos")
        world.executor().change_terms("photos", lambda terms: msgspec.structs.replace(terms, every=""))
        world.run(days=60)
        before = world.record.signing
        assert before is not None
        assert world.trusts(before.key_pair_id)
        world.executor().rotate("photos")
        world.run(days=1)
        record = world.record
        assert record.signing is not None
        assert record.signing.uri != before.uri
        assert world.trusts(record.signing.key_pair_id)
        world.run(days=45)
        alive = [entry for entry in world.record.entries if not entry.gone]
        assert [entry.stage for entry in alive] == [Stage.SIGNING]
        assert set(world.items) == {*world.foreign, alive[0].key_pair_id}
        assert set(world.keys) == set(world.items)
        assert set(world.private) - set(world.doomed) == {alive[0].uri.rpartition("/")[2]}


Misfortune.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestMisfortune = Misfortune.TestCase
