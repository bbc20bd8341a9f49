"""Audit records about archives: who took one, who restored from one."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from keyfront.control.audit import records as audit
from keyfront.control.call import Call, Caller
from keyfront.control.store.transaction import Transaction

SOURCE = "backup.keyfront"
"""The eventSource of such records."""
CREATED = "CreateBackup"
RESTORED = "RestoreBackup"


class AuditActor(NamedTuple):
    """Who is at work: `by` names the command and the login, `account` is the account's twelve digits. Whoever works on
    the data folder itself is its root."""

    by: str
    account: str
    rng: random.Random


def append_event(
    transaction: Transaction,
    teller: AuditActor,
    event: str,
    parameters: dict[str, Any],
    elements: dict[str, Any],
    now: float,
) -> None:
    """Write at the end of the log that `event` happened, to what (`parameters`), with which outcome (`elements`)."""
    root = Caller("", f"arn:aws:iam::{teller.account}:root", teller.account, teller.account)
    call = Call(
        operation=event,
        params=parameters,
        caller=root,
        source_ip="local",
        user_agent=teller.by,
        request_id=f"{teller.rng.getrandbits(128):032x}",
        now=now,
        source=SOURCE,
    )
    audit.append(transaction, audit.entry(call, elements, teller.rng))
