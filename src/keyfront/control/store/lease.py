"""Who of several control planes on one store does what only one should do.

A lease is a row with its holder's name and until when it holds, by the database's clock. Whoever finds it free or over
takes it; its holder prolongs it long before it is over. It locks nothing: a holder that stood still for a while may go
on for a moment beside the next one, so what is done under a lease must bear that.
"""

from __future__ import annotations

import threading
import time

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from keyfront.control.store.queries.base import Now
from keyfront.control.store.schema import lease as _lease
from keyfront.control.store.store import Store
from keyfront.errors import ApiError

LENGTH = 6.0
"""Seconds for which it holds: after the death of its holder somebody else has it that soon."""
RENEW = 2.0
"""Seconds between two tries to take or to prolong it."""


class Lease:
    """One holder's view of the lease `name`. Safe to use from several threads.

    :param holder: a name that nobody else has.
    """

    def __init__(self, store: Store, name: str, holder: str) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._lock = threading.Lock()
        self._until = 0.0

    @property
    def held(self) -> bool:
        """True while it certainly holds, by this process's own clock."""
        return time.monotonic() < self._until

    def renew(self) -> bool:
        """Take it, or prolong it, if that can be done. True if it is held."""
        with self._lock:
            asked = time.monotonic()
            try:
                taken = self._take()
            except ApiError:  # the store does not answer, and has said so in the log
                return self.held
            self._until = asked + LENGTH if taken else 0.0
            return taken

    def _take(self) -> bool:
        mine = sa.or_(_lease.c.holder == self._holder, _lease.c.until < Now())
        with self._store.write_relaxed() as transaction:
            connection = transaction.connection
            changed = connection.execute(
                sa.update(_lease)
                .where(_lease.c.name == self._name, mine)
                .values(holder=self._holder, until=Now() + LENGTH)
            ).rowcount
            if changed:
                return True
            there = sa.select(sa.literal(1)).where(_lease.c.name == self._name)
            if connection.execute(there).first() is not None:
                return False
            try:
                with connection.begin_nested():
                    connection.execute(
                        sa.insert(_lease).values(name=self._name, holder=self._holder, until=Now() + LENGTH)
                    )
            except IntegrityError:  # somebody else was quicker
                return False
            return True

    def release(self) -> None:
        """Let somebody else have it at once."""
        with self._lock:
            self._until = 0.0
            try:
                with self._store.write_relaxed() as transaction:
                    transaction.connection.execute(
                        sa.delete(_lease).where(_lease.c.name == self._name, _lease.c.holder == self._holder)
                    )
            except ApiError:
                pass  # it is over soon


class SoleLeader:
    """What a control plane that is alone on its store has in the place of a lease."""

    held = True

    def renew(self) -> bool:
        return True

    def release(self) -> None:
        pass
