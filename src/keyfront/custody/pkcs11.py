"""`pkcs11:`: an HSM, or anything else that speaks PKCS#11. Keys are made in the token and never leave it.

    pkcs11:TOKEN/NAME?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/keyfront/pin

TOKEN is the token's label or its serial number, percent-encoded where it must be; NAME is the keys' CKA_LABEL. A pair
that another program has made under a label that may be a NAME can be used too.

What PKCS#11 has no attribute for (when a key was made, its labels, when it is to go) is in a data object of the same
label. A key that is to be deleted loses CKA_SIGN: the token itself signs with it no more, whoever asks. It is destroyed
when somebody looks after its time has come.
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
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11 import exceptions as faults

from keyfront.custody.contract import HeldKey, checked_grace, checked_labels, checked_name
from keyfront.custody.folder import private, trouble
from keyfront.custody.token import Token, token
from keyfront.errors import (
    CustodyError,
    CustodyUnavailable,
    KeyExists,
    KeyLoadError,
    NoSuchKey,
    NotExportable,
    SigningError,
)
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, PublicKey, digest, digest_info

APPLICATION = "keyfront"

T = TypeVar("T")

_P256 = bytes.fromhex("06082a8648ce3d030107")  # the OID of prime256v1, in DER
_STRANGE = (faults.AttributeTypeInvalid, faults.AttributeSensitive)  # of what is no key as we know them
_SIGNS = MechanismFlag.SIGN | MechanismFlag.VERIFY
_WHOLE: dict[HashName, Mechanism] = {"SHA1": Mechanism.SHA1_RSA_PKCS, "SHA256": Mechanism.SHA256_RSA_PKCS}


class Notes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the data object beside a key holds. Of two the one with the higher `number` counts."""

    created: float = 0.0
    labels: dict[str, str] = {}
    delete_at: float | None = None
    number: int = 0


class _Key:
    """A private key object in the token, and what is known of it."""

    __slots__ = ("name", "notes", "object", "public_key")

    def __init__(self, name: str, object_: Any, public_key: PublicKey, notes: Notes | None) -> None:
        self.name = name
        self.object = object_
        self.public_key = public_key
        self.notes = notes or Notes()


class Pkcs11Custody:
    """A token."""

    exports = False

    def __init__(
        self,
        place: str,
        options: Mapping[str, str],
        environment: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """:raises CustodyError: if `place` names no token, an option is unknown, or the module cannot be loaded."""
        if {"pin", "pin-value"} & set(options):
            raise CustodyError(
                "a PIN never stands in a URI: put it into a file, and name that by pin-source="
            )
        if unknown := sorted(set(options) - {"module-path", "pin-source"}):
            raise CustodyError(
                f"pkcs11: knows the options module-path and pin-source, not {', '.join(unknown)}"
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
        self._pin()  # so that a place that cannot be opened is known at once
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

    # ---- keys are made

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        if algorithm not in ("RSA-2048", "ECDSA-P256"):
            raise CustodyError(f"a key is RSA-2048 or ECDSA-P256, not {algorithm}")
        return self._added(
            name, Notes(now, checked_labels(labels)), now, lambda s, i: _generate(s, i, name, algorithm)
        )

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        with contextlib.suppress(NoSuchKey):
            held = self.describe(name)
            if held.public_key == key.public_key:
                return held
        return self._added(name, Notes(now, checked_labels(labels)), now, lambda s, i: _put(s, i, name, key))

    def _added(self, name: str, notes: Notes, now: float, make: Callable[[Any, bytes], None]) -> HeldKey:
        """The notes come first: a key without them is one that nobody here has made."""
        checked_name(name)

        def add(session: Any) -> HeldKey:
            self._purge(session, name, now)
            if _private(session, name) is not None:
                raise KeyExists(f"there is a key {name} in the token {self._name} already")
            _note(session, name, notes)
            id_ = secrets.token_bytes(16)
            try:
                make(session, id_)
            except faults.PKCS11Error:
                with contextlib.suppress(faults.PKCS11Error):
                    _destroy(session, name, id_)
                raise
            if len(_objects(session, _is_private(name))) > 1:  # another process, at the same moment
                _destroy(session, name, id_, notes=False)
                raise CustodyUnavailable(
                    f"another process has made a key {name} in the token {self._name} at the same moment"
                )
            return self._held(self._known(session, name))

        return self._run(add, changes=True)

    def export(self, name: str) -> PrivateKey:
        raise NotExportable(f"the token {self._name} never gives its private keys away")

    # ---- keys are listed

    def list(self) -> Iterator[HeldKey]:
        now = self._clock()

        def look(session: Any) -> list[_Key]:
            found = []
            for each in _objects(session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
                name = _label(each)
                with contextlib.suppress(CustodyError, KeyLoadError, ValueError, *_STRANGE):
                    found.append(
                        _Key(checked_name(name), each, _public(session, each), _noted(session, name))
                    )
            return found

        found = self._run(look)
        yield from (self._held(key) for key in sorted(found, key=_by_name) if not _due(key.notes, now))
        for key in found:
            if _due(key.notes, now):
                self._purge_quietly(key.name, now)

    def describe(self, name: str) -> HeldKey:
        checked_name(name)
        key = self._run(lambda session: self._known(session, name))
        now = self._clock()
        if _due(key.notes, now):
            self._purge_quietly(name, now)
            raise self._absent(name)
        return self._held(key)

    def handle(self, name: str) -> Pkcs11Handle:
        held = self.describe(name)
        if held.delete_at is not None:
            raise _doomed(name)
        return Pkcs11Handle(self, held)

    # ---- keys go

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
                _destroy(session, name, key.object[Attribute.ID])
            elif at != earlier:
                _note(session, name, notes)
                try:
                    key.object[Attribute.SIGN] = False
                except faults.PKCS11Error as error:
                    _note(session, name, key.notes)
                    raise CustodyError(
                        f"the token {self._name} cannot keep a key from signing without deleting it: delete it "
                        "without grace"
                    ) from error
            return self._held(_Key(name, None, key.public_key, notes))

        return self._run(delete, changes=True)

    def undelete(self, name: str) -> HeldKey:
        checked_name(name)
        now = self._clock()

        def undelete(session: Any) -> HeldKey:
            self._purge(session, name, now)
            key = self._known(session, name)
            notes = msgspec.structs.replace(key.notes, delete_at=None)
            if key.notes.delete_at is not None:
                _note(session, name, notes)
            if not key.object[Attribute.SIGN]:
                key.object[Attribute.SIGN] = True
            return self._held(_Key(name, None, key.public_key, notes))

        return self._run(undelete, changes=True)

    # ---- within

    def _token(self) -> Token:
        return token(self._module_path, self._name)

    def _run(self, work: Callable[[Any], T], *, changes: bool = False) -> T:
        return self._token().run(work, self._pin(), changes=changes)

    def _known(self, session: Any, name: str) -> _Key:
        found = _private(session, name)
        if found is None:
            raise self._absent(name)
        try:
            public = _public(session, found)
        except KeyLoadError as error:
            raise CustodyError(f"the key {name} in the token {self._name}: {error}") from None
        return _Key(name, found, public, _noted(session, name))

    def _purge(self, session: Any, name: str, now: float) -> None:
        """Destroy the key, if its time has come."""
        found = _private(session, name)
        if found is not None and _due(_noted(session, name), now):
            _destroy(session, name, found[Attribute.ID])

    def _purge_quietly(self, name: str, now: float) -> None:
        with contextlib.suppress(CustodyError):
            self._run(lambda session: self._purge(session, name, now), changes=True)

    def _held(self, key: _Key) -> HeldKey:
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
    """A key in a token. Every signature is verified before it is handed out: a token that is read wrongly, or fails,
    can give away a key by a wrong one."""

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
        if signature is None:  # the key is gone, or the session is: look for it again
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
            raise _doomed(self._name)
        return key.object

    def __repr__(self) -> str:
        return f"<Pkcs11Handle {self._name} {self.public_key!r}>"


# ---- objects in the token


def _objects(session: Any, wanted: dict[Attribute, Any]) -> list[Any]:
    """All that fit. A session has one search at a time, which must come to its end."""
    return list(session.get_objects(wanted))


def _is_private(name: str) -> dict[Attribute, Any]:
    return {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: name}


def _private(session: Any, name: str) -> Any:
    """The private key of that label; None if there is none.

    :raises CustodyError: if there are several: which one is meant, nobody can know.
    """
    found = _objects(session, _is_private(name))
    if len(found) > 1:
        raise CustodyError(f"there are {len(found)} private keys with the label {name} in the token")
    return found[0] if found else None


def _label(each: Any) -> str:
    try:
        return str(each[Attribute.LABEL])
    except (faults.PKCS11Error, UnicodeDecodeError):
        return ""


def _public(session: Any, key: Any) -> PublicKey:
    """The public half of a private key object.

    :raises KeyLoadError: if it is of no kind that CloudFront takes, or not in the token.
    """
    kind = key[Attribute.KEY_TYPE]
    if kind == KeyType.RSA:
        for each in (key, *_public_objects(session, key)):
            with contextlib.suppress(faults.AttributeTypeInvalid, faults.AttributeSensitive):
                modulus, exponent = each[Attribute.MODULUS], each[Attribute.PUBLIC_EXPONENT]
                numbers = rsa.RSAPublicNumbers(
                    int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
                )
                return PublicKey(numbers.public_key())
    elif kind == KeyType.EC and key[Attribute.EC_PARAMS] == _P256:
        for each in _public_objects(session, key):
            with contextlib.suppress(faults.AttributeTypeInvalid, ValueError):
                point = each[Attribute.EC_POINT]
                point = point[2:] if len(point) == 67 else point  # an OCTET STRING, or bare
                return PublicKey(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
    else:
        raise KeyLoadError("a key that CloudFront does not take: RSA of 2048 bits or ECDSA on P-256 only")
    raise KeyLoadError("its public key is not in the token")


def _public_objects(session: Any, key: Any) -> list[Any]:
    """Those with the pair's mark, as PKCS#11 wants it; then those with what people see."""
    found = []
    for attribute in (Attribute.ID, Attribute.LABEL):
        with contextlib.suppress(faults.AttributeTypeInvalid):
            if mark := key[attribute]:
                found += _objects(session, {Attribute.CLASS: ObjectClass.PUBLIC_KEY, attribute: mark})
    return found


def _noted(session: Any, name: str) -> Notes | None:
    found = [notes for notes, _ in _notes(session, name)]
    return max(found, key=_number, default=None)


def _notes(session: Any, name: str) -> list[tuple[Notes, Any]]:
    found = []
    wanted = {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: APPLICATION, Attribute.LABEL: name}
    for each in _objects(session, wanted):
        with contextlib.suppress(msgspec.MsgspecError):
            found.append((msgspec.json.decode(each[Attribute.VALUE], type=Notes), each))
    return found


def _note(session: Any, name: str, notes: Notes) -> None:
    """Put `notes` in the place of those that are there: the new ones are there before the old ones go."""
    before = _notes(session, name)
    number = max((one.number for one, _ in before), default=0) + 1
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.DATA,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.APPLICATION: APPLICATION,
            Attribute.LABEL: name,
            Attribute.VALUE: msgspec.json.encode(msgspec.structs.replace(notes, number=number)),
        }
    )
    for _, each in before:
        each.destroy()


def _destroy(session: Any, name: str, id_: bytes, *, notes: bool = True) -> None:
    """The pair, the private half first, and what is noted of it."""
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        for each in _objects(session, {Attribute.CLASS: kind, Attribute.LABEL: name, Attribute.ID: id_}):
            each.destroy()
    if notes:
        for _, each in _notes(session, name):
            each.destroy()


_KEPT = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}
_SIGNS_ONLY = {
    Attribute.SIGN: True,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
    Attribute.SIGN_RECOVER: False,
}


def _generate(session: Any, id_: bytes, name: str, algorithm: Algorithm) -> None:
    said = {"id": id_, "label": name, "store": True, "capabilities": _SIGNS, "private_template": _KEPT}
    if algorithm == "RSA-2048":
        session.generate_keypair(KeyType.RSA, 2048, **said)
        return
    parameters = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: _P256}, local=True)
    parameters.generate_keypair(**said)


def _put(session: Any, id_: bytes, name: str, key: PrivateKey) -> None:
    """The private half comes last: without it there is no key."""
    found = load_pem_private_key(key.to_pem().encode(), None)
    both = {Attribute.TOKEN: True, Attribute.LABEL: name, Attribute.ID: id_}
    public = both | {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.VERIFY: True}
    hidden = both | _KEPT | _SIGNS_ONLY | {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    if isinstance(found, rsa.RSAPrivateKey):
        numbers = found.private_numbers()
        shared = {
            Attribute.KEY_TYPE: KeyType.RSA,
            Attribute.MODULUS: _bytes(numbers.public_numbers.n),
            Attribute.PUBLIC_EXPONENT: _bytes(numbers.public_numbers.e),
        }
        hidden |= {
            Attribute.PRIVATE_EXPONENT: _bytes(numbers.d),
            Attribute.PRIME_1: _bytes(numbers.p),
            Attribute.PRIME_2: _bytes(numbers.q),
            Attribute.EXPONENT_1: _bytes(numbers.dmp1),
            Attribute.EXPONENT_2: _bytes(numbers.dmq1),
            Attribute.COEFFICIENT: _bytes(numbers.iqmp),
        }
    else:
        secret = cast("ec.EllipticCurvePrivateKey", found).private_numbers()
        point = (
            b"\4" + secret.public_numbers.x.to_bytes(32, "big") + secret.public_numbers.y.to_bytes(32, "big")
        )
        shared = {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: _P256}
        public[Attribute.EC_POINT] = b"\4\x41" + point
        hidden[Attribute.VALUE] = secret.private_value.to_bytes(32, "big")
    session.create_object(public | shared)
    session.create_object(hidden | shared)


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _due(notes: Notes | None, now: float) -> bool:
    return notes is not None and notes.delete_at is not None and notes.delete_at <= now


def _by_name(key: _Key) -> str:
    return key.name


def _number(notes: Notes) -> int:
    return notes.number


def _doomed(name: str) -> NoSuchKey:
    return NoSuchKey(
        f"the key {name} is to be deleted and signs no more; undelete it first, if it is to stay"
    )


# ---- the PIN


def _pin_source(source: str | None, environment: Mapping[str, str]) -> Callable[[], str | None]:
    """What reads the PIN, each time anew, so that it can be changed.

    :raises CustodyError: if nothing can be meant by `source`, which the message does not repeat: it may be a PIN.
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
    return pin


def _from_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            private(path, os.fstat(file.fileno()))
            return file.read(1024)
    except OSError as error:
        raise trouble(path, error) from error
    except UnicodeDecodeError:
        raise CustodyError(f"{path} is no text") from None
