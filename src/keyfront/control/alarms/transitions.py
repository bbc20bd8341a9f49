"""Transitions of alarms: what a new state changes in an alarm's row, in its history, and which actions it starts.

The actions that a transition starts are stored with the alarm until they are carried out, so none is lost when a
control plane ends; see `actions.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from keyfront.control.alarms import history
from keyfront.control.store.rows import Row
from keyfront.control.store.transaction import Transaction
from keyfront.model.kinds import RandomSource
from keyfront.monitoring.alarms import State, iso

ACTIONS: Final[dict[State, str]] = {
    "OK": "OKActions",
    "ALARM": "AlarmActions",
    "INSUFFICIENT_DATA": "InsufficientDataActions",
}
"""The member of the definition with the actions of a state."""
MOST_PENDING: Final = 30
"""Actions of one alarm that wait; older ones are dropped, and recorded as failed."""
LONGEST_REASON = 1023
"""Characters of a reason, as in CloudWatch."""


class PendingAction(msgspec.Struct, frozen=True):
    """An action that is to be carried out.

    :param id: the same at each attempt, also of another control plane.
    :param arn: as in the alarm's definition.
    :param at: when the state changed, epoch seconds.
    """

    id: str
    arn: str
    at: float
    old: State
    new: State
    reason: str


class StateChange(msgspec.Struct, frozen=True):
    """A new state with its reason, for people and for programs (JSON, None: nothing), at a time (epoch seconds)."""

    state: State
    reason: str
    data: str | None
    at: float


INITIAL: Final = "Unchecked: Initial alarm creation"


def initial_state(now: float) -> dict[str, Any]:
    """The state of a new alarm.

    :param now: epoch seconds.
    """
    return {
        "StateValue": "INSUFFICIENT_DATA",
        "StateReason": INITIAL,
        "StateUpdated": now,
        "StateTransitioned": now,
        "Pending": [],
    }


def pending(row: Row) -> list[PendingAction]:
    """The actions of the alarm that wait."""
    return msgspec.convert(row.attributes.get("Pending", []), list[PendingAction])


def change(transaction: Transaction, row: Row, new: StateChange, rng: RandomSource) -> Row:
    """Give an alarm a new state: store it, record it, and queue the actions for it. Returns the new row.

    Nothing is recorded or queued if the state is the same as before.
    """
    old: State = row.attributes["StateValue"]
    reason = new.reason[:LONGEST_REASON]
    changed = new.state != old
    state = {
        **row.attributes,
        "StateValue": new.state,
        "StateReason": reason,
        "StateReasonData": new.data,
        "StateUpdated": new.at,
    }
    if changed:
        state["StateTransitioned"] = new.at
        history.append(
            transaction,
            row.id,
            new.at,
            "StateUpdate",
            f"Alarm updated from {old} to {new.state}",
            {
                "version": "1.0",
                "oldState": _shown(old, row.attributes["StateReason"], row.attributes.get("StateReasonData")),
                "newState": _shown(new.state, reason, new.data),
            },
        )
        waiting = pending(row) + _started(row.config, new, old, reason, rng)
        for dropped in waiting[:-MOST_PENDING]:
            record_action(transaction, row.id, dropped, "too many actions wait", new.at)
        state["Pending"] = [msgspec.to_builtins(each) for each in waiting[-MOST_PENDING:]]
    found = msgspec.structs.replace(row, attributes=state)
    transaction.update(found)
    return found


def _shown(state: str, reason: str, data: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"stateValue": state, "stateReason": reason}
    if data is not None:
        found["stateReasonData"] = msgspec.json.decode(data)
    return found


def _started(
    config: Mapping[str, Any], new: StateChange, old: State, reason: str, rng: RandomSource
) -> list[PendingAction]:
    if not config["ActionsEnabled"]:
        return []
    return [
        PendingAction(
            str(uuid.UUID(int=rng.getrandbits(128), version=4)), arn, new.at, old, new.state, reason
        )
        for arn in config[ACTIONS[new.state]]
    ]


def record_action(
    transaction: Transaction, alarm: str, action: PendingAction, error: str, now: float
) -> None:
    """Record in the history that an action was carried out, or (`error`) why not.

    :param now: epoch seconds.
    """
    verb = "Failed to execute" if error else "Successfully executed"
    history.append(
        transaction,
        alarm,
        now,
        "Action",
        f"{verb} action {action.arn}",
        {
            "actionState": "Failed" if error else "Succeeded",
            "stateUpdateTimestamp": int(action.at * 1000),
            "notificationResource": action.arn,
            "deliveryId": action.id,
            "publishedMessage": {"oldState": action.old, "newState": action.new, "at": iso(action.at)},
            **({"error": error[:1000]} if error else {}),
        },
    )
