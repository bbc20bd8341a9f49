"""Key rotations of a control plane: the scheduler and its dependencies, in separate threads.

The scheduler calls the control plane's own endpoint, as it would call any CloudFront endpoint, with the first profile
of the installation's credentials. So every change is an API call, authorized and recorded like any other.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keyfront.control.audit.rotation_events import AuditListener
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.keys.scheduler import LeaderLease, Scheduler, keep_renewing
from keyfront.control.store.lease import RENEW, Lease, SoleLeader
from keyfront.control.store.store import Store
from keyfront.custody.contract import Records
from keyfront.lifecycle.hooks import Hook, Hooks

if TYPE_CHECKING:
    from keyfront.lifecycle.events import Listener
    from keyfront.lifecycle.executor import RotationExecutor

PATIENCE = 10.0
"""Seconds that a running step has to finish when the control plane stops. A step that takes longer is repeated after
the next start."""


@dataclass(frozen=True, slots=True)
class RotationSettings:
    """The settings for rotation steps.

    :param account: the 12-digit account number.
    :param endpoint: this control plane's own URL.
    :param credentials: access key id and secret for the calls.
    :param hooks: called before and after each step.
    :param environment: the source of the custodies' secrets and of the hook commands' variables.
    """

    account: str
    endpoint: str
    credentials: tuple[str, str] = field(repr=False)
    hooks: tuple[Hook, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)


class Rotations:
    """Start and stop the scheduler.

    :param records: the records of the key groups under rotation.
    :param audit: records each step.
    :param shared: whether other control planes on the store use the same records: then one of them leads. Otherwise
        this one always leads.
    """

    def __init__(
        self,
        store: Store,
        records: Records,
        settings: RotationSettings,
        audit: AuditWriter,
        *,
        shared: bool = False,
    ) -> None:
        self._records = records
        self._settings = settings
        self._audit = audit
        self._stopping = threading.Event()
        self.lease: LeaderLease = (
            Lease(store, lease_name(records.uri), secrets.token_hex(8)) if shared else SoleLeader()
        )
        self._threads: tuple[threading.Thread, ...] = ()

    @property
    def leads(self) -> bool:
        """True if this control plane takes the steps."""
        return self.lease.held

    def start(self) -> None:
        """Start the threads. The endpoint must already respond."""
        scheduler = Scheduler(self._records, self._executor, self.lease, self._stopping)
        self._threads = (
            threading.Thread(target=keep_renewing, args=(self.lease, RENEW, self._stopping), daemon=True),
            threading.Thread(target=scheduler.run, name="rotation", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads. Waits for a running step, but no longer than PATIENCE."""
        self._stopping.set()
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def listeners(self) -> tuple[Listener, ...]:
        """Who hears of each step: the hooks, and the audit log."""
        return (*self.hooks(), AuditListener(self._audit, self._settings.account))

    def hooks(self) -> tuple[Listener, ...]:
        """Who hears of commands: the audit log has a record of the call itself."""
        return (Hooks(self._settings.hooks, self._settings.environment, self._stopping),)

    def _executor(self) -> RotationExecutor:
        # These import botocore's client, which is rarely needed.
        from keyfront.lifecycle.cloudfront import CloudFront
        from keyfront.lifecycle.executor import RotationExecutor

        settings = self._settings
        api = CloudFront(settings.endpoint, credentials=settings.credentials)
        return RotationExecutor(api, self._records, settings.environment, self.listeners())


def lease_name(uri: str) -> str:
    """The name of the lease on the rotations whose records are at `uri`, without the URI's options: each control plane
    may have different ones."""
    return f"rotation {hashlib.sha256(uri.partition('?')[0].encode()).hexdigest()[:32]}"
