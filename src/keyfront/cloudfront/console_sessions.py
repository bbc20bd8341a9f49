"""The sessions of the console in one control plane.

Keyfront serves them at `PATH`, next to CloudFront's API and signed in the same way (docs/reference/control-api.md).
"""

from __future__ import annotations

import msgspec

PATH = "/keyfront/2026-11-22/sessions"


class ConsoleSession(msgspec.Struct, frozen=True, rename="pascal"):
    """A session: whose it is, the access key that logged in, from where and with which browser, and when it was opened
    and last used (epoch seconds)."""

    id: str
    arn: str
    access_key_id: str
    address: str
    user_agent: str
    opened: float
    used: float


class ConsoleSessions(msgspec.Struct, frozen=True, rename="pascal"):
    """All sessions, the last opened first."""

    items: tuple[ConsoleSession, ...] = ()
