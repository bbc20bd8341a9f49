"""Resources with their unique values, references, and tags. `store/contract.py` documents the methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from keyfront.control.store.config_json import dumps, loads
from keyfront.control.store.queries.base import BATCH, Queries
from keyfront.control.store.rows import Row
from keyfront.control.store.schema import reference as _reference
from keyfront.control.store.schema import resource as _resource
from keyfront.control.store.schema import tag as _tag
from keyfront.control.store.schema import unique_value as _unique


class ResourceQueries(Queries):
    """See `contract.Resources`."""

    # ---- resources

    def get(self, kind: str, id_: str) -> Row | None:
        found = self._connection.execute(
            sa.select(_resource).where(_resource.c.kind == kind, _resource.c.id == id_)
        ).one_or_none()
        return None if found is None else _row(found)

    def get_many(self, kind: str, ids: Iterable[str]) -> list[Row]:
        wanted = sorted(set(ids))
        rows: list[Row] = []
        for start in range(0, len(wanted), BATCH):
            rows += self._rows(
                sa.select(_resource)
                .where(_resource.c.kind == kind, _resource.c.id.in_(wanted[start : start + BATCH]))
                .order_by(_resource.c.id)
            )
        return rows

    def page(self, kind: str, after: str, limit: int) -> list[Row]:
        return self._rows(
            sa.select(_resource)
            .where(_resource.c.kind == kind, _resource.c.id > after)
            .order_by(_resource.c.id)
            .limit(limit)
        )

    def versions(self, kind: str) -> dict[str, str]:
        found = self._connection.execute(
            sa.select(_resource.c.id, _resource.c.etag)
            .where(_resource.c.kind == kind)
            .order_by(_resource.c.id)
        )
        return {id_: etag for id_, etag in found.all()}  # noqa: C416 - rows are tuples only by duck typing

    def count(self, kind: str) -> int:
        return self._scalar(sa.select(sa.func.count()).select_from(_resource).where(_resource.c.kind == kind))

    def insert(self, row: Row) -> None:
        self._connection.execute(sa.insert(_resource).values(**_columns(row)))

    def update(self, row: Row) -> None:
        self._connection.execute(
            sa.update(_resource)
            .where(_resource.c.kind == row.kind, _resource.c.id == row.id)
            .values(**_columns(row))
        )

    def delete(self, kind: str, id_: str) -> None:
        self._connection.execute(sa.delete(_resource).where(_resource.c.kind == kind, _resource.c.id == id_))

    def set_etags(self, kind: str, etags: Mapping[str, str]) -> None:
        if etags:
            self._connection.execute(
                sa.update(_resource)
                .where(_resource.c.kind == kind, _resource.c.id == sa.bindparam("key"))
                .values(etag=sa.bindparam("new")),
                [{"key": id_, "new": etag} for id_, etag in etags.items()],
            )

    def set_snapshot(self, kind: str, ids: Iterable[str], snapshot: int) -> None:
        """Record that these resources last changed with `snapshot`."""
        if rows := [{"key": id_} for id_ in ids]:
            self._connection.execute(
                sa.update(_resource)
                .where(_resource.c.kind == kind, _resource.c.id == sa.bindparam("key"))
                .values(snapshot=snapshot),
                rows,
            )

    def set_snapshot_of_all(self, snapshot: int) -> None:
        """Record that every resource last changed with `snapshot`."""
        self._connection.execute(sa.update(_resource).values(snapshot=snapshot))

    # ---- unique values

    def owners(self, kind: str, member: str, values: Iterable[str]) -> dict[str, str]:
        wanted = sorted(set(values))
        found: dict[str, str] = {}
        for start in range(0, len(wanted), BATCH):
            rows = self._connection.execute(
                sa.select(_unique.c.value, _unique.c.id).where(
                    _unique.c.kind == kind,
                    _unique.c.member == member,
                    _unique.c.value.in_(wanted[start : start + BATCH]),
                )
            )
            found |= {value: id_ for value, id_ in rows}  # noqa: C416 - rows are tuples only by duck typing
        return found

    def unique_values(self, kind: str, member: str) -> dict[str, str]:
        rows = self._connection.execute(
            sa.select(_unique.c.value, _unique.c.id).where(_unique.c.kind == kind, _unique.c.member == member)
        )
        return {value: id_ for value, id_ in rows}  # noqa: C416 - rows are tuples only by duck typing

    def set_unique_values(self, kind: str, id_: str, values: Mapping[str, Iterable[str]]) -> None:
        self._connection.execute(sa.delete(_unique).where(_unique.c.kind == kind, _unique.c.id == id_))
        rows = [
            {"kind": kind, "member": member, "value": value, "id": id_}
            for member, texts in values.items()
            for value in dict.fromkeys(texts)
        ]
        if rows:
            self._connection.execute(sa.insert(_unique), rows)

    # ---- references

    def set_references(self, kind: str, id_: str, targets: Iterable[tuple[str, str]]) -> None:
        self._connection.execute(
            sa.delete(_reference).where(_reference.c.from_kind == kind, _reference.c.from_id == id_)
        )
        rows = [
            {"from_kind": kind, "from_id": id_, "to_kind": to_kind, "to_id": to_id}
            for to_kind, to_id in dict.fromkeys(targets)
        ]
        if rows:
            self._connection.execute(sa.insert(_reference), rows)

    def referrers(self, kind: str, id_: str, by: str | None = None) -> list[str]:
        query = sa.select(_reference.c.from_id).where(_reference.c.to_kind == kind, _reference.c.to_id == id_)
        if by is not None:
            query = query.where(_reference.c.from_kind == by)
        return list(self._connection.scalars(query.order_by(_reference.c.from_id)))

    # ---- tags

    def tags(self, kind: str, id_: str) -> dict[str, str]:
        found = self._connection.execute(
            sa.select(_tag.c.key, _tag.c.value)
            .where(_tag.c.kind == kind, _tag.c.id == id_)
            .order_by(_tag.c.key)
        )
        return {key: value for key, value in found}  # noqa: C416 - rows are tuples only by duck typing

    def tag_values(self, key: str) -> dict[tuple[str, str], str]:
        found = self._connection.execute(
            sa.select(_tag.c.kind, _tag.c.id, _tag.c.value).where(_tag.c.key == key)
        )
        return {(kind, id_): value for kind, id_, value in found}

    def set_tags(self, kind: str, id_: str, tags: Mapping[str, str]) -> None:
        self._connection.execute(sa.delete(_tag).where(_tag.c.kind == kind, _tag.c.id == id_))
        if tags:
            self._connection.execute(
                sa.insert(_tag),
                [{"kind": kind, "id": id_, "key": key, "value": value} for key, value in tags.items()],
            )

    def _rows(self, query: sa.Select[Any]) -> list[Row]:
        return [_row(found) for found in self._connection.execute(query)]


def _row(found: sa.Row[Any]) -> Row:
    return Row(
        kind=found.kind,
        id=found.id,
        etag=found.etag,
        created=found.created,
        modified=found.modified,
        config=loads(found.config),
        attributes=loads(found.attributes),
        snapshot=found.snapshot,
    )


def _columns(row: Row) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "id": row.id,
        "etag": row.etag,
        "created": row.created,
        "modified": row.modified,
        "config": dumps(row.config),
        "attributes": dumps(row.attributes),
        "snapshot": row.snapshot,
    }
