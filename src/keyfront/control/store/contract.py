"""The protocols of a transaction: what the control plane's rules need from the store.

The operations, the authorization of calls, and the snapshot compiler use only these protocols, so none of them depends
on SQLAlchemy. `store/queries/` implements them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from keyfront.control.store.rows import AuditIndex, AuditRow, EdgeRow, InvalidationRow, Load, Row
from keyfront.model.invalidation import Carried


class Resources(Protocol):
    """Resources, each identified by kind and id, with their unique values, references, and tags."""

    def get(self, kind: str, id_: str) -> Row | None:
        """The resource; None if there is none."""

    def get_many(self, kind: str, ids: Iterable[str]) -> list[Row]:
        """The resources with these `ids` that exist, in order of id."""

    def page(self, kind: str, after: str, limit: int) -> list[Row]:
        """At most `limit` resources whose ids come after `after`, in order of id.

        That order neither skips nor repeats a resource when others are created or deleted between two pages.
        """

    def versions(self, kind: str) -> dict[str, str]:
        """The ETag of every resource of the kind, by id, in order of id."""

    def count(self, kind: str) -> int:
        """The number of resources of the kind."""

    def insert(self, row: Row) -> None:
        """Add a resource."""

    def update(self, row: Row) -> None:
        """Replace the resource that has the kind and id of `row`."""

    def delete(self, kind: str, id_: str) -> None:
        """Remove a resource with its tags, unique values, and references; no other resource may refer to it."""

    def set_etags(self, kind: str, etags: Mapping[str, str]) -> None:
        """Give these resources new ETags, by id."""

    def owners(self, kind: str, member: str, values: Iterable[str]) -> dict[str, str]:
        """The id of the resource that has each of `values`, for those that some resource has."""

    def unique_values(self, kind: str, member: str) -> dict[str, str]:
        """Every value of a unique member, with the id of the resource that has it."""

    def set_unique_values(self, kind: str, id_: str, values: Mapping[str, Iterable[str]]) -> None:
        """Replace all unique values of the resource with `values`, by member."""

    def set_references(self, kind: str, id_: str, targets: Iterable[tuple[str, str]]) -> None:
        """Replace all references of the resource with `targets` (kind, id)."""

    def referrers(self, kind: str, id_: str, by: str | None = None) -> list[str]:
        """The ids of the resources (of kind `by`, or of any kind) that refer to this one, in order."""

    def tags(self, kind: str, id_: str) -> dict[str, str]:
        """A resource's tags, in order of key."""

    def tag_values(self, key: str) -> dict[tuple[str, str], str]:
        """The value of the tag `key` of every resource that has it, by kind and id."""

    def set_tags(self, kind: str, id_: str, tags: Mapping[str, str]) -> None:
        """Replace all tags of the resource."""


class Invalidations(Protocol):
    """Invalidations of distributions. A snapshot carries the recent ones to edges (`model/invalidation.py`)."""

    def add_invalidation(self, row: InvalidationRow) -> None:
        """Add an invalidation."""

    def invalidation(
        self, distribution: str, *, id_: str = "", reference: str = ""
    ) -> InvalidationRow | None:
        """The distribution's invalidation with that id, or else with that caller reference."""

    def invalidations(self, distribution: str, after: str, limit: int) -> list[InvalidationRow]:
        """At most `limit` of the distribution's invalidations, newest first, starting after the id `after`.

        An empty `after` starts with the newest; an unknown one gives an empty list.
        """

    def in_progress(self, deployed: int) -> dict[str, Load]:
        """The invalidations first carried by a snapshot above `deployed`, totaled by distribution."""

    def carried(self, distribution: str) -> Carried:
        """The invalidations that the distribution's next snapshot carries."""

    def carried_versions(self) -> dict[str, str]:
        """The version of `carried`, for each distribution that has any."""

    def set_carried(self, distribution: str, carried: Carried, version: str) -> None:
        """Replace what the distribution carries.

        :param version: like an ETag: never used before, not even in a transaction that was rolled back.
        """


class Snapshots(Protocol):
    """The last snapshot, and the edges that the control planes on a shared store have reported."""

    def snapshot_number(self) -> int:
        """The number of the last committed snapshot, published or not."""

    def edges(self) -> Sequence[EdgeRow]:
        """The live edges, as reported by the control planes that share the store."""


class OperationTransaction(Resources, Invalidations, Snapshots, Protocol):
    """All that an operation may use."""


class AuditLog(Protocol):
    """The end of the audit log."""

    def audit_head(self) -> AuditRow | None:
        """The last record; None if the log is empty."""

    def append_audit(self, row: AuditRow, index: AuditIndex) -> None:
        """Append a record with the columns that searches use."""
