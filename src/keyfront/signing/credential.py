"""What identifies the credentials that a viewer presents: the policy that was signed, and the label in it.

The ID is a digest of the policy's bytes as they are signed: of a custom policy, those that the viewer presents; of a
canned policy, those that the edge rebuilds from the URL and Expires (cloudfront-semantics §1.2). So every edge knows
credentials by the same ID, and whoever signs the same bytes again, with whichever key, hands out the same credentials.
Two users are told apart only if their policies differ: by the URL, the expiry, or the label.

A label names the person or account that the application has made a link or cookies for. It is the query parameter
`kf-label` of a canned policy's URL or of a custom policy's Resource (`https://d.example/films/*?kf-label=ada`). It is
read from the policy, never from the request: a viewer could write anything into a part of the URL that the signature
does not cover.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from keyfront.signing.verify import Grant

LABEL: Final = "kf-label"
"""The query parameter."""
LONGEST_LABEL: Final = 128
"""Characters in a label; a longer one is ignored."""
ID_LENGTH: Final = 16
"""Hexadecimal digits in a credential's ID."""

# The value ends where a wildcard begins.
_LABEL: Final = re.compile(rf"[?&]{LABEL}=([A-Za-z0-9%._~@:+-]{{1,{LONGEST_LABEL}}})(?=[&*?]|\Z)")


class Credential(NamedTuple):
    """Credentials, as logs and findings name them.

    :param id: the first digits of the SHA-256 of the policy: it reveals neither the URL nor the signature.
    :param label: as it is written in the policy, percent-encoded; empty if there is none.
    """

    id: str
    label: str


def credential_id(policy_digest: bytes) -> str:
    """The ID of the credentials with a policy of this SHA-256."""
    return policy_digest.hex()[:ID_LENGTH]


def credential_of(grant: Grant) -> Credential:
    """The credentials that gave a grant."""
    resource = grant.resource
    found = None if resource is None else _LABEL.search(resource)
    return Credential(credential_id(grant.policy_digest), "" if found is None else found[1])
