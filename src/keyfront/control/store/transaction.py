"""The transaction: everything that can be read and written between BEGIN and COMMIT. The statements are in `queries/`,
grouped by tables."""

from __future__ import annotations

import sqlalchemy as sa

from keyfront.control.store.queries.audit_log import AuditQueries
from keyfront.control.store.queries.invalidations import InvalidationQueries
from keyfront.control.store.queries.resources import ResourceQueries
from keyfront.control.store.queries.snapshots import SnapshotQueries
from keyfront.control.store.schema import schema as _schema


class Transaction(ResourceQueries, InvalidationQueries, SnapshotQueries, AuditQueries):
    """One open transaction, created only by `Store`."""

    def schema(self) -> int:
        """The store's schema version."""
        return self._scalar(sa.select(sa.func.max(_schema.c.version)))
