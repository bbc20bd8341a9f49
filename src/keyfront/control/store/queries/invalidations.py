"""Invalidations, and those that the next snapshot carries. `store/contract.py` documents the methods."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from keyfront.control.store.config_json import dumps, loads
from keyfront.control.store.queries.base import Queries
from keyfront.control.store.rows import InvalidationRow, Load
from keyfront.control.store.schema import carried as _carried
from keyfront.control.store.schema import invalidation as _invalidation
from keyfront.model.invalidation import Carried
from keyfront.model.kinds import DISTRIBUTION

_DISTRIBUTION = DISTRIBUTION.name
_carried_decoder = msgspec.json.Decoder(Carried)


class InvalidationQueries(Queries):
    """See `contract.Invalidations`."""

    def add_invalidation(self, row: InvalidationRow) -> None:
        self._connection.execute(
            sa.insert(_invalidation).values(
                kind=_DISTRIBUTION,
                distribution=row.distribution,
                id=row.id,
                reference=row.batch["CallerReference"],
                created=row.created,
                batch=dumps(row.batch),
                paths=row.paths,
                wildcards=row.wildcards,
                snapshot=row.snapshot,
            )
        )

    def invalidation(
        self, distribution: str, *, id_: str = "", reference: str = ""
    ) -> InvalidationRow | None:
        named = _invalidation.c.id == id_ if id_ else _invalidation.c.reference == reference
        found = self._connection.execute(
            sa.select(_invalidation).where(_invalidation.c.distribution == distribution, named)
        ).one_or_none()
        return None if found is None else _invalidation_row(found)

    def invalidations(self, distribution: str, after: str, limit: int) -> list[InvalidationRow]:
        query = sa.select(_invalidation).where(_invalidation.c.distribution == distribution)
        if after:
            marker = sa.select(_invalidation.c.sequence).where(
                _invalidation.c.distribution == distribution, _invalidation.c.id == after
            )
            query = query.where(_invalidation.c.sequence < marker.scalar_subquery())
        found = self._connection.execute(query.order_by(_invalidation.c.sequence.desc()).limit(limit))
        return [_invalidation_row(row) for row in found]

    def in_progress(self, deployed: int) -> dict[str, Load]:
        found = self._connection.execute(
            sa.select(
                _invalidation.c.distribution,
                sa.func.count(),
                sa.func.sum(_invalidation.c.paths),
                sa.func.sum(_invalidation.c.wildcards),
            )
            .where(_invalidation.c.snapshot > deployed)
            .group_by(_invalidation.c.distribution)
        )
        return {row[0]: Load(*row[1:]) for row in found}

    def carried(self, distribution: str) -> Carried:
        found = self._connection.execute(
            sa.select(_carried.c.invalidations).where(_carried.c.distribution == distribution)
        ).scalar_one_or_none()
        return () if found is None else _carried_decoder.decode(found)

    def carried_versions(self) -> dict[str, str]:
        found = self._connection.execute(sa.select(_carried.c.distribution, _carried.c.version))
        return {id_: version for id_, version in found}  # noqa: C416 - rows are tuples only by duck typing

    def set_carried(self, distribution: str, carried: Carried, version: str) -> None:
        self._connection.execute(sa.delete(_carried).where(_carried.c.distribution == distribution))
        self._connection.execute(
            sa.insert(_carried).values(
                kind=_DISTRIBUTION,
                distribution=distribution,
                version=version,
                invalidations=msgspec.json.encode(carried),
            )
        )

    def renumber_invalidations(self, snapshot: int) -> None:
        """Record `snapshot` as the first to carry any of them."""
        self._connection.execute(sa.update(_invalidation).values(snapshot=snapshot))


def _invalidation_row(found: sa.Row[Any]) -> InvalidationRow:
    return InvalidationRow(
        distribution=found.distribution,
        id=found.id,
        created=found.created,
        batch=loads(found.batch),
        paths=found.paths,
        wildcards=found.wildcards,
        snapshot=found.snapshot,
    )
