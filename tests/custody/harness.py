"""What the contract's test must know of a place, and keys that were made elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec

from keyfront.custody import Custody, Records, open_place, open_records
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, generate_private_key

BOTH: tuple[HashName, ...] = ("SHA1", "SHA256")
EVERY: tuple[Algorithm, ...] = ("RSA-2048", "ECDSA-P256")


class Harness(msgspec.Struct, frozen=True):
    """A place that holds nothing yet, and what it can do.

    `secrets` are texts that no message may hold. `imports` are the kinds of key that it takes from elsewhere.
    `at_once` tells whether a key can be gone without grace; `least_grace` is the shortest that it allows besides.
    `created` tells whether it knows when a key was made.
    """

    uri: str
    environment: Mapping[str, str] = {}
    secrets: tuple[str, ...] = ()
    makes: tuple[Algorithm, ...] = EVERY
    imports: tuple[Algorithm, ...] = EVERY
    hash_names: tuple[HashName, ...] = BOTH
    exports: bool = True
    records: bool = True
    at_once: bool = True
    least_grace: float = 0.0
    created: bool = True

    def place(self) -> Custody:
        """The place, opened anew: nothing is shared with one that was opened before."""
        return open_place(self.uri, self.environment)

    def kept(self) -> Records:
        return open_records(self.uri, self.environment)


@functools.cache
def made_elsewhere(algorithm: Algorithm, number: int = 0) -> PrivateKey:
    """The same key for the same arguments: RSA keys take a while."""
    return generate_private_key(algorithm)
