"""Leases, which decide which of several control planes on one store does work that only one should do.

A lease is a row with its holder and its expiry by the database's clock. A control plane acquires a lease that is free
or has expired, and its holder renews it long before it expires. A lease is not a lock: a holder that was suspended may
briefly overlap with the next holder, so the work must tolerate that.
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
"""Seconds until a lease expires: if its holder dies, another control plane takes over within that time."""
RENEW = 2.0
"""Seconds between two attempts to acquire or renew it."""


class Lease:
    """One holder's view of the lease `name`. Safe to use from several threads.

    :param holder: a unique name.
    """

    def __init__(self, store: Store, name: str, holder: str) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._lock = threading.Lock()
        self._until = 0.0

    @property
    def held(self) -> bool:
        """True while the lease has certainly not expired, by this process's clock."""
        return time.monotonic() < self._until

    def renew(self) -> bool:
        """Acquire or renew the lease if possible. True if it is held now."""
        with self._lock:
            began = time.monotonic()
            try:
                acquired = self._acquire()
            except ApiError:  # the store does not respond, which is logged already
                return self.held
            self._until = began + LENGTH if acquired else 0.0
            return acquired

    def _acquire(self) -> bool:
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
            except IntegrityError:  # another holder was faster
                return False
            return True

    def release(self) -> None:
        """Release the lease, so that another control plane can acquire it at once."""
        with self._lock:
            self._until = 0.0
            try:
                with self._store.write_relaxed() as transaction:
                    transaction.connection.execute(
                        sa.delete(_lease).where(_lease.c.name == self._name, _lease.c.holder == self._holder)
                    )
            except ApiError:
                pass  # it expires soon


class SoleLeader:
    """A lease that is always held, for the only control plane on a store."""

    held = True

    def renew(self) -> bool:
        return True

    def release(self) -> None:
        pass
