"""Audit records of rotation steps. The steps are not API calls: the control plane takes them because the key group's
record requires them."""

from __future__ import annotations

import uuid

from keyfront.control.audit.writer import AuditWriter
from keyfront.control.call import local_call
from keyfront.errors import ApiError
from keyfront.lifecycle.events import RotationEvent

SOURCE = "keyfront"


class AuditListener:
    """Records each step once it is taken or has failed. A record that cannot be written is logged (`writer.py`)."""

    def __init__(self, audit: AuditWriter, account: str) -> None:
        self._audit = audit
        self._account = account

    def on_event(self, event: RotationEvent) -> None:
        if event.moment == "before":
            return
        parameters = {
            "KeyGroupId": event.key_group_id,
            "KeyGroup": event.group,
            "Key": event.key,
            "KeyPairId": event.key_pair_id,
            "Reason": event.reason,
        }
        call = local_call(
            f"Rotation{event.action.capitalize()}",
            {name: value[:2000] for name, value in parameters.items() if value},
            account=self._account,
            by="keyfront up, scheduler",
            request_id=str(uuid.uuid4()),
            now=event.at,
            source=SOURCE,
        )
        failed = event.moment == "failed"
        self._audit.record(call, ApiError("RotationFailed", event.error[:2000], 500) if failed else {})
