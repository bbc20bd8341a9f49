"""What may be read and written between begin and commit."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from keyfront.control.store.rows import AuditRow, EdgeRow, InvalidationRow, Load, Row
from keyfront.control.store.schema import audit as _audit
from keyfront.control.store.schema import carried as _carried
from keyfront.control.store.schema import counter as _counter
from keyfront.control.store.schema import edge as _edge
from keyfront.control.store.schema import invalidation as _invalidation
from keyfront.control.store.schema import reference as _reference
from keyfront.control.store.schema import resource as _resource
from keyfront.control.store.schema import schema as _schema
from keyfront.control.store.schema import tag as _tag
from keyfront.control.store.schema import unique_value as _unique
from keyfront.fleet.feed import STALE
from keyfront.model.invalidation import Carried
from keyfront.model.kinds import DISTRIBUTION

_DISTRIBUTION = DISTRIBUTION.name


_carried_decoder = msgspec.json.Decoder(Carried)


class Now(FunctionElement[float]):
    """Epoch seconds by the database's clock, which is the same for whoever asks it."""

    type = sa.Float()
    inherit_cache = True


@compiles(Now, "sqlite")
def _now_of_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "postgresql")
def _now_of_postgres(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"


class Transaction:
    """What may be read and written between begin and commit. Made by `Store.read` and `Store.write` only."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @property
    def connection(self) -> sa.Connection:
        """For what keeps tables of its own beside these, in the same transaction (`users.py`, `trail.py`)."""
        return self._connection

    def schema(self) -> int:
        """The version of the schema that the store has now."""
        return self._scalar(sa.select(sa.func.max(_schema.c.version)))

    # ---- resources

    def get(self, kind: str, id_: str) -> Row | None:
        found = self._connection.execute(
            sa.select(_resource).where(_resource.c.kind == kind, _resource.c.id == id_)
        ).one_or_none()
        return None if found is None else _row(found)

    def page(self, kind: str, after: str, limit: int) -> list[Row]:
        """At most `limit` resources whose ids come after `after`, in the order of their ids.

        That order neither skips nor repeats a resource when others come and go between two pages.
        """
        return self._rows(
            sa.select(_resource)
            .where(_resource.c.kind == kind, _resource.c.id > after)
            .order_by(_resource.c.id)
            .limit(limit)
        )

    def some(self, kind: str, ids: Iterable[str]) -> list[Row]:
        """Those of `ids` that exist, in the order of their ids."""
        wanted = sorted(set(ids))
        rows: list[Row] = []
        for start in range(0, len(wanted), 500):  # databases bound the number of parameters of a statement
            rows += self._rows(
                sa.select(_resource)
                .where(_resource.c.kind == kind, _resource.c.id.in_(wanted[start : start + 500]))
                .order_by(_resource.c.id)
            )
        return rows

    def versions(self, kind: str) -> dict[str, str]:
        """The ETag of each resource of the kind, by id, in the order of the ids."""
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
        """Remove a resource with its tags, unique values and references; it must not be referred to."""
        self._connection.execute(sa.delete(_resource).where(_resource.c.kind == kind, _resource.c.id == id_))

    def retag(self, kind: str, etags: Mapping[str, str]) -> None:
        """Give these resources new ETags, by id."""
        if etags:
            self._connection.execute(
                sa.update(_resource)
                .where(_resource.c.kind == kind, _resource.c.id == sa.bindparam("key"))
                .values(etag=sa.bindparam("new")),
                [{"key": id_, "new": etag} for id_, etag in etags.items()],
            )

    def stamp(self, kind: str, ids: Iterable[str], snapshot: int) -> None:
        """Note that these resources changed with `snapshot`."""
        if rows := [{"key": id_} for id_ in ids]:
            self._connection.execute(
                sa.update(_resource)
                .where(_resource.c.kind == kind, _resource.c.id == sa.bindparam("key"))
                .values(snapshot=snapshot),
                rows,
            )

    def stamp_all(self, snapshot: int) -> None:
        """Note that everything changed with `snapshot`."""
        self._connection.execute(sa.update(_resource).values(snapshot=snapshot))

    # ---- values that only one resource of a kind may have

    def owners(self, kind: str, member: str, values: Iterable[str]) -> dict[str, str]:
        """Who has which of `values`: value -> id."""
        wanted = sorted(set(values))
        found: dict[str, str] = {}
        for start in range(0, len(wanted), 500):
            rows = self._connection.execute(
                sa.select(_unique.c.value, _unique.c.id).where(
                    _unique.c.kind == kind,
                    _unique.c.member == member,
                    _unique.c.value.in_(wanted[start : start + 500]),
                )
            )
            found |= {value: id_ for value, id_ in rows}  # noqa: C416
        return found

    def values(self, kind: str, member: str) -> dict[str, str]:
        """Every value of the member, and who has it: value -> id."""
        rows = self._connection.execute(
            sa.select(_unique.c.value, _unique.c.id).where(_unique.c.kind == kind, _unique.c.member == member)
        )
        return {value: id_ for value, id_ in rows}  # noqa: C416

    def claim(self, kind: str, id_: str, values: Mapping[str, Iterable[str]]) -> None:
        """Give the resource these values (member -> values) in the place of all that it had."""
        self._connection.execute(sa.delete(_unique).where(_unique.c.kind == kind, _unique.c.id == id_))
        claims = [
            {"kind": kind, "member": member, "value": value, "id": id_}
            for member, texts in values.items()
            for value in dict.fromkeys(texts)
        ]
        if claims:
            self._connection.execute(sa.insert(_unique), claims)

    # ---- references

    def refer(self, kind: str, id_: str, targets: Iterable[tuple[str, str]]) -> None:
        """Let the resource refer to `targets` (kind, id), and to nothing else."""
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
        """The ids of the resources (of kind `by`, or of any) that refer to this one, in order."""
        query = sa.select(_reference.c.from_id).where(_reference.c.to_kind == kind, _reference.c.to_id == id_)
        if by is not None:
            query = query.where(_reference.c.from_kind == by)
        return list(self._connection.scalars(query.order_by(_reference.c.from_id)))

    # ---- tags

    def tags(self, kind: str, id_: str) -> dict[str, str]:
        """A resource's tags, in the order of their keys."""
        found = self._connection.execute(
            sa.select(_tag.c.key, _tag.c.value)
            .where(_tag.c.kind == kind, _tag.c.id == id_)
            .order_by(_tag.c.key)
        )
        return {key: value for key, value in found}  # noqa: C416

    def tagged(self, key: str) -> dict[tuple[str, str], str]:
        """The value of the tag `key` of every resource that has it, by kind and id."""
        found = self._connection.execute(
            sa.select(_tag.c.kind, _tag.c.id, _tag.c.value).where(_tag.c.key == key)
        )
        return {(kind, id_): value for kind, id_, value in found}

    def set_tags(self, kind: str, id_: str, tags: Mapping[str, str]) -> None:
        """Give the resource these tags in the place of all that it had."""
        self._connection.execute(sa.delete(_tag).where(_tag.c.kind == kind, _tag.c.id == id_))
        if tags:
            self._connection.execute(
                sa.insert(_tag),
                [{"kind": kind, "id": id_, "key": key, "value": value} for key, value in tags.items()],
            )

    # ---- invalidations

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
        """The distribution's invalidation with that id, or else with that caller reference."""
        named = _invalidation.c.id == id_ if id_ else _invalidation.c.reference == reference
        found = self._connection.execute(
            sa.select(_invalidation).where(_invalidation.c.distribution == distribution, named)
        ).one_or_none()
        return None if found is None else _invalidation_row(found)

    def invalidations(self, distribution: str, after: str, limit: int) -> list[InvalidationRow]:
        """At most `limit` of the distribution's invalidations, newest first, from the one after that with the id
        `after`; from the newest if that is empty, none if there is none with that id."""
        query = sa.select(_invalidation).where(_invalidation.c.distribution == distribution)
        if after:
            marker = sa.select(_invalidation.c.sequence).where(
                _invalidation.c.distribution == distribution, _invalidation.c.id == after
            )
            query = query.where(_invalidation.c.sequence < marker.scalar_subquery())
        found = self._connection.execute(query.order_by(_invalidation.c.sequence.desc()).limit(limit))
        return [_invalidation_row(row) for row in found]

    def in_progress(self, reached: int) -> dict[str, Load]:
        """What the snapshots above `reached` were the first to carry, by distribution."""
        found = self._connection.execute(
            sa.select(
                _invalidation.c.distribution,
                sa.func.count(),
                sa.func.sum(_invalidation.c.paths),
                sa.func.sum(_invalidation.c.wildcards),
            )
            .where(_invalidation.c.snapshot > reached)
            .group_by(_invalidation.c.distribution)
        )
        return {row[0]: Load(*row[1:]) for row in found}

    def carried(self, distribution: str) -> Carried:
        """What the distribution's next snapshot carries."""
        found = self._connection.execute(
            sa.select(_carried.c.invalidations).where(_carried.c.distribution == distribution)
        ).scalar_one_or_none()
        return () if found is None else _carried_decoder.decode(found)

    def carried_versions(self) -> dict[str, str]:
        """The version of `carried`, by distribution, where there is any."""
        found = self._connection.execute(sa.select(_carried.c.distribution, _carried.c.version))
        return {id_: version for id_, version in found}  # noqa: C416

    def set_carried(self, distribution: str, carried: Carried, version: str) -> None:
        """Carry this from now on. `version` is like an ETag: never used before, not even in what was undone."""
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
        """Note that `snapshot` is the first to carry any of them."""
        self._connection.execute(sa.update(_invalidation).values(snapshot=snapshot))

    # ---- counters

    def snapshot_number(self) -> int:
        """The number of the last snapshot that was decided, published or not."""
        return self._scalar(sa.select(_counter.c.value).where(_counter.c.name == "snapshot"))

    def decided(self) -> float:
        """When that snapshot was decided: epoch seconds, to the millisecond."""
        return self._scalar(sa.select(_counter.c.value).where(_counter.c.name == "decided")) / 1000

    def set_snapshot_number(self, number: int, now: float) -> None:
        """Decide the next snapshot at `now` (epoch seconds)."""
        self._set_counter("snapshot", number)
        self._set_counter("decided", int(now * 1000))

    def reached(self) -> int:
        """The highest number that every edge is known to have obeyed."""
        return self._scalar(sa.select(_counter.c.value).where(_counter.c.name == "reached"))

    def set_reached(self, number: int) -> None:
        """Every edge was seen to obey `number`; a lower one than before changes nothing."""
        self._connection.execute(
            sa.update(_counter)
            .where(_counter.c.name == "reached", _counter.c.value < number)
            .values(value=number)
        )

    # ---- the edges of all control planes

    def edges(self) -> list[EdgeRow]:
        """The edges that are live, by what control planes that share the store have said of theirs."""
        found = self._connection.execute(
            sa.select(_edge.c.replica, _edge.c.name, _edge.c.number, _edge.c.region)
            .where(_edge.c.seen > Now() - STALE)
            .order_by(_edge.c.replica, _edge.c.name)
        )
        return [EdgeRow(*row) for row in found]

    def set_edges(
        self, replica: str, numbers: Mapping[str, int], regions: Mapping[str, str] | None = None
    ) -> None:
        """Note which edges of the control plane `replica` are live now, what they obey (name -> number), and where they
        are (name -> region, for those that are in one)."""
        self._connection.execute(sa.delete(_edge).where(_edge.c.replica == replica))
        for name, number in numbers.items():
            region = (regions or {}).get(name, "")
            self._connection.execute(
                sa.insert(_edge).values(replica=replica, name=name, number=number, seen=Now(), region=region)
            )
        self._connection.execute(sa.delete(_edge).where(_edge.c.seen < Now() - 60))

    # ---- the audit log

    def audit_head(self) -> AuditRow | None:
        """The last record."""
        found = self._connection.execute(
            sa.select(_audit.c.number, _audit.c.record, _audit.c.digest)
            .order_by(_audit.c.number.desc())
            .limit(1)
        ).one_or_none()
        return None if found is None else AuditRow(*found)

    def append_audit(
        self, row: AuditRow, *, time: float, name: str, principal: str, resource: str, error: str
    ) -> None:
        """Append a record; the columns beside it (epoch seconds, event name, ARN of the caller, the id
        acted on, error code or "") are what it can be searched by."""
        self._connection.execute(
            sa.insert(_audit).values(
                number=row.number,
                record=row.record,
                digest=row.digest,
                time=time,
                name=name,
                principal=principal,
                resource=resource.replace("\0", "\\x00"),  # of which PostgreSQL takes none
                error=error,
            )
        )

    def audit(self, after: int = 0, limit: int = 1000) -> list[AuditRow]:
        """At most `limit` records after number `after`, oldest first."""
        found = self._connection.execute(
            sa.select(_audit.c.number, _audit.c.record, _audit.c.digest)
            .where(_audit.c.number > after)
            .order_by(_audit.c.number)
            .limit(limit)
        )
        return [AuditRow(*row) for row in found]

    def _set_counter(self, name: str, value: int) -> None:
        self._connection.execute(sa.update(_counter).where(_counter.c.name == name).values(value=value))

    def _rows(self, query: sa.Select[Any]) -> list[Row]:
        return [_row(found) for found in self._connection.execute(query)]

    def _scalar(self, query: sa.Select[Any]) -> int:
        return int(self._connection.execute(query).scalar_one())


def dumps(value: Any) -> bytes:
    """A config as JSON. :raises TypeError: if it holds what no config of the API can hold."""
    return msgspec.json.encode(_packed(value))


def loads(data: bytes) -> Any:
    """What `dumps` was given."""
    value = msgspec.json.decode(data)
    return _unpacked(value) if b'"$' in data else value


def _packed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _packed(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(member) for member in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a config holds no {type(value).__name__}")


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        if value.keys() == {"$time"}:
            return datetime.fromisoformat(value["$time"])
        return {key: _unpacked(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_unpacked(member) for member in value]
    return value


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
