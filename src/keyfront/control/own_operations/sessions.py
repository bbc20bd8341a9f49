"""ListSessions and EndSession: the sessions of the console in this process."""

from __future__ import annotations

from typing import Any

from keyfront.cloudfront.console_sessions import PATH, ConsoleSession, ConsoleSessions
from keyfront.control.call import Call
from keyfront.control.identity.session_credentials import SessionCredentials
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.errors import ApiError


def session_operations(sessions: SessionCredentials) -> list[OwnOperation]:
    """Both operations."""

    def list_(call: Call) -> ConsoleSessions:
        return ConsoleSessions(
            tuple(
                ConsoleSession(
                    each.id, each.arn, each.parent, each.address, each.agent, each.opened, each.used
                )
                for each in sessions.all(call.now)
            )
        )

    def end(call: Call) -> dict[str, Any]:
        if not sessions.close(call.params["Id"]):
            raise ApiError("NoSuchResource", "There is no such session.", 404)
        return {}

    return [
        OwnOperation("ListSessions", "GET", PATH, list_),
        OwnOperation("EndSession", "DELETE", f"{PATH}/{{Id}}", end),
    ]
