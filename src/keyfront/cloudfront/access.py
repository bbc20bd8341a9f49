"""The users, access keys, and policies of a Keyfront, to read. `keyfront access` changes them.

Keyfront serves them at `PATH`, next to CloudFront's API and signed in the same way (docs/reference/control-api.md).
Times are epoch seconds.
"""

from __future__ import annotations

import msgspec

PATH = "/keyfront/2026-11-22/users"
ACTION = "keyfront:ListUsers"
"""The IAM action that the call requires."""


class AccessKey(msgspec.Struct, frozen=True, rename="pascal"):
    """An access key without its secret. `used` is when it last signed a call, to the minute; None: never, or not
    known."""

    access_key_id: str
    active: bool
    created: float | None = None
    used: float | None = None


class User(msgspec.Struct, frozen=True, rename="pascal"):
    """A user. `created` is None for one in the file `credentials`, which may do everything."""

    name: str
    arn: str
    policies: tuple[str, ...]
    access_keys: tuple[AccessKey, ...]
    created: float | None = None


class Policy(msgspec.Struct, frozen=True, rename="pascal"):
    """A policy document, or a role, which is built in."""

    name: str
    document: str
    role: bool = False
    modified: float | None = None


class Users(msgspec.Struct, frozen=True, rename="pascal"):
    """All users and policies, in order of name."""

    users: tuple[User, ...] = ()
    policies: tuple[Policy, ...] = ()
