"""What all signers have in common whose key may change at any time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from keyfront.signing.keys import HashName, PublicKey


class CurrentKey(Protocol):
    """The key that signs now, for one signature."""

    @property
    def key_pair_id(self) -> str: ...

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def hash_names(self) -> tuple[HashName, ...]: ...

    @property
    def hash_name(self) -> HashName | None: ...

    @property
    def max_lifetime(self) -> float: ...

    def sign(self, data: bytes, hash_name: HashName) -> bytes: ...


class ChangingKeySigner(ABC):
    """A Signer whose members are those of the current key at the time of each access (`signing.sign.Signer`)."""

    @abstractmethod
    def pinned(self) -> CurrentKey:
        """The current key, for one signature."""

    @property
    def key_pair_id(self) -> str:
        return self.pinned().key_pair_id

    @property
    def public_key(self) -> PublicKey:
        return self.pinned().public_key

    @property
    def hash_names(self) -> tuple[HashName, ...]:
        return self.pinned().hash_names

    @property
    def hash_name(self) -> HashName | None:
        return self.pinned().hash_name

    @property
    def max_lifetime(self) -> float:
        return self.pinned().max_lifetime

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        return self.pinned().sign(data, hash_name)
