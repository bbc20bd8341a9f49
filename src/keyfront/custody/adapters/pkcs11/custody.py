"""The `pkcs11:` custody: an HSM, or anything else that speaks PKCS #11. Keys are created in the token and never leave
it.

    pkcs11:TOKEN/NAME?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/keyfront/pin

TOKEN is the token's label or serial number, percent-encoded where necessary; NAME is the CKA_LABEL of the key pair. A
pair that another program created under a label that is a valid NAME can be used too.

Data for which PKCS #11 has no attribute (the creation time of a key, its labels, its deletion time) is in a data object
of the same label. A key scheduled for deletion loses CKA_SIGN, so the token itself refuses to sign with it for any
client. The first access after its deletion time destroys it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote, urlencode

import msgspec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, Mechanism
from pkcs11 import exceptions as faults

from keyfront.custody.adapters.pkcs11.key_pairs import (
    Notes,
    Pair,
    destroy,
    generate,
    note,
    pair_of,
    pairs,
    private_key,
    private_keys,
    put,
)
from keyfront.custody.adapters.pkcs11.token import Token, token
from keyfront.custody.contract import HeldKey, checked_grace, checked_labels, checked_name, there_already
from keyfront.custody.local_files import check_private, file_error
from keyfront.errors import (
    CustodyError,
    CustodyUnavailable,
    KeyExists,
    KeyLoadError,
    NoSuchKey,
    NotExportable,
    SigningError,
)
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, digest, digest_info

T = TypeVar("T")

_TRIES = 8
_GONE = (faults.ObjectHandleInvalid, faults.KeyHandleInvalid)  # another process has withdrawn its own key
_WHOLE: dict[HashName, Mechanism] = {"SHA1": Mechanism.SHA1_RSA_PKCS, "SHA256": Mechanism.SHA256_RSA_PKCS}


class Pkcs11Custody:
    """A PKCS #11 token as a custody."""

    exports = False

    def __init__(
        self,
        place: str,
        options: Mapping[str, str],
        environment: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """:raises CustodyError: if `place` does not name a token, an option is unknown, or the module cannot be
        loaded."""
        if {"pin", "pin-value"} & set(options):
            raise CustodyError(
                "a PIN never stands in a URI: put it into a file, and name that by pin-source="
            )
        if unknown := sorted(set(options) - {"module-path", "pin-source"}):
            raise CustodyError(
                f"pkcs11: has the options module-path and pin-source, but not {', '.join(unknown)}"
            )
        name = unquote(place.removesuffix("/"))
        if not name or "/" in place.removesuffix("/"):
            raise CustodyError(
                "pkcs11: names no token: write pkcs11:TOKEN/NAME, and pkcs11:TOKEN/ for the place"
            )
        if not os.path.isabs(options.get("module-path", "")):
            raise CustodyError("pkcs11: needs module-path=, the absolute path of the token's PKCS#11 module")
        self._query = urlencode(options, safe="/:")
        self._place = f"pkcs11:{quote(name, safe='')}/"
        self.uri = f"{self._place}?{self._query}"
        self._module_path = options["module-path"]
        self._name = name
        self._pin = _pin_source(options.get("pin-source"), environment)
        self._clock = clock
        self._pin()  # fails now if the place cannot be opened
        self._token()

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        self._run(lambda _: None)
        able = self._token().mechanisms
        found: list[Algorithm] = []
        if Mechanism.RSA_PKCS_KEY_PAIR_GEN in able:
            found.append("RSA-2048")
        if Mechanism.EC_KEY_PAIR_GEN in able:
            found.append("ECDSA-P256")
        return tuple(found)

    # ---- creating keys

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        if algorithm not in ("RSA-2048", "ECDSA-P256"):
            raise CustodyError(f"a key is RSA-2048 or ECDSA-P256, not {algorithm}")
        return self._added(
            name,
            Notes(created=now, labels=checked_labels(labels)),
            now,
            lambda s, i: generate(s, i, name, algorithm),
        )

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        with contextlib.suppress(NoSuchKey):
            return there_already(self.describe(name), key.public_key)
        return self._added(
            name, Notes(created=now, labels=checked_labels(labels)), now, lambda s, i: put(s, i, name, key)
        )

    def _added(self, name: str, notes: Notes, now: float, make: Callable[[Any, bytes], None]) -> HeldKey:
        """Create a key and check that its label is unique, because PKCS #11 does not enforce unique labels. A process
        that sees another process's key beside the one it just created withdraws its own and retries after a moment.
        If a token shows objects created by other clients only later, there can still be two; `private_key` then
        refuses both."""
        checked_name(name)

        def add(session: Any) -> HeldKey | None:
            self._purge(session, name, now)
            if private_keys(session, name):
                raise KeyExists(f"there is a key {name} in the token {self._name} already")
            id_ = secrets.token_bytes(16)
            note(session, name, msgspec.structs.replace(notes, id=id_.hex()))
            try:
                make(session, id_)
                found = private_keys(session, name)
                if len(found) == 1:
                    return self._held(pair_of(session, found[0]))
            except faults.PKCS11Error as error:
                with contextlib.suppress(faults.PKCS11Error):
                    destroy(session, name, id_)
                if isinstance(error, _GONE):
                    return None
                raise
            destroy(session, name, id_)
            return None

        for _ in range(_TRIES):
            held = self._run(add, changes=True)
            if held is not None:
                return held
            time.sleep(secrets.randbelow(100) / 1000)
        raise CustodyUnavailable(
            f"other processes make a key {name} in the token {self._name} at the same moment"
        )

    def export(self, name: str) -> PrivateKey:
        raise NotExportable(f"the token {self._name} never exports its private keys")

    # ---- listing keys

    def list(self) -> Iterator[HeldKey]:
        now = self._clock()
        found = self._run(pairs)
        yield from (self._held(pair) for pair in found if not pair.notes.due(now))
        for pair in found:
            if pair.notes.due(now):
                self._purge_quietly(pair.name, now)

    def describe(self, name: str) -> HeldKey:
        checked_name(name)
        key = self._run(lambda session: self._known(session, name))
        now = self._clock()
        if key.notes.due(now):
            self._purge_quietly(name, now)
            raise self._absent(name)
        return self._held(key)

    def handle(self, name: str) -> Pkcs11Handle:
        held = self.describe(name)
        if held.delete_at is not None:
            raise _pending_deletion(name)
        return Pkcs11Handle(self, held)

    # ---- deleting keys

    def delete(self, name: str, *, grace: float, now: float) -> HeldKey:
        checked_name(name)
        checked_grace(grace)

        def delete(session: Any) -> HeldKey:
            self._purge(session, name, now)
            key = self._known(session, name)
            earlier = key.notes.delete_at
            at = now + grace if earlier is None else min(earlier, now + grace)
            notes = msgspec.structs.replace(key.notes, delete_at=at)
            if at <= now:
                destroy(session, name, key.id)
            elif at != earlier:
                note(session, name, notes)
                try:
                    key.object[Attribute.SIGN] = False
                except faults.PKCS11Error as error:
                    note(session, name, key.notes)
                    raise CustodyError(
                        f"the token {self._name} cannot keep a key from signing without deleting it: delete it "
                        "without grace"
                    ) from error
            return self._held(Pair(name, None, key.id, key.public_key, notes))

        return self._run(delete, changes=True)

    def undelete(self, name: str) -> HeldKey:
        checked_name(name)
        now = self._clock()

        def undelete(session: Any) -> HeldKey:
            self._purge(session, name, now)
            key = self._known(session, name)
            notes = msgspec.structs.replace(key.notes, delete_at=None)
            if key.notes.delete_at is not None:
                note(session, name, notes)
            if not key.object[Attribute.SIGN]:
                key.object[Attribute.SIGN] = True
            return self._held(Pair(name, None, key.id, key.public_key, notes))

        return self._run(undelete, changes=True)

    # ---- internals

    def _token(self) -> Token:
        return token(self._module_path, self._name)

    def _run(self, work: Callable[[Any], T], *, changes: bool = False) -> T:
        return self._token().run(work, self._pin(), changes=changes)

    def _known(self, session: Any, name: str) -> Pair:
        found = private_key(session, name)
        if found is None:
            raise self._absent(name)
        try:
            return pair_of(session, found)
        except KeyLoadError as error:
            raise CustodyError(f"the key {name} in the token {self._name}: {error}") from None

    def _purge(self, session: Any, name: str, now: float) -> None:
        """Destroy the key if its deletion time has come."""
        with contextlib.suppress(CustodyError):
            found = self._known(session, name)
            if found.notes.due(now):
                destroy(session, name, found.id)

    def _purge_quietly(self, name: str, now: float) -> None:
        with contextlib.suppress(CustodyError):
            self._run(lambda session: self._purge(session, name, now), changes=True)

    def _held(self, key: Pair) -> HeldKey:
        return HeldKey(
            f"{self._place}{key.name}?{self._query}",
            key.name,
            key.public_key,
            key.notes.created,
            exportable=False,
            hash_names=self._hash_names(key.public_key.algorithm),
            delete_at=key.notes.delete_at,
            labels=key.notes.labels,
        )

    def _hash_names(self, algorithm: Algorithm) -> tuple[HashName, ...]:
        able = self._token().mechanisms
        if algorithm == "ECDSA-P256" or Mechanism.RSA_PKCS in able:
            return ("SHA1", "SHA256")
        return tuple(name for name, mechanism in _WHOLE.items() if mechanism in able)

    def _absent(self, name: str) -> NoSuchKey:
        return NoSuchKey(f"there is no key {name} in the token {self._name}")

    def __repr__(self) -> str:
        return f"<Pkcs11Custody {self._place}>"


class Pkcs11Handle:
    """A key in a token. Every signature is verified before it is returned: a token that is misread or faulty can reveal
    a key through a wrong signature."""

    def __init__(self, place: Pkcs11Custody, held: HeldKey) -> None:
        self.uri = held.uri
        self.public_key = held.public_key
        self.hash_names = held.hash_names
        self._place = place
        self._name = held.name
        self._bare = Mechanism.RSA_PKCS in place._token().mechanisms
        self._kept: tuple[object, Any] = (None, None)

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        if hash_name not in self.hash_names:
            raise SigningError(
                f"the key {self._name} signs with {' or '.join(self.hash_names)}, not {hash_name}"
            )
        at = self._place._token()
        hashed = digest(data, hash_name)
        if self.public_key.algorithm == "ECDSA-P256":
            mechanism, text = Mechanism.ECDSA, hashed
        elif self._bare:
            mechanism, text = Mechanism.RSA_PKCS, digest_info(hashed, hash_name)
        else:
            mechanism, text = _WHOLE[hash_name], data

        def known(_: Any) -> bytes | None:
            generation, key = self._kept
            return cast("bytes", key.sign(text, mechanism=mechanism)) if generation == at.generation else None

        def found(session: Any) -> bytes:
            key = self._found(session)
            signature = cast("bytes", key.sign(text, mechanism=mechanism))
            self._kept = (at.generation, key)
            return signature

        signature = at.attempt(known)
        if signature is None:  # the key or the session is gone: look for the key again
            self._kept = (None, None)
            signature = self._place._run(found)
        if self.public_key.algorithm == "ECDSA-P256":
            half = len(signature) // 2
            signature = encode_dss_signature(
                int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
            )
        if not self.public_key.verify(data, signature, hash_name):
            self._kept = (None, None)
            raise CustodyError(f"the token's signature with {self._name} does not verify")
        return signature

    def _found(self, session: Any) -> Any:
        key = self._place._known(session, self._name)
        if key.public_key != self.public_key:
            raise self._place._absent(self._name)
        if key.notes.delete_at is not None or not key.object[Attribute.SIGN]:
            raise _pending_deletion(self._name)
        return key.object

    def __repr__(self) -> str:
        return f"<Pkcs11Handle {self._name} {self.public_key!r}>"


def _pending_deletion(name: str) -> NoSuchKey:
    return NoSuchKey(
        f"the key {name} is to be deleted and signs no more; undelete it first, if it is to stay"
    )


# ---- the PIN


def _pin_source(source: str | None, environment: Mapping[str, str]) -> Callable[[], str | None]:
    """Return a function that reads the PIN afresh on each call, so that the PIN can be changed.

    :raises CustodyError: if `source` is invalid. The message does not repeat it, since it may be a PIN.
    """
    if source is None:
        return lambda: None
    scheme, _, rest = source.partition(":")
    if scheme == "env" and rest:
        return lambda: _given(environment.get(rest), f"the environment's {rest}")
    if scheme == "file" and rest.startswith("/"):
        return lambda: _given(_from_file(Path(rest)), rest)
    raise CustodyError("pin-source= is file:/path or env:VARIABLE, and never the PIN itself")


def _given(text: str | None, where: str) -> str:
    if not (pin := (text or "").strip("\r\n")):
        raise CustodyError(f"{where} holds no PIN")
    try:
        pin.encode()
    except UnicodeEncodeError:
        raise CustodyError(f"{where} holds no PIN, which is text in UTF-8") from None
    return pin


def _from_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            check_private(path, os.fstat(file.fileno()))
            return file.read(1024)
    except OSError as error:
        raise file_error(path, error) from error
    except UnicodeDecodeError:
        raise CustodyError(f"{path} is not text") from None
