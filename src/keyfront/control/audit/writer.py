"""The group-commit writer of audit records for calls that changed nothing.

The record must be on disk before the response is sent, and that sync takes most of the time. So calls that are waiting
at the same time share a transaction.
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
"""Seconds for which a failed write counts against the audit log's health, if no record has been written since."""


class AuditWriter:
    """The queue of records. Safe to use from several threads.

    A process has one, so that `/healthz` sees every failure.
    """

    def __init__(self, store: Store, rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[Entry] = []
        self._written = 0
        self._queued = 0
        self._trouble = ""
        self._troubled_at = 0.0

    @property
    def trouble(self) -> str:
        """Why the last record could not be written; empty if it was written, or if the failure is older than
        TROUBLED."""
        return self._trouble if time.monotonic() - self._troubled_at < TROUBLED else ""

    def record(self, call: Call, outcome: dict[str, Any] | ApiError) -> None:
        """Record `call` and its outcome. Returns when the record is on disk. A failure is only logged, since reads are
        answered even while the store cannot be written to."""
        found = audit.entry(call, outcome, self._rng)
        with self._lock:
            self._waiting.append(found)
            self._queued += 1
            ticket = self._queued
        with self._writing:  # the first thread writes the records of all that wait
            if self._written >= ticket:
                return
            with self._lock:
                entries, self._waiting = self._waiting, []
                last = self._queued
            try:
                with self._store.write() as transaction:
                    audit.append(transaction, *entries)
                self._trouble = ""
            except Exception as error:
                self._trouble, self._troubled_at = str(error), time.monotonic()
                for one in entries:  # this thread also wrote for others, so it does not raise
                    log.error("no audit record of %s by %s: %s", one.index.name, one.index.principal, error)
            finally:
                self._written = last
