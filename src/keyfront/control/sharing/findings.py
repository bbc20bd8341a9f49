"""The shared credentials that were found, in the store: bounded, and for 30 days."""

from __future__ import annotations

from typing import Final

import msgspec
import sqlalchemy as sa

from keyfront.cloudfront.shared_links import SharedLink
from keyfront.control.store.schema import shared_link as _table
from keyfront.control.store.transaction import Transaction

RETENTION: Final = 30 * 86_400.0
"""Seconds after which a finding is dropped whose credential is no longer shared."""
MOST: Final = 1000
"""Findings; those that were shared the longest ago make way."""


def put(transaction: Transaction, found: SharedLink) -> None:
    """Store a finding, in place of the one about the same credential."""
    connection = transaction.connection
    connection.execute(sa.delete(_table).where(_table.c.credential == found.credential))
    row = {"credential": found.credential, "last": found.last, "data": msgspec.json.encode(found)}
    connection.execute(sa.insert(_table).values(row))


def prune(transaction: Transaction, now: float) -> None:
    """Drop what is too old or too much.

    :param now: epoch seconds.
    """
    connection = transaction.connection
    connection.execute(sa.delete(_table).where(_table.c.last < now - RETENTION))
    least = connection.execute(
        sa.select(_table.c.last).order_by(_table.c.last.desc()).offset(MOST).limit(1)
    ).scalar_one_or_none()
    if least is not None:
        connection.execute(sa.delete(_table).where(_table.c.last <= least))


def get(transaction: Transaction, credential: str) -> SharedLink | None:
    """The finding about a credential."""
    query = sa.select(_table.c.data).where(_table.c.credential == credential)
    data = transaction.connection.execute(query).scalar_one_or_none()
    return None if data is None else msgspec.json.decode(data, type=SharedLink)


def newest(transaction: Transaction, limit: int) -> list[SharedLink]:
    """Findings, the one that was shared last first."""
    query = sa.select(_table.c.data).order_by(_table.c.last.desc(), _table.c.credential).limit(limit)
    return [
        msgspec.json.decode(data, type=SharedLink) for data in transaction.connection.execute(query).scalars()
    ]


def count(transaction: Transaction, since: float) -> int:
    """The number of credentials that were shared since a time (epoch seconds)."""
    query = sa.select(sa.func.count()).select_from(_table).where(_table.c.last >= since)
    return int(transaction.connection.execute(query).scalar_one())
