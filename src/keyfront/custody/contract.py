"""The contract of every custody, whatever holds the keys: a folder, a KMS, a secret store, an HSM.

A *place* holds keys by name. Place and name make the URI of a key:

    SCHEME:PLACE/NAME?OPTION=VALUE&…

A private key leaves its place only through `export`, if the place exports keys at all. A signer has a `Handle`, and
does not know whether the key is in this process or on another continent.

A place that can store small texts also stores *records* (`Records`): which key signs for a key group now
(`key_record.py`). A place for keys only (a KMS, an HSM) does not.

Errors are `CustodyError` and its subclasses (errors.py): `NoSuchKey`, `KeyExists`, `NotExportable`, `RecordChanged`,
and `CustodyUnavailable` if a retry may help. No message holds a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Protocol

import msgspec

from keyfront.errors import CustodyError, KeyExists
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, PublicKey

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""The names that a key or a record may have: those that every place accepts."""

LABEL = r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,63}"
LABEL_VALUE = r"[A-Za-z0-9 _.:/=+@-]{0,128}"
MOST_LABELS = 16
"""The labels that a key may have, and how many: what the tags of every place accept."""

MOST_BYTES = 4000
"""Bytes of the longest record: what a parameter of AWS Systems Manager holds, with room to spare."""


def checked_name(name: str) -> str:
    """:raises CustodyError: if `name` is not a valid name."""
    if not re.fullmatch(NAME, name):
        raise CustodyError(
            f"{name[:80]!r} cannot be a name in custody: letters, digits, - and _, 64 at most, "
            "the first a letter or a digit"
        )
    return name


def checked_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """:raises CustodyError: if there are too many, or one of them cannot be stored in every place."""
    found = dict(labels or {})
    if len(found) > MOST_LABELS:
        raise CustodyError(f"a key has at most {MOST_LABELS} labels")
    for label, value in found.items():
        if not re.fullmatch(LABEL, label) or not re.fullmatch(LABEL_VALUE, value):
            raise CustodyError(
                f"{label[:80]}={value[:160]!r} cannot be a label: letters, digits, _ . : / @ and -, in the value "
                "also space, = and +; 64 characters, and 128 in the value"
            )
    return found


def checked_grace(grace: float) -> float:
    """:raises CustodyError: if `grace` is not a duration in seconds."""
    if not 0 <= grace < float("inf"):
        raise CustodyError(f"a grace of {grace} seconds makes no sense")
    return grace


def checked_data(data: bytes) -> bytes:
    """:raises CustodyError: if `data` is not valid record content: text in UTF-8 of 1 to `MOST_BYTES` bytes."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise CustodyError("a record is text in UTF-8") from None
    if not 0 < len(data) <= MOST_BYTES:
        raise CustodyError(f"a record is 1 to {MOST_BYTES} bytes long, not {len(data)}")
    return data


class HeldKey(msgspec.Struct, frozen=True):
    """One key of a place. Times are epoch seconds.

    `created` is 0.0 if the place does not know it. `hash_names` are the hashes that the key can sign with. `delete_at`
    is when it will be permanently deleted, None if no deletion is scheduled; a key scheduled for deletion does not
    sign.
    """

    uri: str
    name: str
    public_key: PublicKey
    created: float
    exportable: bool
    hash_names: tuple[HashName, ...] = ("SHA1", "SHA256")
    delete_at: float | None = None
    labels: Mapping[str, str] = {}


def there_already(held: HeldKey, key: PublicKey) -> HeldKey:
    """Return the result of `import_key` if the name is taken: the existing key, if it is the same.

    :raises KeyExists: if it is another key, or is scheduled for deletion.
    """
    if held.public_key != key:
        raise KeyExists(f"{held.uri} is there already, and is another key")
    if held.delete_at is not None:
        raise KeyExists(f"{held.uri} is there already, and it is to be deleted: undelete it first")
    return held


class Handle(Protocol):
    """A key that can sign: any number of signatures, from any thread.

    A handle whose key is in this process also has `after_fork()`: in a child process, a handle for the same key that
    shares nothing, such as a connection, with the parent. A handle that checks its place at intervals also has
    `check()`: it checks at once, so that no signature waits for the check for a while.
    """

    @property
    def uri(self) -> str: ...

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def hash_names(self) -> tuple[HashName, ...]:
        """The hashes that it can sign with (cloudfront-semantics §3.1; a KMS signs with SHA256 only)."""

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        """Return the signature over `data`: RSASSA-PKCS1-v1_5 for RSA, ASN.1 DER for ECDSA. It hashes `data` itself.

        :raises SigningError: for a hash that it cannot use.
        :raises CustodyUnavailable: if its place cannot be reached now.
        :raises NoSuchKey: if the key is gone, or is scheduled for deletion.
        :raises CustodyError: if the place refuses.
        """


class Custody(Protocol):
    """A place that holds private keys by name (`NAME`). Safe for any thread. Every method may raise CustodyUnavailable,
    and CustodyError if the place refuses."""

    @property
    def uri(self) -> str:
        """The URI of the place, without a name."""

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """The key types that it can create."""

    @property
    def exports(self) -> bool:
        """Whether it exports private keys."""

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        """Create a key. It is durable when this returns.

        :raises KeyExists: if the name is taken, even by a key that is scheduled for deletion.
        """

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        """Store a key that was created elsewhere. Importing the same key again changes nothing.

        :raises KeyExists: if the name is taken by another key, or if that key is scheduled for deletion: undelete it
            instead.
        """

    def list(self) -> Iterator[HeldKey]:
        """Yield all its keys by name, including those scheduled for deletion, without anything that is not a key of
        Keyfront's."""

    def describe(self, name: str) -> HeldKey:
        """:raises NoSuchKey: if there is no such key."""

    def handle(self, name: str) -> Handle:
        """A handle that signs with the key.

        :raises NoSuchKey: if there is no such key, or it is scheduled for deletion.
        """

    def export(self, name: str) -> PrivateKey:
        """:raises NotExportable: if the place does not export keys.
        :raises NoSuchKey: if there is none."""

    def delete(self, name: str, *, grace: float, now: float) -> HeldKey:
        """Stop the key from signing now, and delete it `grace` seconds later. A place with limits uses the nearest
        longer time; 0 means immediately if the place allows it. If the key is already scheduled for deletion, the
        earlier time counts.

        :raises NoSuchKey: if there is none.
        """

    def undelete(self, name: str) -> HeldKey:
        """Cancel a deletion during its grace. A key that is not scheduled for deletion is unchanged.

        :raises NoSuchKey: if it is gone.
        """


class OpenPlace(Protocol):
    """Opens another place by its URI (`schemes.open_place`): given to an adapter whose options can name one."""

    def __call__(self, uri: str, environment: Mapping[str, str]) -> Custody: ...


class KeyWrapping(Protocol):
    """An optional protocol of a place that can encrypt small secrets under a key that never leaves it (a KMS, Vault's
    transit): the key-encrypting key of a folder of keys can be there, `file:/srv/keys/?kek=awskms:…`.

    `name` is an encryption key that the operator created there, not one of the place's signing keys. `bound` is ASCII
    text to which the wrapping is bound, so that it cannot be unwrapped for anything else (KMS: the encryption context;
    Vault: associated data). Found at run time: `getattr(place, "wrap", None)`.
    """

    def wrap(self, name: str, secret: bytes, bound: str) -> bytes:
        """Encrypt `secret`, at most 64 bytes.

        :raises NoSuchKey: if there is no such key.
        :raises CustodyError: if the place refuses, or the key is not an encryption key.
        """

    def unwrap(self, name: str, wrapped: bytes, bound: str) -> bytes:
        """Return the secret that was passed to `wrap`.

        :raises NoSuchKey: if there is no such key.
        :raises CustodyError: if it was wrapped elsewhere, under another key, or bound to something else.
        """


class Record(msgspec.Struct, frozen=True):
    """A small text in a place. `version` identifies this content: each write gives it a new one."""

    name: str
    data: bytes
    version: str


class Records(Protocol):
    """A store of texts of 1 to `MOST_BYTES` bytes of UTF-8 by name, written by compare-and-swap."""

    @property
    def uri(self) -> str: ...

    def read(self, name: str) -> Record | None:
        """The record, None if there is none.

        :raises CustodyUnavailable: if the place cannot be reached."""

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        """Replace the content that has `version` by `data`; None: create the record. Durable when this returns.

        :raises RecordChanged: if the record has another version; nothing was written.
        """

    def names(self) -> list[str]: ...

    def remove(self, name: str, version: str) -> None:
        """:raises RecordChanged: if the record has another version."""
