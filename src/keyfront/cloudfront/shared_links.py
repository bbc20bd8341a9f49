"""Shared signed URLs and cookies, as Keyfront finds them: credentials that are used from many places.

Keyfront serves this at `PATH`, next to CloudFront's API and signed in the same way (docs/reference/control-api.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from keyfront.cloudfront import own_api
from keyfront.errors import AccountError

if TYPE_CHECKING:
    from botocore.session import Session

PATH = "/keyfront/2026-11-22/shared-links"
ACTION = "keyfront:ListSharedLinks"
"""The IAM action that the call requires."""


class SharedUse(msgspec.Struct, frozen=True, rename="pascal"):
    """The use of a credential within an hour: distinct networks (/24 of IPv4, /48 of IPv6), countries, and user agents;
    requests, and bytes sent. Exact up to 64, and estimated above, with a standard error of 13 %; requests and bytes
    count from the second network on."""

    networks: int
    countries: int
    agents: int
    requests: int
    bytes: int

    def most(self, other: SharedUse) -> SharedUse:
        """The larger of each value."""
        return SharedUse(*map(max, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))


class SharedLink(msgspec.Struct, frozen=True, rename="pascal"):
    """A credential that was found to be shared.

    :param credential: an ID made from its policy (`keyfront.signing.credential`).
    :param label: whom the application made it for; empty if the policy does not say.
    :param first: when it was first found to be shared, and `last`: when it last was (epoch seconds).
    :param most: the largest values ever seen in an hour; `now`: those at `last`.
    :param thresholds: those that were reached at `last`, by measure.
    """

    credential: str
    label: str
    key_pair_ids: tuple[str, ...]
    distributions: tuple[str, ...]
    first: float
    last: float
    most: SharedUse
    now: SharedUse
    thresholds: Mapping[str, int]


class SharedLinks(msgspec.Struct, frozen=True, rename="pascal"):
    """Findings, the one that was shared last first."""

    items: tuple[SharedLink, ...] = ()


_decoder = msgspec.json.Decoder(SharedLinks)


def fetch(session: Session, endpoint_url: str = "") -> SharedLinks:
    """The shared links that the control plane at `endpoint_url` has found.

    :param session: a botocore session, for credentials and region.
    :raises AccountError: if the control plane cannot be reached, or refuses; or if it is Amazon's, which has no such
        API.
    """
    what = "the shared links"
    answer = own_api.get(session, endpoint_url, PATH, what)
    if answer is None or answer.status == 404:
        raise AccountError(f"{what} are known to Keyfront only, and this is not a Keyfront, or an older one")
    if answer.status == 200:
        try:
            return _decoder.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as failure:
            raise AccountError(f"{what}: the answer cannot be read: {failure}") from failure
    raise own_api.refusal(answer, what, ACTION) or AccountError(
        f"{what} cannot be queried: the answer is {answer.status}"
    )
