"""Records of calls that changed nothing. Each has a call waiting for it, and calls that wait at the same time share a
transaction: what costs the time is that it is on the disk when the answer goes out.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any

from keyfront.control.audit import records as audit
from keyfront.control.audit.records import Entry
from keyfront.control.call import Call
from keyfront.control.store.store import Store
from keyfront.errors import ApiError

log = logging.getLogger("keyfront.control")


TROUBLED = 60.0
"""Seconds for which a record that could not be written counts against the log's health, if none follows."""


class AuditWriter:
    """Safe to use from several threads."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[Entry] = []
        self._written = 0
        self._asked = 0
        self._trouble = ""
        self._troubled_at = 0.0

    @property
    def trouble(self) -> str:
        """Why the last record could not be written; empty if it could, or if that was more than TROUBLED ago."""
        return self._trouble if time.monotonic() - self._troubled_at < TROUBLED else ""

    def record(self, call: Call, outcome: dict[str, Any] | ApiError) -> None:
        """Record `call` and its outcome. A store that cannot be written to still answers reads, so that a failure goes
        to the log only."""
        found = audit.entry(call, outcome, self._rng)
        with self._lock:
            self._waiting.append(found)
            self._asked += 1
            ticket = self._asked
        with self._writing:  # whoever comes first writes for all who came meanwhile
            if self._written >= ticket:
                return
            with self._lock:
                entries, self._waiting = self._waiting, []
                last = self._asked
            try:
                with self._store.write() as transaction:
                    audit.append(transaction, *entries)
                self._trouble = ""
            except Exception as error:
                self._trouble, self._troubled_at = str(error), time.monotonic()
                for one in entries:  # whoever wrote for others must not fail alone
                    log.error("no audit record of %s by %s: %s", one.name, one.principal, error)
            finally:
                self._written = last
