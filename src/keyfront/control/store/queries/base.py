"""The base class and the helpers that all groups of statements share."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

BATCH = 500
"""Values in one `IN` list: databases limit the number of parameters of a statement."""


class Queries:
    """Statements that run on one connection, in the transaction that is open there."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @property
    def connection(self) -> sa.Connection:
        """The connection, for modules with their own tables that take part in the same transaction
        (`identity/users.py`, `audit/search.py`)."""
        return self._connection

    def _scalar(self, query: sa.Select[Any]) -> int:
        return int(self._connection.execute(query).scalar_one())


class Now(FunctionElement[float]):
    """Epoch seconds by the database's clock, which is the same for every control plane."""

    type = sa.Float()
    inherit_cache = True


@compiles(Now, "sqlite")
def _now_of_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "postgresql")
def _now_of_postgres(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
