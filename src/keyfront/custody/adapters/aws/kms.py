"""Keys in AWS KMS: created there or imported, and never exported. Every signature is a call to KMS.

    awskms:keyfront/NAME?region=eu-central-1      the key with the alias alias/keyfront/NAME

A key's labels are its tags. Its description ends with the public key, because KMS does not return the public key of a
key that is disabled or scheduled for deletion. While KMS does return it, only the key from KMS is trusted. KMS signs
with SHA-256, never with SHA-1.

Source: the KMS API reference (Sign, GetParametersForImport, ImportKeyMaterial, ScheduleKeyDeletion, key states).
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from base64 import encodebytes
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keyfront.custody.adapters.aws.client import OPTIONS, OURS, Refused, Service, labels_of, tags_of
from keyfront.custody.contract import NAME, HeldKey, checked_grace, checked_name, there_already
from keyfront.custody.key_import import wrapped_for_import
from keyfront.custody.local_handle import gone
from keyfront.custody.uri_options import known, segments, written
from keyfront.errors import (
    CustodyError,
    CustodyUnavailable,
    KeyExists,
    KeyLoadError,
    NoSuchKey,
    NotExportable,
    SigningError,
)
from keyfront.signing.keys import Algorithm, HashName, PrivateKey, PublicKey, digest, load_public_key

DAY = 86400.0
SHORTEST, LONGEST = 7, 30
"""Shortest and longest waiting period in days before KMS deletes a key (ScheduleKeyDeletion, PendingWindowInDays)."""

LONGEST_RAW = 4096
"""Maximum number of bytes that Sign accepts unhashed. The minimum is one byte."""

_SPECS: dict[Algorithm, str] = {"RSA-2048": "RSA_2048", "ECDSA-P256": "ECC_NIST_P256"}
_SIGNING: dict[Algorithm, str] = {
    "RSA-2048": "RSASSA_PKCS1_V1_5_SHA_256",
    "ECDSA-P256": "ECDSA_SHA_256",
}
_HASHES: tuple[HashName, ...] = ("SHA256",)
_PLACE = f"{OURS}place"
"""The tag that says which place owns a key before the key has its alias. IAM policies can match on it."""

_NOT_YET = {"NotFoundException", "KMSInvalidStateException", "DisabledException"}
_TRIES = 3
_PAUSES = (0.1, 0.3, 1.0, 2.0)
_BEGIN = "-----BEGIN PUBLIC KEY-----"


class KmsCustody:
    """A custody (contract.py) in one region of KMS."""

    algorithms: tuple[Algorithm, ...] = ("RSA-2048", "ECDSA-P256")
    exports = False

    def __init__(self, place: str, options: Mapping[str, str], environment: Mapping[str, str]) -> None:
        """:raises CustodyError: if `place` or `options` are invalid, or no client can be created."""
        known("awskms", options, OPTIONS)
        self._prefix = "/".join(["alias", *segments("awskms", place), ""])
        self._place, self._options = place, dict(options)
        self.uri = written("awskms", place, "", options)
        self._kms = Service("kms", "AWS KMS", options, environment)

    def __repr__(self) -> str:
        return f"<KmsCustody {self.uri}>"

    def _uri(self, name: str) -> str:
        return written("awskms", self._place, name, self._options)

    def _alias(self, name: str) -> str:
        return self._prefix + checked_name(name)

    # ---- creating and importing keys

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        return self._made(name, algorithm, labels, None)

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        try:
            return self._made(name, key.algorithm, labels, key)
        except KeyExists:
            return there_already(self.describe(name), key.public_key)

    def _made(
        self, name: str, algorithm: Algorithm, labels: Mapping[str, str] | None, key: PrivateKey | None
    ) -> HeldKey:
        """Create or import a key and name it last. The name decides: a key that does not get its name is discarded."""
        alias, tags = self._alias(name), {**tags_of(labels), _PLACE: self._place}
        if self._metadata(name) is not None:
            raise KeyExists(f"{self._uri(name)} is there already")
        made = self._kms.call(
            "CreateKey",
            KeySpec=_SPECS[algorithm],
            KeyUsage="SIGN_VERIFY",
            Origin="AWS_KMS" if key is None else "EXTERNAL",
            Description=_description(alias, key.public_key if key else None),
            Tags=[{"TagKey": tag, "TagValue": value} for tag, value in tags.items()],
        )["KeyMetadata"]
        try:
            if key is not None:
                public = self._import(made["KeyId"], key)
            else:
                public = self._public_key(made["KeyId"])
                self._patiently(
                    "UpdateKeyDescription", KeyId=made["KeyId"], Description=_description(alias, public)
                )
        except CustodyError:
            self._schedule_deletion(made["KeyId"])
            raise
        self._name(name, alias, made["KeyId"])
        metadata = self._patiently("DescribeKey", KeyId=made["KeyId"])["KeyMetadata"]
        return self._shown(name, metadata, public, tags)

    def _name(self, name: str, alias: str, key_id: str) -> None:
        """Give the key its name. Only KMS knows which key has the name, whatever a call returned: a response may have
        been lost and the call retried. The key is discarded only if it certainly has no name. While that is
        uncertain, it stays.

        :raises KeyExists: if another key has the name.
        """
        try:
            self._patiently("CreateAlias", AliasName=alias, TargetKeyId=key_id)
            return
        except CustodyError as error:
            failed = error
        taken = isinstance(failed, Refused) and failed.code == "AlreadyExistsException"
        there = self._metadata(name)
        for pause in _PAUSES if taken else ():
            if there is not None:
                break
            time.sleep(pause)
            there = self._metadata(name)
        if there is not None and there["KeyId"] == key_id:
            return
        if there is not None or (isinstance(failed, Refused) and not taken):
            self._schedule_deletion(key_id)
        if there is not None:
            raise KeyExists(f"{self._uri(name)} is there already") from None
        if taken:
            raise CustodyUnavailable(
                f"{self._kms.title} has {alias}, and does not tell yet whose it is"
            ) from None
        raise failed

    def _schedule_deletion(self, key_id: str) -> None:
        with contextlib.suppress(CustodyError):
            self._kms.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=SHORTEST)

    def _patiently(self, operation: str, **params: Any) -> dict[str, Any]:
        """Make a call that depends on an earlier one that may not yet have propagated through KMS (KMS developer guide,
        "Eventual consistency"). A call that fails for that reason is retried for a few seconds."""
        for pause in _PAUSES:
            try:
                return self._kms.call(operation, **params)
            except Refused as error:
                if error.code not in _NOT_YET:
                    raise
            time.sleep(pause)
        return self._kms.call(operation, **params)

    def _import(self, key_id: str, key: PrivateKey) -> PublicKey:
        parameters = self._patiently(
            "GetParametersForImport",
            KeyId=key_id,
            WrappingAlgorithm="RSA_AES_KEY_WRAP_SHA_256",
            WrappingKeySpec="RSA_4096",
        )
        sealed = wrapped_for_import(key, parameters["PublicKey"])
        self._kms.call(
            "ImportKeyMaterial",
            secret=sealed,
            KeyId=key_id,
            ImportToken=parameters["ImportToken"],
            EncryptedKeyMaterial=sealed,
            ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
        )
        if self._public_key(key_id) != key.public_key:
            raise CustodyError(f"{self._kms.title} has taken another key than it was given")
        return key.public_key

    # ---- listing and describing keys

    def list(self) -> Iterator[HeldKey]:
        found = []
        for alias in self._kms.pages("ListAliases", "Aliases"):
            prefix, _, name = alias["AliasName"].rpartition("/")
            if f"{prefix}/" == self._prefix and re.fullmatch(NAME, name) and "TargetKeyId" in alias:
                found.append(name)
        for name in sorted(found):
            try:
                yield self.describe(name)
            except (NoSuchKey, _PublicKeyHidden):
                continue

    def describe(self, name: str) -> HeldKey:
        return self._held(name, self._there(name))

    def handle(self, name: str) -> KmsHandle:
        metadata = self._there(name)
        if "DeletionDate" in metadata:
            raise gone(self._uri(name))
        if metadata["KeyState"] != "Enabled":
            raise CustodyError(f"{self._uri(name)} cannot sign: its state in KMS is {metadata['KeyState']}")
        return KmsHandle(self._uri(name), metadata["Arn"], self._public_key(metadata["KeyId"]), self._kms)

    def export(self, name: str) -> PrivateKey:
        checked_name(name)
        raise NotExportable("AWS KMS never exports a private key")

    # ---- deleting keys

    def delete(self, name: str, *, grace: float, now: float) -> HeldKey:
        """Schedule the deletion in 7 to 30 whole days."""
        checked_grace(grace)
        days = max(SHORTEST, math.ceil(grace / DAY))
        if days > LONGEST:
            raise CustodyError(
                f"AWS KMS keeps a key that is to be deleted for {LONGEST} days at most, not {days}"
            )

        def doom(metadata: dict[str, Any]) -> HeldKey:
            there = metadata.get("DeletionDate")
            if there is not None:
                if there.timestamp() <= now + days * DAY:
                    return self._held(name, metadata)
                self._kms.call("CancelKeyDeletion", KeyId=metadata["KeyId"])
            answer = self._patiently("ScheduleKeyDeletion", KeyId=metadata["KeyId"], PendingWindowInDays=days)
            pending = {"KeyState": "PendingDeletion", "DeletionDate": answer["DeletionDate"]}
            return self._held(name, {**metadata, **pending})

        return self._changed(name, doom)

    def undelete(self, name: str) -> HeldKey:
        def restore(metadata: dict[str, Any]) -> HeldKey:
            if "DeletionDate" in metadata:
                self._kms.call("CancelKeyDeletion", KeyId=metadata["KeyId"])
                self._patiently("EnableKey", KeyId=metadata["KeyId"])
                metadata = {**metadata, "KeyState": "Enabled"}
                del metadata["DeletionDate"]
            return self._held(name, metadata)

        return self._changed(name, restore)

    def _changed(self, name: str, change: Callable[[dict[str, Any]], HeldKey]) -> HeldKey:
        """Return the result of `change` on the key. Another client may be scheduling or canceling its deletion at the
        same time."""
        for _ in range(_TRIES):
            metadata = self._there(name)
            try:
                return change(metadata)
            except Refused as error:
                if error.code != "KMSInvalidStateException":
                    raise
        raise CustodyUnavailable(f"{self._uri(name)} is changed by others all the time")

    # ---- wrapping small secrets under a key that stays in KMS (`KeyWrapping`)

    def wrap(self, name: str, secret: bytes, bound: str) -> bytes:
        sealed = self._sealing("Encrypt", name, Plaintext=secret, EncryptionContext={"keyfront": bound})
        return bytes(sealed["CiphertextBlob"])

    def unwrap(self, name: str, wrapped: bytes, bound: str) -> bytes:
        opened = self._sealing("Decrypt", name, CiphertextBlob=wrapped, EncryptionContext={"keyfront": bound})
        return bytes(opened["Plaintext"])

    def _sealing(self, operation: str, name: str, **params: Any) -> dict[str, Any]:
        alias = self._alias(name)
        try:
            return self._kms.call(operation, secret=b"-", KeyId=alias, **params)
        except Refused as error:
            if error.code == "NotFoundException":
                raise NoSuchKey(f"there is no {self._uri(name)}") from None
            if error.code == "InvalidCiphertextException":
                raise CustodyError(
                    f"{self._uri(name)} has not wrapped that, or not for {params['EncryptionContext']['keyfront']!r}"
                ) from None
            raise

    # ---- internals

    def _metadata(self, name: str) -> dict[str, Any] | None:
        """Return what KMS reports about the key, or None if there is no such key."""
        try:
            return dict(self._kms.call("DescribeKey", KeyId=self._alias(name))["KeyMetadata"])
        except Refused as error:
            if error.code == "NotFoundException":
                return None
            raise

    def _there(self, name: str) -> dict[str, Any]:
        metadata = self._metadata(name)
        if metadata is None:
            raise NoSuchKey(f"there is no {self._uri(name)} ({self._kms.title})")
        spec = metadata.get("KeySpec")
        if metadata.get("KeyUsage") != "SIGN_VERIFY" or spec not in _SPECS.values():
            raise NoSuchKey(
                f"{self._uri(name)} is {metadata.get('KeyUsage')}, {spec}: no key that CloudFront takes"
            )
        return metadata

    def _public_key(self, key_id: str) -> PublicKey:
        return _of_der(self._patiently("GetPublicKey", KeyId=key_id)["PublicKey"])

    def _held(self, name: str, metadata: dict[str, Any]) -> HeldKey:
        uri = self._uri(name)
        if metadata["KeyState"] == "Enabled":
            public = self._public_key(metadata["KeyId"])
        else:
            _, begin, rest = metadata.get("Description", "").partition(_BEGIN)
            try:
                public = load_public_key(begin + rest)
            except KeyLoadError:
                raise _PublicKeyHidden(
                    f"{uri}: its state in KMS is {metadata['KeyState']}, in which KMS does not show its public key"
                ) from None
        tags = self._kms.pages("ListResourceTags", "Tags", KeyId=metadata["KeyId"])
        return self._shown(name, metadata, public, {tag["TagKey"]: tag["TagValue"] for tag in tags})

    def _shown(
        self, name: str, metadata: dict[str, Any], public: PublicKey, tags: Mapping[str, str]
    ) -> HeldKey:
        deletion = metadata.get("DeletionDate")
        return HeldKey(
            self._uri(name),
            name,
            public,
            metadata["CreationDate"].timestamp(),
            exportable=False,
            hash_names=_HASHES,
            delete_at=None if deletion is None else deletion.timestamp(),
            labels=labels_of(tags),
        )


class _PublicKeyHidden(CustodyError):
    """It cannot be determined which key it is."""


class KmsHandle:
    """A handle (contract.py) on a key in KMS, by its ARN: moving the alias to another key has no effect on the
    handle."""

    hash_names = _HASHES

    def __init__(self, uri: str, arn: str, public_key: PublicKey, kms: Service) -> None:
        self.uri = uri
        self.public_key = public_key
        self._arn = arn
        self._kms = kms

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        if hash_name not in self.hash_names:
            raise SigningError(
                f"AWS KMS cannot sign with {hash_name}: sign with SHA256, which CloudFront takes as "
                "Hash-Algorithm=SHA256, or keep the key in another custody"
            )
        raw = 0 < len(data) <= LONGEST_RAW
        try:
            signature = self._kms.call(
                "Sign",
                KeyId=self._arn,
                Message=data if raw else digest(data, hash_name),
                MessageType="RAW" if raw else "DIGEST",
                SigningAlgorithm=_SIGNING[self.public_key.algorithm],
            )["Signature"]
        except Refused as error:
            if error.code in {"NotFoundException", "KMSInvalidStateException"}:
                raise gone(self.uri) from error
            raise
        if not self.public_key.verify(data, signature, hash_name):
            raise CustodyError(f"{self.uri} has made a signature that does not verify")
        return bytes(signature)

    def __repr__(self) -> str:
        return f"<KmsHandle {self.uri}>"


def _description(alias: str, public: PublicKey | None) -> str:
    return f"A key of Keyfront's, {alias}" + (f"\n{public.pem}" if public else "")


def _of_der(der: bytes) -> PublicKey:
    return load_public_key(f"{_BEGIN}\n{encodebytes(der).decode('ascii')}-----END PUBLIC KEY-----\n")
