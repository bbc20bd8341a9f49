"""The rotations that a control plane takes the steps of: the scheduler with all that it needs, in threads of its own.

It speaks to its own endpoint as any conductor speaks to any CloudFront, with the first profile of the installation's
own credentials, so that every change is one of the API's, allowed and recorded like all of them.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keyfront.control.audit.rotation_events import AuditListener
from keyfront.control.keys.scheduler import Leading, Scheduler, keep
from keyfront.control.store.lease import RENEW, Lease, SoleLeader
from keyfront.control.store.store import Store
from keyfront.custody.contract import Records

if TYPE_CHECKING:
    from keyfront.lifecycle.executor import Conductor
    from keyfront.lifecycle.hooks import Hook

PATIENCE = 10.0
"""Seconds that a step under way has to end when the control plane ends. One that takes longer comes up again."""


class Rotations:
    """
    :param records: where the records of key groups are.
    :param endpoint: the URL under which this control plane answers.
    :param credentials: access key id and secret of who changes public keys and key groups.
    :param hooks: called before and after each step.
    :param environment: where places of keys find their secrets, and hooks' commands their variables.
    :param shared: whether other control planes on the store may have the same records: then one of them leads. Records
        that nobody else has are nobody else's to see to.
    """

    def __init__(
        self,
        store: Store,
        records: Records,
        account: str,
        endpoint: str,
        credentials: tuple[str, str],
        hooks: Sequence[Hook] = (),
        environment: Mapping[str, str] = os.environ,
        rng: random.Random | None = None,
        *,
        shared: bool = False,
    ) -> None:
        rng = rng or random.SystemRandom()
        self._store = store
        self._records = records
        self._account = account
        self._endpoint = endpoint
        self._credentials = credentials
        self._hooks = tuple(hooks)
        self._environment = environment
        self._rng = rng
        self._stopping = threading.Event()
        self.lease: Leading = (
            Lease(store, lease_name(records.uri), f"{rng.getrandbits(64):016x}") if shared else SoleLeader()
        )
        self._threads: tuple[threading.Thread, ...] = ()

    @property
    def leads(self) -> bool:
        """True if this control plane is the one that takes the steps."""
        return self.lease.held

    def start(self) -> None:
        """Begin. The endpoint must answer by now."""
        scheduler = Scheduler(self._records, self._conductor, self.lease, self._stopping)
        self._threads = (
            threading.Thread(target=keep, args=(self.lease, RENEW, self._stopping), daemon=True),
            threading.Thread(target=scheduler.run, name="rotation", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, at the latest when the step under way has ended, or PATIENCE is over."""
        self._stopping.set()
        ends = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _conductor(self) -> Conductor:
        from keyfront.lifecycle.cloudfront import (
            CloudFront,  # botocore's client, which few installations need
        )
        from keyfront.lifecycle.executor import Conductor
        from keyfront.lifecycle.hooks import Hooks

        api = CloudFront(self._endpoint, credentials=self._credentials)
        listeners = (
            Hooks(self._hooks, self._environment, self._stopping),
            AuditListener(self._store, self._account, self._rng),
        )
        return Conductor(api, self._records, self._environment, listeners)


def lease_name(uri: str) -> str:
    """Of the lease on the rotations whose records are at `uri`; options after a question mark are each one's own."""
    return f"rotation {hashlib.sha256(uri.partition('?')[0].encode()).hexdigest()[:32]}"
