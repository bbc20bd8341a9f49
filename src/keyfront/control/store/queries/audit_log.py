"""The records of the audit log."""

from __future__ import annotations

import sqlalchemy as sa

from keyfront.control.store.queries.base import Queries
from keyfront.control.store.rows import AuditIndex, AuditRow
from keyfront.control.store.schema import audit as _audit


class AuditQueries(Queries):
    """The end of the log, and its records in order."""

    def audit_head(self) -> AuditRow | None:
        """The last record; None if the log is empty."""
        found = self._connection.execute(
            sa.select(_audit.c.number, _audit.c.record, _audit.c.digest)
            .order_by(_audit.c.number.desc())
            .limit(1)
        ).one_or_none()
        return None if found is None else AuditRow(*found)

    def append_audit(self, row: AuditRow, index: AuditIndex) -> None:
        """Append a record with the columns that searches use."""
        self._connection.execute(
            sa.insert(_audit).values(
                number=row.number,
                record=row.record,
                digest=row.digest,
                time=index.time,
                name=index.name,
                principal=index.principal,
                resource=index.resource.replace("\0", "\\x00"),  # PostgreSQL stores no NUL in a text
                error=index.error,
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
