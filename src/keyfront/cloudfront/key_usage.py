"""The usage of signing keys as edges report it: which keys are still in use, how much, where, and how far ahead.

Keyfront serves this at `PATH`, next to CloudFront's API and signed in the same way (docs/reference/control-api.md).
Amazon's CloudFront has no such API: usage is then unknown, which is None here, and never means "not used".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from keyfront.cloudfront import own_api
from keyfront.errors import AccountError

if TYPE_CHECKING:
    from botocore.session import Session

PATH = "/keyfront/2026-11-22/key-use"
ACTION = "keyfront:GetKeyUse"
"""The IAM action that the call requires."""


class Counted(msgspec.Struct, frozen=True, rename="pascal"):
    """A count of requests allowed by signatures. The last was at `last_seen` (epoch seconds)."""

    requests: int
    last_seen: float


class KeyUse(msgspec.Struct, frozen=True, rename="pascal"):
    """The use of one key, as far as edges have reported it. Times are epoch seconds, durations seconds.

    `requests` were allowed by its signatures since `first_seen`; `requests_last_day` of them were within the last 24
    hours (rounded to the hour), which is the `share` (0 to 1) of the requests allowed by all keys within that time.
    `hashes` and `distributions` are the same counts by hash and by distribution. `signatures_end` is when the last of
    its signatures expires. `longest_lifetime` is the longest time until expiry that a signature had when it was first
    accepted, among those that are still valid, which is until `longest_ends`. 0.0: not known.
    """

    key_pair_id: str
    first_seen: float
    last_seen: float
    requests: int
    requests_last_day: int = 0
    share: float = 0.0
    hashes: Mapping[str, Counted] = {}
    distributions: Mapping[str, Counted] = {}
    signatures_end: float = 0.0
    longest_lifetime: float = 0.0
    longest_ends: float = 0.0


class KeyUses(msgspec.Struct, frozen=True, rename="pascal"):
    """What was known at `time` (epoch seconds). A key that is not in `items` was never seen. `since` is when usage
    collection began: nothing is known about earlier use."""

    time: float
    since: float
    items: tuple[KeyUse, ...] = ()

    def of(self, key_pair_id: str) -> KeyUse | None:
        return next((use for use in self.items if use.key_pair_id == key_pair_id), None)


_decoder = msgspec.json.Decoder(KeyUses)


def fetch(session: Session, endpoint_url: str = "") -> KeyUses | None:
    """Return what the control plane at `endpoint_url` knows about the use of keys, or None if there is no such API, as
    with Amazon's CloudFront (no `endpoint_url`).

    :param session: a botocore session, for credentials and region.
    :raises AccountError: if the control plane cannot be reached, or refuses. This does not mean that nothing is known.
    """
    answer = own_api.get(session, endpoint_url, PATH, "the key usage")
    return None if answer is None else read_answer(answer.status, answer.body)


def read_answer(status: int, body: bytes) -> KeyUses | None:
    """Parse a response. Returns None if it says that there is no such API: 404, or 400 and 403 in a form other than
    Keyfront's own, as Amazon's CloudFront returns them.

    :raises AccountError: for every other response: a refusal, a proxy that cannot reach the control plane, or a
        response that cannot be parsed. None of these means that nothing is known.
    """
    if status == 200:
        try:
            return _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as failure:
            raise AccountError(f"the key usage: the answer cannot be read: {failure}") from failure
    if status == 404:
        return None
    refused = own_api.refusal(own_api.Answer(status, body), "the key usage", ACTION)
    if refused is not None:
        raise refused
    if status in (400, 403):
        return None
    raise AccountError(f"the key usage cannot be queried: the answer is {status}")
