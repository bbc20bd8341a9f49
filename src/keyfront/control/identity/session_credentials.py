"""Temporary credentials for the sessions of the console, in the memory of this process.

A session does not hold its user's secret access key. At log-in it gets credentials of its own (`ASIA…`), with which its
calls are signed. A call signed with them is the user's: it has the user's policies at that moment, and the audit log
names the access key that logged in. They are worth nothing once that access key is deactivated or deleted, or its user
deleted. They are never stored: a restart ends all sessions.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from typing import Protocol

import msgspec

from keyfront.control.call import Caller
from keyfront.errors import ApiError

LIFETIME = 12 * 3600.0
"""Seconds for which a session lasts at most."""
PER_CALLER = 20
"""Sessions of one access key; another one ends the oldest."""
MOST = 2000
"""Sessions of one process; another one ends the one that was used least recently."""

_UNKNOWN = "The security token included in the request is invalid."


class Known(Protocol):
    """The callers at one time."""

    def secret_of(self, access_key_id: str) -> str | None: ...

    def caller(self, access_key_id: str) -> Caller: ...


class Callers(Protocol):
    """The callers of a control plane; see `CallerDirectory`."""

    def current(self, now: float) -> Known: ...

    def used(self, key_id: str, now: float) -> None: ...


class SessionCredential(msgspec.Struct, frozen=True):
    """The credentials of one session, and what is known about it.

    :param id: their access key id, which also names the session.
    :param parent: the access key that logged in, and `arn` its user.
    :param address: where the log-in came from, and `agent` its User-Agent.
    :param opened: epoch seconds, as `used`, which is when they last signed a call.
    """

    id: str
    secret: str
    parent: str
    arn: str
    address: str
    agent: str
    opened: float
    used: float

    def __repr__(self) -> str:
        return f"SessionCredential({self.id!r}, arn={self.arn!r})"

    def is_over(self, now: float) -> bool:
        return not 0 <= now - self.opened < LIFETIME


class _WithSessions:
    """The callers of a directory, and the sessions."""

    def __init__(self, known: Known, sessions: dict[str, SessionCredential], now: float) -> None:
        self._known = known
        self._sessions = sessions
        self._now = now

    def _session(self, access_key_id: str) -> SessionCredential | None:
        found = self._sessions.get(access_key_id)
        if found is None or found.is_over(self._now) or self._known.secret_of(found.parent) is None:
            return None
        # A key id never moves to another user, but a file of credentials is the operator's to write.
        return found if self._known.caller(found.parent).arn == found.arn else None

    def secret_of(self, access_key_id: str) -> str | None:
        found = self._session(access_key_id)
        return found.secret if found is not None else self._known.secret_of(access_key_id)

    def caller(self, access_key_id: str) -> Caller:
        found = self._session(access_key_id)
        if found is None and access_key_id in self._sessions:  # it has ended since its signature was verified
            raise ApiError("InvalidClientTokenId", _UNKNOWN, 403)
        return self._known.caller(found.parent if found is not None else access_key_id)


class SessionCredentials:
    """The callers of a control plane, and those of the console's sessions. Safe to use from several threads.

    :param callers: the callers without the sessions.
    :param new_key: returns a new access key id and its secret, which must not be guessable.
    """

    def __init__(self, callers: Callers, new_key: Callable[[], tuple[str, str]]) -> None:
        self._callers = callers
        self._new_key = new_key
        self._lock = threading.Lock()
        self._sessions: dict[str, SessionCredential] = {}

    # what the API uses

    def current(self, now: float) -> Known:
        """The callers at the time `now` (epoch seconds).

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        return _WithSessions(self._callers.current(now), self._sessions, now)

    def used(self, key_id: str, now: float) -> None:
        """Record that the access key signed a call at `now` (epoch seconds)."""
        with self._lock:
            found = self._sessions.get(key_id)
            if found is not None:
                self._sessions[key_id] = msgspec.structs.replace(found, used=now)
        self._callers.used(found.parent if found is not None else key_id, now)

    # what the console uses

    def open(
        self, access_key_id: str, secret: str, now: float, *, address: str, agent: str
    ) -> SessionCredential:
        """Credentials for a session of the caller with this access key.

        :param now: epoch seconds.
        :raises ApiError: InvalidClientTokenId for an unknown key, SignatureDoesNotMatch for another secret, or
            ServiceUnavailable.
        """
        known = self._callers.current(now)
        expected = known.secret_of(access_key_id)
        if expected is None:
            raise ApiError("InvalidClientTokenId", _UNKNOWN, 403)
        if not hmac.compare_digest(expected.encode(), secret.encode()):
            raise ApiError(
                "SignatureDoesNotMatch", "The secret access key is not that of the access key.", 403
            )
        id_, own = self._new_key()
        made = SessionCredential(
            "ASIA" + id_[4:],
            own,
            access_key_id,
            known.caller(access_key_id).arn,
            address[:64],
            agent[:256],
            now,
            now,
        )
        with self._lock:
            for each in [each.id for each in self._sessions.values() if each.is_over(now)]:
                del self._sessions[each]
            same = [each for each in self._sessions.values() if each.parent == access_key_id]
            if len(same) >= PER_CALLER:
                del self._sessions[min(same, key=lambda each: each.opened).id]
            if len(self._sessions) >= MOST:
                del self._sessions[min(self._sessions.values(), key=lambda each: each.used).id]
            self._sessions[made.id] = made
        return made

    def close(self, id_: str) -> bool:
        """End a session. Returns whether there was one."""
        with self._lock:
            return self._sessions.pop(id_, None) is not None

    def find(self, id_: str, now: float) -> SessionCredential | None:
        """The session, if it is valid at `now` (epoch seconds).

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        found = self._sessions.get(id_)
        return found if found is not None and self.current(now).secret_of(id_) is not None else None

    def all(self, now: float) -> list[SessionCredential]:
        """All valid sessions, the last opened first.

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        known = self.current(now)
        with self._lock:
            found = list(self._sessions.values())
        return sorted(
            (each for each in found if known.secret_of(each.id) is not None),
            key=lambda each: -each.opened,
        )
