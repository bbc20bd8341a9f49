"""What identifies the credentials that a viewer presents: the policy that was signed, and the label in it.

Whoever signs the same policy again, with whichever key, hands out the same credentials. Two users are told apart only
if their policies differ: by the URL, the expiry, or the label.

A label names the person or account that the application has made a link or cookies for. It is the query parameter
`kf-label` of a canned policy's URL or of a custom policy's Resource (`https://d.example/films/*?kf-label=ada`). It is
read from the policy, never from the request: a viewer could write anything into a part of the URL that the signature
does not cover.
"""

from __future__ import annotations

import re
from hashlib import sha256
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

    :param id: the first digits of a digest of the policy: it reveals neither the URL nor the signature.
    :param label: as it is written in the policy, percent-encoded; empty if there is none.
    """

    id: str
    label: str


def credential_of(grant: Grant) -> Credential:
    """The credentials that gave a grant."""
    resource = grant.resource
    kind = "canned" if grant.canned else "custom"
    terms = f"{kind}\n{grant.expires}\n{grant.not_before}\n{grant.network}\n{'' if resource is None else resource}"
    found = None if resource is None else _LABEL.search(resource)
    digest = sha256(terms.encode("latin-1", "backslashreplace")).hexdigest()
    return Credential(digest[:ID_LENGTH], "" if found is None else found[1])
