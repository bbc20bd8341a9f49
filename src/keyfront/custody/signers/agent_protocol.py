"""The messages between the signing agent and its clients, in JSON (docs/reference/agent.md)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from keyfront.signing.keys import HashName
from keyfront.signing.policy import MAX_EPOCH


class SignRequest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request to the agent to sign `policy`, the text of a policy, for a key group. If `key_pair_id` names a key,
    only that key may sign."""

    key_group: str
    policy: str
    hash: HashName | None = None
    key_pair_id: str = ""


class Signed(msgspec.Struct, frozen=True):
    """The agent's response. `signature` is in standard base64; `parameters` are those that a URL's query needs in
    addition to Expires or Policy."""

    key_pair_id: str
    hash: HashName
    signature: str
    parameters: str


class Described(msgspec.Struct, frozen=True):
    """The agent's description of the key that signs for a key group now."""

    key_group: str
    key_pair_id: str
    public_key: str
    hashes: tuple[HashName, ...]
    max_lifetime: float
    hash: HashName | None = None


class Refusal(msgspec.Struct, frozen=True):
    error: str
    message: str


Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_EPOCH)]
"""A time in epoch seconds, or a duration in seconds: at most what a policy can hold."""


class UrlRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A URL to sign. `expires` and `starts` are epoch seconds; `lifetime`, instead of `expires`, is seconds from now.
    The other members are `sign_url`'s options."""

    key_group: str
    url: str
    expires: Seconds | None = None
    lifetime: Seconds | None = None
    starts: Seconds | None = None
    ip: str | None = None
    resource: str | None = None
    hash: HashName | None = None


class CookiesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cookies for the URLs that match `resource`; the other members are as for a URL."""

    key_group: str
    resource: str
    expires: Seconds | None = None
    lifetime: Seconds | None = None
    starts: Seconds | None = None
    ip: str | None = None
    hash: HashName | None = None


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_group: str
