"""What the contract test must know about a place, and keys that were generated elsewhere."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

import msgspec

from keyfront.custody import Custody, Handle, Records, open_place, open_records
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, generate_private_key
from tests.keys import rsa_key

BOTH: tuple[HashName, ...] = ("SHA1", "SHA256")
EVERY: tuple[Algorithm, ...] = ("RSA-2048", "ECDSA-P256")


class Harness(msgspec.Struct, frozen=True):
    """An empty place and its capabilities.

    `secrets` are strings that no message may contain. `imports` are the kinds of key that it can import. `at_once`
    tells whether a key can be deleted without a grace period; `least_grace` is the shortest other grace period.
    `created` tells whether it knows a key's creation time.
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
        """The place, opened anew: it shares nothing with one that was opened before."""
        return open_place(self.uri, self.environment)

    def record_store(self) -> Records:
        return open_records(self.uri, self.environment)


@functools.cache
def made_elsewhere(algorithm: Algorithm, number: int = 0) -> PrivateKey:
    """The same key for the same arguments."""
    if algorithm == "RSA-2048" and number == 0:
        return PrivateKey(rsa_key())
    return generate_private_key(algorithm)


def sign_in_two_processes(handle: Handle) -> None:
    """Sign, fork, and sign with the same handle in both processes: neither may get an answer that is the other's."""
    handle.sign(b"data", "SHA256")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for _ in range(20):
                assert handle.public_key.verify(b"child", handle.sign(b"child", "SHA256"), "SHA256")
            status = 0
        finally:
            os._exit(status)
    for _ in range(20):
        assert handle.public_key.verify(b"parent", handle.sign(b"parent", "SHA256"), "SHA256")
    assert os.waitpid(child, 0)[1] == 0
