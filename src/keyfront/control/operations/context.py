"""The context of an operation: the call, the service's constants, and the transaction that it runs in.

Everything that an operation uses comes from here: the time is `call.now`, ids come from `service.rng`, and rows come
from `transaction`. So the operations are pure: they use no clock, socket, or thread, and only `control/service.py`
connects them to a database. An operation that detects an error raises the API's error; the service then rolls back the
transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from keyfront.control.call import Call
from keyfront.control.publish.compiler import Compiler
from keyfront.control.store.contract import OperationTransaction, Snapshots
from keyfront.control.store.rows import InvalidationRow, Load, Row
from keyfront.model.kinds import ETAG, KEY_GROUP, Quotas, RandomSource

Config = dict[str, Any]
Output = dict[str, Any]


class Progress(Protocol):
    """Deployment progress at the edges; `publish/progress.py` implements it."""

    highest: int

    def deployed(self, transaction: Snapshots) -> int: ...


class ServiceContext(msgspec.Struct, frozen=True):
    """The values that are the same for every call.

    :param account: the 12-digit number of the account that owns everything.
    :param domain_suffix: distributions' own names are `d….<domain_suffix>`.
    :param rng: the source of ids and ETags.
    """

    account: str
    domain_suffix: str
    quotas: Quotas
    rng: RandomSource
    compiler: Compiler
    progress: Progress


class OperationContext:
    """One call in its transaction. `changed` holds the ids of the distributions that it has changed so far."""

    __slots__ = ("_deployed", "_key_groups", "_loads", "call", "changed", "service", "transaction")

    def __init__(self, call: Call, service: ServiceContext, transaction: OperationTransaction) -> None:
        self.call = call
        self.service = service
        self.transaction = transaction
        self.changed: set[str] = set()
        self._deployed: int | None = None
        self._loads: dict[str, Load] | None = None
        self._key_groups: dict[str, list[str]] = {}

    @property
    def params(self) -> Config:
        """The call's parameters."""
        return self.call.params

    def new_etag(self) -> str:
        """An ETag that no resource has had before."""
        return ETAG.new(self.service.rng)

    def keys_of(self, groups: Iterable[str]) -> dict[str, list[str]]:
        """The ids of the public keys in each of these key groups. Cached, because distributions in one list often trust
        the same groups."""
        wanted = list(dict.fromkeys(groups))
        missing = (id_ for id_ in wanted if id_ not in self._key_groups)
        for row in self.transaction.get_many(KEY_GROUP.name, missing):
            self._key_groups[row.id] = row.config["Items"]
        return {id_: self._key_groups[id_] for id_ in wanted}

    def is_deployed(self, row: Row) -> bool:
        """True if some edge is live and all live edges have the snapshot with which `row` last changed."""
        return row.id not in self.changed and self._deployed_number() >= row.snapshot

    def is_completed(self, row: InvalidationRow) -> bool:
        """True if all edges that were live at one time have used a snapshot that carries the invalidation."""
        self._deployed_number()
        return self.service.progress.highest >= row.snapshot

    def load(self, distribution: str) -> Load:
        """The distribution's invalidations in progress."""
        if self._loads is None:
            self._deployed_number()
            self._loads = self.transaction.in_progress(self.service.progress.highest)
        return self._loads.get(distribution, Load())

    def _deployed_number(self) -> int:
        if self._deployed is None:
            self._deployed = self.service.progress.deployed(self.transaction)
        return self._deployed
