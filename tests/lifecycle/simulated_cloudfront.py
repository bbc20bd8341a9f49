"""A complete simulated environment for a rotation, behind the interfaces that the executor uses: a CloudFront whose
edges lag or are lost, a custody, a record store, clocks that jump, and a process that dies between any two actions.

Tests change everything through plain calls and attribute writes. The central check is `trusts`: whether every edge,
including one that has not received the latest change, accepts what a key has signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from keyfront.cloudfront.refusal import Refused
from keyfront.custody.contract import HeldKey, Record
from keyfront.custody.key_record import Entry, KeyGroupRecord, RotationPolicy, Stage, parse_record
from keyfront.custody.key_uri import SCHEMES
from keyfront.errors import CustodyUnavailable, KeyExists, NoSuchKey, RecordChanged
from keyfront.lifecycle.events import RotationEvent
from keyfront.lifecycle.executor import Outcome, RotationExecutor
from keyfront.lifecycle.facts import Distribution, Group, KnownKey
from keyfront.lifecycle.moves import Action
from keyfront.lifecycle.rotation import LISTED
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, load_public_key
from tests.keys import public_pem

T = TypeVar("T")
Names = list[str]  # a place has a method of that name

SCHEMES["world"] = "tests.lifecycle.simulated_cloudfront:open_world"
WORLDS: dict[str, World] = {}
DAY = 86400.0
PLACE = "world:keys/"
FOREIGN = "KFOREIGN"
GROUP_ID = "4b4f2f1c-315d-4c2e-a093-216a50bed10f"


class Crash(BaseException):
    """The process has died. None of our code may catch it."""


class Edges:
    """The edges of one distribution: `views` are the versions of the group's items that some of them may still obey,
    oldest first."""

    def __init__(self, items: tuple[str, ...]) -> None:
        self.views = [items]
        self.lost = False


class Handle:
    def __init__(self, world: World, name: str, key: PrivateKey) -> None:
        self.uri = f"{PLACE}{name}"
        self.public_key = key.public_key
        self.hash_names: tuple[HashName, ...] = ("SHA256",)
        self._world, self._key = world, key

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        self._world.ask_custody()
        return self._key.sign(data, hash_name)


class World:
    """`now` is the true time, which CloudFront uses; the executor's clock is `ahead` of it. `faults` apply to the
    next actions: "" none, "crash" before the action, "crashed" after it, "refused", or "unheard" (done, but the
    answer is lost)."""

    uri = PLACE
    algorithms: tuple[Algorithm, ...] = ("ECDSA-P256",)
    exports = False
    endpoint = "world"

    def __init__(
        self, terms: RotationPolicy | None = None, *, foreign: int = 1, distributions: int = 2
    ) -> None:
        WORLDS["keys/"] = self
        self.now = 1_800_000_000.0
        self.ahead = 0.0
        self.faults: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.custody_down = False
        self.private: dict[str, PrivateKey] = {}
        self.doomed: dict[str, float] = {}
        self.keys: dict[str, KnownKey] = {}
        self.quota = 10
        self.lists_lag = False
        self.born: dict[str, float] = {}
        self.groups: dict[str, list[str]] = {}
        self.foreign = tuple(f"{FOREIGN}{number}" for number in range(foreign))
        self.items: tuple[str, ...] = self.foreign
        for id_ in self.foreign:
            self.keys[id_] = KnownKey(id_, id_, public_pem())
        self.version = 1
        self.modified = self.now
        self.there = True
        self.edges = {f"E{number}": Edges(self.items) for number in range(distributions)}
        self.texts: dict[str, Record] = {}
        self.writes = 0
        self.events: list[RotationEvent] = []
        self.owed: dict[str, float] = {}
        """Until when edges have to trust a key, by its id: what it may have signed by the terms."""
        self.seen: dict[str, float] = {}
        """Until when the latest link that edges have seen of a key is good."""
        self.hasty: set[str] = set()
        """Keys that signers took in an emergency, before every edge trusted them."""
        self.terms = terms or RotationPolicy(
            PLACE, every=90 * DAY, overlap=30 * DAY, max_lifetime=7 * DAY, max_staleness=3600.0
        )

    # ---- what tests do with it

    def executor(self) -> RotationExecutor:
        return RotationExecutor(self, self, {}, [self], lambda: self.now + self.ahead)

    def start(self, adopt: Mapping[str, str] | None = None) -> KeyGroupRecord:
        group = self.find_key_group("photos")
        assert group is not None
        return self.executor().start(group, self.terms, adopt or {})

    def step(self) -> Outcome:
        return self.executor().step("photos")

    def run(self, *, days: float = 0.0, obey: bool = True) -> list[str]:
        """All steps within some days: their actions and the numbers of their keys."""
        ends, done = self.now + days * DAY, list[str]()
        for _ in range(400):
            outcome = self.step()
            if outcome.taken is not None:
                done.append(f"{outcome.taken.action.value} {outcome.taken.name.rpartition('-')[2]}")
                assert not outcome.error, outcome
            elif obey and self.obey():
                pass
            elif outcome.wait is not None and outcome.wait.until is not None and outcome.wait.until <= ends:
                self.pass_to(outcome.wait.until)
            else:
                self.pass_to(ends)
                return done
        raise AssertionError(f"no end: {done[-20:]}")

    def pass_to(self, time: float) -> None:
        self.check()
        self.now = max(self.now, time)
        self.check()

    def obey(self, *names: str) -> bool:
        """Edges receive the current group. Returns whether any of them did not have it."""
        found = False
        for name in names or self.edges:
            edges = self.edges[name]
            if len(edges.views) > 1 and not edges.lost:
                edges.views = [self.items]
                found = True
        return found

    def add_foreign(self) -> None:
        """An outsider adds a key to the group."""
        self.quota += 1
        id_ = f"{FOREIGN}{len(self.keys)}-{self.version}"
        self.keys = {id_: KnownKey(id_, id_, "of somebody else"), **self.keys}
        self.foreign = (*self.foreign, id_)
        self._change((*self.items, id_))

    def drop_foreign(self, number: int) -> None:
        """An outsider removes those keys again, and deletes them."""
        for id_ in self.foreign[:number]:
            del self.keys[id_]
        gone, self.foreign = self.foreign[:number], self.foreign[number:]
        self._change(tuple(item for item in self.items if item not in gone))

    def tamper(self, items: Iterable[str]) -> None:
        """An outsider changes the group."""
        self._change(tuple(items))

    def trusts(self, key_pair_id: str) -> bool:
        return all(key_pair_id in view for edges in self.edges.values() for view in edges.views)

    @property
    def record(self) -> KeyGroupRecord:
        return parse_record(self.texts["photos"].data)

    def entry(self, number: int) -> Entry:
        """The key with that number."""
        return next(entry for entry in self.record.entries if entry.uri.endswith(f"-{number}"))

    def stages(self) -> str:
        """All keys and their stages, `1 DRAINING, 2 SIGNING`."""
        return ", ".join(f"{e.uri.rpartition('-')[2]} {e.stage.value}" for e in self.record.entries)

    # ---- invariants

    def check(self) -> None:
        for id_, until in self.owed.items():
            if self.trusts(id_):
                self.hasty.discard(id_)
            elif self.now <= until and id_ not in self.hasty:
                raise AssertionError(f"what {id_} has signed is refused, {until - self.now:.0f} s too early")

    def _owe(self, record: KeyGroupRecord) -> None:
        """From now on signers follow `record`; some followed the previous one until a moment ago."""
        reach = self.terms.max_staleness + self.terms.max_lifetime
        for entry in record.entries:
            if entry.compromised:
                self.owed.pop(entry.key_pair_id, None)
            elif entry.stage is Stage.SIGNING:
                if not entry.published and entry.key_pair_id not in self.owed:
                    self.hasty.add(entry.key_pair_id)
                self.owed[entry.key_pair_id] = float("inf")
            elif self.owed.get(entry.key_pair_id) == float("inf"):
                self.owed[entry.key_pair_id] = self.now + reach

    def _do(self, deed: Callable[[], T], error: Exception) -> T:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "crash":
            raise Crash
        if fault == "refused":
            raise error
        found = deed()
        self.check()
        if fault == "crashed":
            raise Crash
        if fault == "unheard":
            raise error
        return found

    def on_event(self, event: RotationEvent) -> None:
        self.events.append(event)

    # ---- the API

    @property
    def skew(self) -> float | None:
        return -self.ahead

    def _change(self, items: tuple[str, ...]) -> None:
        self.items = items
        self.version += 1
        self.modified = self.now
        for edges in self.edges.values():
            edges.views.append(items)

    def key_group(self, id_: str) -> Group | None:
        if not self.there or id_ != GROUP_ID:
            return None
        return Group(GROUP_ID, "photos", self.items, str(self.version), self.modified)

    def find_key_group(self, name: str) -> Group | None:
        return self.key_group(GROUP_ID) if name == "photos" else None

    def update_key_group(self, group: Group, items: tuple[str, ...]) -> None:
        def deed() -> None:
            if group.etag != str(self.version):
                raise Refused("UpdateKeyGroup: PreconditionFailed", "PreconditionFailed")
            assert 0 < len(items) <= 5, items
            assert len(set(items)) == len(items), items
            assert set(items) <= self.keys.keys(), "InvalidArgument"
            assert set(items) & set(self.foreign) == set(self.items) & set(self.foreign), "a key of others"
            self._change(items)

        self._do(deed, Refused("UpdateKeyGroup: ServiceUnavailable", "ServiceUnavailable"))

    def key_groups_of(self, public_keys: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        there = {**self.groups, "photos": list(self.items)}
        return {
            id_: names
            for id_ in public_keys
            if (names := tuple(name for name, items in there.items() if id_ in items))
        }

    def public_keys(self) -> tuple[KnownKey, ...]:
        since = self.now - LISTED if self.lists_lag else self.now
        return tuple(key for key in self.keys.values() if self.born.get(key.id, 0.0) <= since)

    def public_key(self, id_: str) -> KnownKey | None:
        return self.keys.get(id_)

    def create_public_key(self, name: str, encoded_key: str, comment: str) -> str:
        def deed() -> str:
            load_public_key(encoded_key)
            if any(key.name == name for key in self.keys.values()):
                raise Refused("CreatePublicKey: PublicKeyAlreadyExists", "PublicKeyAlreadyExists")
            if len(self.keys) >= self.quota:
                raise Refused("CreatePublicKey: TooManyPublicKeys", "TooManyPublicKeys")
            id_ = f"K{name.rpartition('-')[2]}"
            self.keys[id_] = KnownKey(id_, name, encoded_key)
            self.born[id_] = self.now
            return id_

        return self._do(deed, Refused("CreatePublicKey: ServiceUnavailable", "ServiceUnavailable"))

    def delete_public_key(self, id_: str) -> None:
        def deed() -> None:
            assert not self.key_groups_of([id_]), "PublicKeyInUse"
            self.keys.pop(id_, None)

        self._do(deed, Refused("DeletePublicKey: ServiceUnavailable", "ServiceUnavailable"))

    def distributions(self, key_group_id: str) -> tuple[Distribution, ...]:
        return tuple(
            Distribution(name, "Deployed" if len(edges.views) == 1 else "InProgress")
            for name, edges in self.edges.items()
        )

    def last_expiry(self) -> Mapping[str, float]:
        return self.seen

    # ---- custody

    def ask_custody(self) -> None:
        if self.custody_down:
            raise CustodyUnavailable("custody cannot be asked")

    def _found(self, name: str) -> HeldKey:
        self.ask_custody()
        if name not in self.private:
            raise NoSuchKey(f"there is no {name}")
        key = self.private[name].public_key
        return HeldKey(f"{PLACE}{name}", name, key, self.now, False, delete_at=self.doomed.get(name))

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        def deed() -> HeldKey:
            self.ask_custody()
            if name in self.private:
                raise KeyExists(f"{name} is there already")
            self.private[name] = new_key()
            return self._found(name)

        return self._do(deed, CustodyUnavailable("custody has gone away"))

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        self.private[name] = key
        return self._found(name)

    def list(self) -> Iterator[HeldKey]:
        return (self._found(name) for name in sorted(self.private))

    def describe(self, name: str) -> HeldKey:
        return self._found(name)

    def handle(self, name: str) -> Handle:
        if self._found(name).delete_at is not None:
            raise NoSuchKey(f"{name} is to be deleted")
        return Handle(self, name, self.private[name])

    def export(self, name: str) -> PrivateKey:
        return self.private[name]

    def delete(self, name: str, *, grace: float, now: float) -> HeldKey:
        def deed() -> HeldKey:
            found = self._found(name)
            assert name in self.doomed or self._may_go(name), f"{name} still signs"
            self.doomed.setdefault(name, now + grace)
            return found

        return self._do(deed, CustodyUnavailable("custody has gone away"))

    def _may_go(self, name: str) -> bool:
        return all(e.stage is Stage.RETIRED for e in self.record.entries if e.uri == f"{PLACE}{name}")

    def undelete(self, name: str) -> HeldKey:
        self.doomed.pop(name, None)
        return self._found(name)

    # ---- records

    def read(self, name: str) -> Record | None:
        return self.texts.get(name)

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        def deed() -> Record:
            there = self.texts.get(name)
            if (there.version if there else None) != version:
                raise RecordChanged(f"{name} holds something else")
            self.writes += 1
            self.texts[name] = Record(name, data, str(self.writes))
            self._owe(parse_record(data))
            return self.texts[name]

        return self._do(deed, CustodyUnavailable("the records have gone away"))

    def names(self) -> Names:
        return sorted(self.texts)

    def remove(self, name: str, version: str) -> None:
        del self.texts[name]


def new_key() -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return PrivateKey(ec.generate_private_key(ec.SECP256R1()))


def open_world(place: str, options: Mapping[str, str], environment: Mapping[str, str]) -> World:
    return WORLDS[place]


def actions(events: Iterable[RotationEvent], moment: str = "after") -> list[str]:
    known = {action.value for action in Action}
    return [each.action for each in events if each.moment == moment and each.action in known]
