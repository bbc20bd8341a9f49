"""What every custody offers, whatever holds the keys: a folder, a KMS, a secret store, an HSM.

A *place* holds keys under names; place and name make the key's URI, which names it for everybody:

    SCHEME:PLACE/NAME?OPTION=VALUE&…

The private half of a key leaves its place only through `export`, where the place can give it away at all. Whoever signs
has a `Handle`, and cannot tell whether the key is in this process or on the other side of the world.

A place that can hold small texts keeps *records* too (`Records`): which key signs for a key group now
(`succession.py`). One that holds nothing but keys (a KMS, an HSM) does not offer it.

Errors are `CustodyError` and those below it (errors.py): `NoSuchKey`, `KeyExists`, `NotExportable`, `RecordChanged`,
and `CustodyUnavailable` where it may help to try again. No message ever holds a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Protocol

import msgspec

from keyfront.errors import CustodyError, KeyExists
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, PublicKey

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""What a key's or a record's name may be, in every place: what all of them take."""

LABEL = r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,63}"
LABEL_VALUE = r"[A-Za-z0-9 _.:/=+@-]{0,128}"
MOST_LABELS = 16
"""What a key's labels may be, and how many: what the tags of all places take."""

MOST_BYTES = 4000
"""The longest record: what a parameter of AWS Systems Manager takes, with room to spare."""


def checked_name(name: str) -> str:
    """:raises CustodyError: if `name` is none."""
    if not re.fullmatch(NAME, name):
        raise CustodyError(
            f"{name[:80]!r} cannot be a name in custody: letters, digits, - and _, 64 at most, "
            "the first a letter or a digit"
        )
    return name


def checked_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """:raises CustodyError: if there are too many, or one of them says what not every place can keep."""
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
    """:raises CustodyError: if `grace` is no length of time."""
    if not 0 <= grace < float("inf"):
        raise CustodyError(f"a grace of {grace} seconds makes no sense")
    return grace


def checked_data(data: bytes) -> bytes:
    """:raises CustodyError: if `data` cannot be a record's: text in UTF-8 of 1 to `MOST_BYTES` bytes."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise CustodyError("a record is text in UTF-8") from None
    if not 0 < len(data) <= MOST_BYTES:
        raise CustodyError(f"a record is 1 to {MOST_BYTES} bytes long, not {len(data)}")
    return data


class HeldKey(msgspec.Struct, frozen=True):
    """What a place says of one of its keys. Times are epoch seconds.

    `created` is 0.0 where the place does not tell. `hash_names` are the hashes that it can sign with. `delete_at` is
    when it will be gone for good, None if it is to stay: a key that is to be deleted signs no more.
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
    """What `import_key` answers where the name is taken: the same key, which stays.

    :raises KeyExists: if it is another, or it is to be deleted.
    """
    if held.public_key != key:
        raise KeyExists(f"{held.uri} is there already, and is another key")
    if held.delete_at is not None:
        raise KeyExists(f"{held.uri} is there already, and it is to be deleted: undelete it first")
    return held


class Handle(Protocol):
    """A key that can sign. For any number of signatures, from any thread.

    One whose key is in this process has one more method, `forked()`: in a child process, the handle with which the same
    key signs on without anything that parent and child would share, such as a connection. One that asks its place now
    and then, while it signs, has `look()`: it asks at once, so that for a while no signature waits for the answer.
    """

    @property
    def uri(self) -> str: ...

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def hash_names(self) -> tuple[HashName, ...]:
        """The hashes that it can sign with (cloudfront-semantics §3.1; a KMS signs with SHA256 only)."""

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        """The signature over `data`: RSASSA-PKCS1-v1_5 for RSA, ASN.1 DER for ECDSA. It hashes `data` itself.

        :raises SigningError: for a hash that it cannot use.
        :raises CustodyUnavailable: if its place cannot be asked now.
        :raises NoSuchKey: if the key is gone, or is to be deleted.
        :raises CustodyError: if the place refuses.
        """


class Custody(Protocol):
    """A place that holds private keys under names (`NAME`). For any thread. Every method may raise CustodyUnavailable,
    and CustodyError where the place refuses."""

    @property
    def uri(self) -> str:
        """The place's own URI, without a name."""

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """The kinds of key that it can make."""

    @property
    def exports(self) -> bool:
        """Whether it gives private keys away at all."""

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        """Make a key. When this returns it is durable.

        :raises KeyExists: if the name is taken, also by a key that is to be deleted.
        """

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        """Take a key that was made elsewhere.

        :raises KeyExists: if the name is taken by another key, or if the key there is to be deleted: whoever imports it
            means it to stay, and has to undelete it. The same key again changes nothing else.
        """

    def list(self) -> Iterator[HeldKey]:
        """All its keys, in order of name, those to be deleted among them; what is no key of ours is left out."""

    def describe(self, name: str) -> HeldKey:
        """:raises NoSuchKey: if there is none."""

    def handle(self, name: str) -> Handle:
        """What signs with the key.

        :raises NoSuchKey: if there is none, or it is to be deleted.
        """

    def export(self, name: str) -> PrivateKey:
        """:raises NotExportable: if the place never gives it away.
        :raises NoSuchKey: if there is none."""

    def delete(self, name: str, *, grace: float, now: float) -> HeldKey:
        """Let it sign no more from now on, and be gone `grace` seconds later (a place with limits of its own takes the
        nearest that is not shorter; 0 is at once where the place allows it). Of a key that is to be deleted already,
        the earlier time counts.

        :raises NoSuchKey: if there is none.
        """

    def undelete(self, name: str) -> HeldKey:
        """Take a delete back, while there is grace. A key that is not to be deleted stays as it is.

        :raises NoSuchKey: if it is gone.
        """


class OpenPlace(Protocol):
    """Opens another place by its URI (`schemes.open_place`): given to an adapter whose options can name one."""

    def __call__(self, uri: str, environment: Mapping[str, str]) -> Custody: ...


class KeyWrapping(Protocol):
    """What a place offers besides, if it can seal small secrets under a key that never leaves it (a KMS, Vault's
    transit): a folder of keys can have its key-encrypting key there, `file:/srv/keys/?kek=awskms:…` (`file.py`).

    `name` is a key for encryption, which the operator has made there: it is none of the place's signing keys. `bound`
    is ASCII text to which the wrapping is tied, so that it opens for nothing else (KMS: the encryption context; Vault:
    associated data). Found at run time: `getattr(place, "wrap", None)`.
    """

    def wrap(self, name: str, secret: bytes, bound: str) -> bytes:
        """`secret`, at most 64 bytes, sealed.

        :raises NoSuchKey: if there is no such key.
        :raises CustodyError: if the place refuses, or the key is none for encryption.
        """

    def unwrap(self, name: str, wrapped: bytes, bound: str) -> bytes:
        """What `wrap` was given.

        :raises NoSuchKey: if there is no such key.
        :raises CustodyError: if it was wrapped elsewhere, under another key, or tied to something else.
        """


class Record(msgspec.Struct, frozen=True):
    """A small text as a place keeps it. `version` tells it from what was there before and will be after."""

    name: str
    data: bytes
    version: str


class Records(Protocol):
    """Where texts of 1 to `MOST_BYTES` bytes in UTF-8 are kept under names, and changed only by whoever knows what is
    there."""

    @property
    def uri(self) -> str: ...

    def read(self, name: str) -> Record | None:
        """:raises CustodyUnavailable: if the place cannot be asked."""

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        """Put `data` in the place of what has `version`; None: there must be nothing. Durable when this returns.

        :raises RecordChanged: if something else is there; nothing was written.
        """

    def names(self) -> list[str]: ...

    def remove(self, name: str, version: str) -> None:
        """:raises RecordChanged: if something else is there."""
