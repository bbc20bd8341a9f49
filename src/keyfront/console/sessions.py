"""Sessions of the console in the memory of this process. Pure: tokens and times are arguments.

A browser has a random token, of which only the hash is stored here. A session ends when its user logs out, when it was
not used for IDLE seconds, when its credentials are no longer valid, and when the process restarts.
"""

from __future__ import annotations

import hashlib

import msgspec

IDLE = 3600.0
"""Seconds without a request after which a session ends."""
MOST = 2000
"""Sessions in memory; another one ends the one that was used least recently."""


class Notice(msgspec.Struct, frozen=True):
    """What the next page says about the last action."""

    text: str
    good: bool = True


class Session(msgspec.Struct):
    """One session.

    :param id: the access key id of its credentials, by which it is listed.
    :param secret: their secret.
    :param csrf: the token that every form of the session carries.
    :param arn: the user's ARN.
    :param opened: epoch seconds, as `used`, the time of its last request.
    :param address: where the log-in came from, and `user_agent` its User-Agent.
    """

    id: str
    secret: str
    csrf: str
    arn: str
    opened: float
    used: float
    address: str = ""
    user_agent: str = ""
    notice: Notice | None = None

    def __repr__(self) -> str:
        return f"Session({self.id!r}, arn={self.arn!r})"

    @property
    def user(self) -> str:
        """The user's name, which is the end of the ARN."""
        return self.arn.partition("/")[2] or self.arn

    def is_over(self, now: float) -> bool:
        return not 0 <= now - self.used < IDLE


class Sessions:
    """All sessions, by the hash of their token. Used on the event loop only."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, Session] = {}

    def add(self, token: str, session: Session) -> list[Session]:
        """Begin a session. Returns the sessions that are over, which are removed.

        :param token: random, 32 bytes or more.
        """
        over = [name for name, each in self._sessions.items() if each.is_over(session.opened)]
        if len(self._sessions) - len(over) >= MOST:
            rest = self._sessions.keys() - set(over)
            over.append(min(rest, key=lambda name: self._sessions[name].used))
        ended = [self._sessions.pop(name) for name in over]
        self._sessions[_hash(token)] = session
        return ended

    def find(self, token: str, now: float) -> Session | None:
        """The session of a token; None if there is none, or it is over at `now` (epoch seconds)."""
        found = self._sessions.get(_hash(token))
        return None if found is None or found.is_over(now) else found

    def end(self, token: str) -> Session | None:
        """End the session of a token, and return it; None if there is none."""
        return self._sessions.pop(_hash(token), None)

    def end_by_id(self, id_: str) -> None:
        """End the session with these credentials, if there is one."""
        for name in [name for name, each in self._sessions.items() if each.id == id_]:
            del self._sessions[name]

    def of(self, arn: str, now: float) -> list[Session]:
        """The sessions of one user at `now` (epoch seconds), the last opened first."""
        found = [each for each in self._sessions.values() if each.arn == arn and not each.is_over(now)]
        return sorted(found, key=lambda each: -each.opened)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
