"""The history of alarms: changes of their definitions and states, and their actions, newest last, bounded."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from keyfront.control.store.schema import alarm_history as _history
from keyfront.control.store.transaction import Transaction

ItemType = Literal["ConfigurationUpdate", "StateUpdate", "Action"]

RETENTION: Final = 30 * 86_400.0
"""Seconds for which the history is stored: as long as CloudWatch stores it."""
MOST_ITEMS: Final = 50_000
"""Items of all alarms together; the oldest are dropped."""


class Item(msgspec.Struct, frozen=True):
    """One item. `at` is epoch seconds; `data` is JSON."""

    number: int
    alarm: str
    at: float
    type: ItemType
    summary: str
    data: bytes


class Search(msgspec.Struct, frozen=True):
    """Which items, and in which order. `start` and `end` are epoch seconds; empty texts match everything.

    :param after: the number of the item after which a page begins; None: at the beginning.
    """

    alarm: str = ""
    type: str = ""
    start: float = 0.0
    end: float = float(1 << 40)
    newest_first: bool = True
    after: int | None = None
    limit: int = 100


def append(
    transaction: Transaction, alarm: str, at: float, type_: ItemType, summary: str, data: dict[str, Any]
) -> None:
    """Append an item, in a transaction of the only writer (`Store.write`).

    :param at: epoch seconds.
    """
    connection = transaction.connection
    last = connection.execute(sa.select(sa.func.max(_history.c.number))).scalar_one() or 0
    connection.execute(
        sa.insert(_history).values(
            number=last + 1,
            alarm=alarm,
            time=at,
            type=type_,
            summary=summary[:255],
            data=msgspec.json.encode(data),
        )
    )
    connection.execute(sa.delete(_history).where(_history.c.number <= last + 1 - MOST_ITEMS))


def prune(transaction: Transaction, now: float) -> None:
    """Drop items that are too old.

    :param now: epoch seconds.
    """
    # The last item keeps its number, so that numbers are never used again.
    last = transaction.connection.execute(sa.select(sa.func.max(_history.c.number))).scalar_one() or 0
    transaction.connection.execute(
        sa.delete(_history).where(_history.c.time < now - RETENTION, _history.c.number < last)
    )


def search(transaction: Transaction, wanted: Search) -> list[Item]:
    """The items that match."""
    query = sa.select(_history).where(_history.c.time >= wanted.start, _history.c.time <= wanted.end)
    if wanted.alarm:
        query = query.where(_history.c.alarm == wanted.alarm)
    if wanted.type:
        query = query.where(_history.c.type == wanted.type)
    number = _history.c.number
    if wanted.after is not None:
        query = query.where(number < wanted.after if wanted.newest_first else number > wanted.after)
    query = query.order_by(number.desc() if wanted.newest_first else number).limit(wanted.limit)
    return [
        Item(row.number, row.alarm, row.time, row.type, row.summary, row.data)
        for row in transaction.connection.execute(query)
    ]
