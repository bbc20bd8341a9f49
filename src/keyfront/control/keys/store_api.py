"""What a rotation needs to know of CloudFront, read from the store of this control plane: for plans and commands.

The steps themselves are API calls over the control plane's own endpoint (`rotations.py`), so that they are authorized
and recorded. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import sqlalchemy as sa

from keyfront.cloudfront.refusal import Refused
from keyfront.control.keys.usage import uses
from keyfront.control.store.rows import Row
from keyfront.control.store.schema import reference as _reference
from keyfront.control.store.schema import resource as _resource
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.lifecycle.facts import Distribution, Group, KnownKey
from keyfront.model.kinds import DISTRIBUTION, KEY_GROUP, PUBLIC_KEY

_PAGE = 1000


class StoreApi:
    """Implements `lifecycle/cloudfront.py: Api` without changes.

    :param endpoint: this control plane's URL, for messages.
    :param deployed: returns the number of the newest snapshot that every live edge uses.
    :param clock: epoch seconds.
    """

    def __init__(
        self,
        store: Store,
        endpoint: str,
        deployed: Callable[[Transaction], int],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._deployed = deployed
        self._clock = clock

    @property
    def endpoint(self) -> str:
        return self._endpoint

    @property
    def skew(self) -> float | None:
        return 0.0

    def key_group(self, id_: str) -> Group | None:
        with self._store.read() as transaction:
            row = transaction.get(KEY_GROUP.name, id_)
        return None if row is None else _group(row)

    def find_key_group(self, name: str) -> Group | None:
        return next((_group(row) for row in self._all(KEY_GROUP.name) if row.config["Name"] == name), None)

    def key_groups_of(self, public_keys: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        with self._store.read() as transaction:
            for id_ in public_keys:
                referrers = transaction.referrers(PUBLIC_KEY.name, id_, KEY_GROUP.name)
                rows = transaction.get_many(KEY_GROUP.name, referrers)
                if rows:
                    found[id_] = tuple(row.config["Name"] for row in rows)
        return found

    def public_keys(self) -> tuple[KnownKey, ...]:
        return tuple(_key(row) for row in self._all(PUBLIC_KEY.name))

    def public_key(self, id_: str) -> KnownKey | None:
        with self._store.read() as transaction:
            row = transaction.get(PUBLIC_KEY.name, id_)
        return None if row is None else _key(row)

    def distributions(self, key_group_id: str) -> tuple[Distribution, ...]:
        with self._store.read() as transaction:
            # Without the configs: a key group can guard many distributions.
            rows = transaction.connection.execute(
                sa.select(_resource.c.id, _resource.c.snapshot)
                .join(_reference, (_reference.c.from_id == _resource.c.id))
                .where(
                    _resource.c.kind == DISTRIBUTION.name,
                    _reference.c.from_kind == DISTRIBUTION.name,
                    _reference.c.to_kind == KEY_GROUP.name,
                    _reference.c.to_id == key_group_id,
                )
                .order_by(_resource.c.id)
            ).all()
            deployed = self._deployed(transaction)
        return tuple(
            Distribution(row.id, "Deployed" if deployed >= row.snapshot else "InProgress") for row in rows
        )

    def last_expiry(self) -> Mapping[str, float]:
        with self._store.read() as transaction:
            return {use.key_pair_id: use.signatures_end for use in uses(transaction, self._clock()).items}

    # what only a step does

    def update_key_group(self, group: Group, items: tuple[str, ...]) -> None:
        raise _unchanged()

    def create_public_key(self, name: str, encoded_key: str, comment: str) -> str:
        raise _unchanged()

    def delete_public_key(self, id_: str) -> None:
        raise _unchanged()

    def _all(self, kind: str) -> Iterable[Row]:
        after = ""
        while True:
            with self._store.read() as transaction:
                rows = transaction.page(kind, after, _PAGE)
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1].id


def _group(row: Row) -> Group:
    config = row.config
    return Group(
        row.id, config["Name"], tuple(config["Items"]), row.etag, row.modified, config.get("Comment") or ""
    )


def _key(row: Row) -> KnownKey:
    return KnownKey(row.id, row.config["Name"], row.config["EncodedKey"])


def _unchanged() -> Refused:
    return Refused("steps are taken over the API", "InvalidAction")
