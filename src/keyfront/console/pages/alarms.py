"""Alarms: their states, one with its history, and the commands on its actions and its state."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from keyfront.console.visit import Page, Visit

SHOWN = 100
HISTORY = 50
STATES = ("ALARM", "OK", "INSUFFICIENT_DATA")


async def alarms(visit: Visit) -> Response:
    state = visit.query("state") if visit.query("state") in STATES else ""
    params: dict[str, Any] = {"MaxRecords": SHOWN}
    if state:
        params["StateValue"] = state
    if visit.query("marker"):
        params["NextToken"] = visit.query("marker")
    read = await visit.read(visit.api.cloudwatch("DescribeAlarms", **params))
    if read.value is None:
        return visit.refused(read)
    return visit.page(
        "alarms.html",
        items=read.value.get("MetricAlarms") or [],
        following_marker=read.value.get("NextToken") or "",
        choices=("", *STATES),
        state=state,
    )


async def alarm(visit: Visit) -> Response:
    name = visit.query("name")
    read, history = await asyncio.gather(
        visit.read(visit.api.cloudwatch("DescribeAlarms", AlarmNames=[name])),
        visit.read(visit.api.cloudwatch("DescribeAlarmHistory", AlarmName=name, MaxRecords=HISTORY)),
    )
    if read.value is None:
        return visit.refused(read)
    found = next(iter(read.value.get("MetricAlarms") or ()), None)
    if found is None:
        return visit.problem("There is no such alarm", f"No alarm is named {name}.", 404)
    return visit.page(
        "alarm.html",
        alarm=found,
        history=(history.value or {}).get("AlarmHistoryItems") or [],
        history_refusal=history.refusal,
        states=STATES,
    )


async def change(visit: Visit) -> Response:
    """Switch an alarm's actions on or off, or give it a state until its next evaluation."""
    name, command, state = visit.field("name"), visit.field("command"), visit.field("state")
    if command in ("EnableAlarmActions", "DisableAlarmActions"):
        call = visit.api.cloudwatch(command, AlarmNames=[name])
        done = f"The actions of {name} are switched {'on' if command.startswith('Enable') else 'off'}."
    elif command == "SetAlarmState" and state in STATES:
        reason = f"set in the console by {visit.session.user}"
        call = visit.api.cloudwatch(command, AlarmName=name, StateValue=state, StateReason=reason)
        done = f"{name} is in the state {state} until its next evaluation."
    else:
        return visit.problem("The form was not accepted", "There is no such command.")
    read = await visit.read(call)
    if read.code:
        return visit.refused(read)
    return visit.go(f"/alarms/one?{urlencode({'name': name})}", done)


PAGES = (
    Page("/alarms", alarms, "Alarms"),
    Page("/alarms/one", alarm),
    Page("/alarms/change", change, posts=True),
)
