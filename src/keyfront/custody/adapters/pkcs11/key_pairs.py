"""Key pairs in a PKCS #11 token, and their notes in data objects.

A pair has the key's name as CKA_LABEL and a random CKA_ID. Its notes have the same two values, so they can never be
taken for those of another key. A session can run only one search at a time, so each search is completed before the next
begins.
"""

from __future__ import annotations

import contextlib
from typing import Any, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass
from pkcs11 import exceptions as faults

from keyfront.custody.contract import checked_name
from keyfront.errors import CustodyError, KeyLoadError
from keyfront.signing.keys import Algorithm, PrivateKey, PublicKey

APPLICATION = "keyfront"

_P256 = bytes.fromhex("06082a8648ce3d030107")  # the OID of prime256v1, in DER
_SIGNS = MechanismFlag.SIGN | MechanismFlag.VERIFY
_STRANGE = (faults.AttributeTypeInvalid, faults.AttributeSensitive, ValueError)
"""Raised when reading objects that are not keys Keyfront understands."""


class Notes(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of the data object beside a pair. `id` is the pair's CKA_ID in hex. If there are two, the one with
    the higher `number` counts."""

    id: str = ""
    created: float = 0.0
    labels: dict[str, str] = {}
    delete_at: float | None = None
    number: int = 0

    def due(self, now: float) -> bool:
        return self.delete_at is not None and self.delete_at <= now


class Pair:
    """A pair in the token and its metadata. Its private object is valid only in this session."""

    __slots__ = ("id", "name", "notes", "object", "public_key")

    def __init__(self, name: str, object_: Any, id_: bytes, public_key: PublicKey, notes: Notes) -> None:
        self.name = name
        self.object = object_
        self.id = id_
        self.public_key = public_key
        self.notes = notes


def private_key(session: Any, name: str) -> Any:
    """Return the private key with that label, or None if there is none.

    :raises CustodyError: if there are several, because it cannot be known which one is meant.
    """
    found = private_keys(session, name)
    if len(found) > 1:
        raise CustodyError(f"there are {len(found)} private keys with the label {name} in the token")
    return found[0] if found else None


def private_keys(session: Any, name: str) -> list[Any]:
    return _objects(session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: name})


def pair_of(session: Any, key: Any) -> Pair:
    """Return the pair to which a private key object belongs.

    :raises CustodyError: if its label is not a valid name.
    :raises KeyLoadError: if it is not of a type that CloudFront accepts, or its public half is not in the token.
    """
    name, id_ = checked_name(_label(key)), _id(key)
    return Pair(name, key, id_, _public(session, key), notes_of(session, name, id_))


def pairs(session: Any) -> list[Pair]:
    """Return all pairs that can be Keyfront's keys, sorted by name."""
    found = []
    for key in _objects(session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
        with contextlib.suppress(CustodyError, KeyLoadError, *_STRANGE):
            found.append(pair_of(session, key))
    return sorted(found, key=_by_name)


def notes_of(session: Any, name: str, id_: bytes) -> Notes:
    return max((notes for notes, _ in _notes(session, name, id_)), key=_number, default=Notes(id_.hex()))


def note(session: Any, name: str, notes: Notes) -> None:
    """Replace the existing notes with `notes`: the new ones are written before the old ones are removed."""
    before = _notes(session, name, bytes.fromhex(notes.id))
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


def destroy(session: Any, name: str, id_: bytes) -> None:
    """Destroy the pair, private half first, and its notes."""
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        for each in _objects(session, {Attribute.CLASS: kind, Attribute.LABEL: name, Attribute.ID: id_}):
            each.destroy()
    for _, each in _notes(session, name, id_):
        each.destroy()


_KEPT = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}
_SIGNS_ONLY = {
    Attribute.SIGN: True,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
    Attribute.SIGN_RECOVER: False,
}


def generate(session: Any, id_: bytes, name: str, algorithm: Algorithm) -> None:
    options = {"id": id_, "label": name, "store": True, "capabilities": _SIGNS, "private_template": _KEPT}
    if algorithm == "RSA-2048":
        session.generate_keypair(KeyType.RSA, 2048, **options)
        return
    parameters = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: _P256}, local=True)
    parameters.generate_keypair(**options)


def put(session: Any, id_: bytes, name: str, key: PrivateKey) -> None:
    """Write a key pair to the token. The private half comes last: without it there is no key."""
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


def _objects(session: Any, template: dict[Attribute, Any]) -> list[Any]:
    return list(session.get_objects(template))


def _label(each: Any) -> str:
    try:
        return str(each[Attribute.LABEL])
    except _STRANGE:
        return ""


def _id(each: Any) -> bytes:
    try:
        return bytes(each[Attribute.ID])
    except _STRANGE:
        return b""


def _public(session: Any, key: Any) -> PublicKey:
    """Return the public half of a private key object.

    :raises KeyLoadError: if it is not of a type that CloudFront accepts, or is not in the token.
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
                point = point[2:] if len(point) == 67 else point  # an OCTET STRING, or the bare point
                return PublicKey(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
    else:
        raise KeyLoadError("a key that CloudFront does not take: RSA of 2048 bits or ECDSA on P-256 only")
    raise KeyLoadError("its public key is not in the token")


def _public_objects(session: Any, key: Any) -> list[Any]:
    """Return the public objects with the pair's CKA_ID, as PKCS #11 specifies, then those with its label."""
    found = []
    for attribute in (Attribute.ID, Attribute.LABEL):
        with contextlib.suppress(faults.AttributeTypeInvalid):
            if mark := key[attribute]:
                found += _objects(session, {Attribute.CLASS: ObjectClass.PUBLIC_KEY, attribute: mark})
    return found


def _notes(session: Any, name: str, id_: bytes) -> list[tuple[Notes, Any]]:
    found = []
    template = {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: APPLICATION, Attribute.LABEL: name}
    for each in _objects(session, template):
        with contextlib.suppress(msgspec.MsgspecError):
            notes = msgspec.json.decode(each[Attribute.VALUE], type=Notes)
            if notes.id == id_.hex():
                found.append((notes, each))
    return found


def _by_name(pair: Pair) -> str:
    return pair.name


def _number(notes: Notes) -> int:
    return notes.number
