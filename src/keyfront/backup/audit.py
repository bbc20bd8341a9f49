"""Audit records about archives: who made one, who restored one."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from keyfront.control.audit import records as audit
from keyfront.control.call import local_call
from keyfront.control.store.transaction import Transaction

SOURCE = "backup.keyfront"
"""The eventSource of these records."""
CREATED = "CreateBackup"
RESTORED = "RestoreBackup"


class AuditActor(NamedTuple):
    """The user who runs the command: `by` is the command and the login, `account` the twelve-digit account ID."""

    by: str
    account: str
    rng: random.Random


def append_event(
    transaction: Transaction,
    actor: AuditActor,
    event: str,
    parameters: dict[str, Any],
    elements: dict[str, Any],
    now: float,
) -> None:
    """Append to the audit log that `event` happened, with its request `parameters` and response `elements`."""
    call = local_call(
        event,
        parameters,
        account=actor.account,
        by=actor.by,
        request_id=f"{actor.rng.getrandbits(128):032x}",
        now=now,
        source=SOURCE,
    )
    audit.append(transaction, audit.entry(call, elements, actor.rng))
