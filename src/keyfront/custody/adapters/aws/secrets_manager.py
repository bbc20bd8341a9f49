"""Keys in AWS Secrets Manager: each secret holds a private key in PEM, as other tools expect it.

    awssm:keyfront/NAME?region=eu-central-1       the secret keyfront/NAME

All metadata of a key, including its public half, is in the secret's tags. So keys can be listed without being read, and
keys that are scheduled for deletion can still be shown. Deletion is that of Secrets Manager: once it is scheduled, the
secret cannot be read here or elsewhere.

Records are secrets under keyfront/_records/. To change one, Keyfront adds a version under its own staging label, then
moves the label AWSCURRENT to it from the version that was read. The service moves the label from exactly that version
or not at all.

Source: the Secrets Manager API reference (UpdateSecretVersionStage, DeleteSecret, RestoreSecret).
"""

from __future__ import annotations

import math
import re
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keyfront.custody.adapters.aws.client import OPTIONS, OURS, Refused, Service, labels_of, tags_of
from keyfront.custody.contract import (
    NAME,
    HeldKey,
    Record,
    checked_data,
    checked_grace,
    checked_name,
    there_already,
)
from keyfront.custody.local_handle import LoadedHandle, Watch, gone
from keyfront.custody.uri_options import check_every, known, segments, written
from keyfront.errors import (
    CustodyError,
    CustodyUnavailable,
    KeyExists,
    KeyLoadError,
    NoSuchKey,
    RecordChanged,
)
from keyfront.signing.keys import (
    Algorithm,
    PrivateKey,
    PublicKey,
    generate_private_key,
    load_public_key,
    parse_private_key,
)

DAY = 86400.0
SHORTEST, LONGEST = 7, 30
"""Shortest and longest recovery window in days for a secret scheduled for deletion (DeleteSecret,
RecoveryWindowInDays)."""

_KIND, _CREATED, _PUBLIC = f"{OURS}kind", f"{OURS}created", f"{OURS}public-key-"
_TAG = 256  # maximum characters in a tag's value

_TRIES = 10
_ABSENT = "ResourceNotFoundException"
_TAKEN = "ResourceExistsException"
_DELETED = "InvalidRequestException"
"""The error code for any operation on a secret that is scheduled for deletion."""


class SecretsManagerCustody:
    """A custody (contract.py) in one region of Secrets Manager."""

    algorithms: tuple[Algorithm, ...] = ("RSA-2048", "ECDSA-P256")
    exports = True

    def __init__(self, place: str, options: Mapping[str, str], environment: Mapping[str, str]) -> None:
        """:raises CustodyError: if `place` or `options` are invalid, or no client can be created."""
        known("awssm", options, (*OPTIONS, "kms-key", "check-every"))
        self._prefix = "".join(f"{segment}/" for segment in segments("awssm", place))
        self._place, self._options = place, dict(options)
        self._check_every = check_every(options)
        self._kms_key = {"KmsKeyId": options["kms-key"]} if options.get("kms-key") else {}
        self.uri = written("awssm", place, "", options)
        self._service = Service("secretsmanager", "AWS Secrets Manager", options, environment)
        self.records = SecretRecords(self._service, f"{self._prefix}_records/", self.uri, self._kms_key)

    def __repr__(self) -> str:
        return f"<SecretsManagerCustody {self.uri}>"

    def _uri(self, name: str) -> str:
        return written("awssm", self._place, name, self._options)

    def _id(self, name: str) -> str:
        return self._prefix + checked_name(name)

    # ---- creating and importing keys

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        if self._described(name) is not None:
            raise KeyExists(f"{self._uri(name)} is there already")
        return self._put(name, generate_private_key(algorithm), now, labels)

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        try:
            return self._put(name, key, now, labels)
        except KeyExists:
            return there_already(self.describe(name), key.public_key)

    def _put(self, name: str, key: PrivateKey, now: float, labels: Mapping[str, str] | None) -> HeldKey:
        secret_id = self._id(name)
        tags = {
            **tags_of(labels),
            _KIND: "key",
            _CREATED: repr(now),
            **_in_tags(key.public_key),
        }
        pem = key.to_pem()
        try:
            self._service.call(
                "CreateSecret",
                secret=pem,
                Name=secret_id,
                SecretString=pem,
                Description=f"A private key of Keyfront's, {key.algorithm}",
                ClientRequestToken=str(uuid.uuid4()),  # makes a retried request idempotent
                Tags=[{"Key": tag, "Value": value} for tag, value in tags.items()],
                **self._kms_key,
            )
        except Refused as error:
            if error.code == _TAKEN:
                raise KeyExists(f"{self._uri(name)} is there already") from None
            if error.code == _DELETED:
                raise KeyExists(f"{self._uri(name)} is being deleted") from None
            raise
        return self._held(name, tags, None)

    # ---- listing and describing keys

    def list(self) -> Iterator[HeldKey]:
        found = {}
        for secret in _listed(self._service, self._prefix):
            name = secret["Name"].removeprefix(self._prefix)
            if re.fullmatch(NAME, name) and _tags(secret).get(_KIND) == "key":
                found[name] = secret
        for name in sorted(found):
            try:
                yield self._held(name, _tags(found[name]), found[name].get("DeletedDate"))
            except CustodyError:
                continue

    def describe(self, name: str) -> HeldKey:
        secret = self._there(name)
        return self._held(name, _tags(secret), secret.get("DeletedDate"))

    def handle(self, name: str) -> LoadedHandle:
        held = self.describe(name)
        if held.delete_at is not None:
            raise gone(held.uri)
        key = self.export(name)
        if key.public_key != held.public_key:
            raise CustodyError(f"{held.uri}: the secret holds another key than its tags say")
        return LoadedHandle(held.uri, key, Watch(lambda: self.describe(name), held, self._check_every))

    def export(self, name: str) -> PrivateKey:
        self._there(name)
        try:
            answer = self._service.call("GetSecretValue", SecretId=self._id(name), VersionStage="AWSCURRENT")
        except Refused as error:
            if error.code in {_ABSENT, _DELETED}:
                raise gone(self._uri(name)) from None
            raise
        text = answer.get("SecretString", "")
        if "-----BEGIN " not in text:  # text that is not PEM would be taken for a file name
            raise CustodyError(f"{self._uri(name)} holds no private key in PEM")
        try:
            return parse_private_key(text)
        except KeyLoadError:
            raise CustodyError(f"{self._uri(name)} holds a private key that cannot be read") from None

    # ---- deleting keys

    def delete(self, name: str, *, grace: float, now: float) -> HeldKey:
        """Delete the key immediately, or schedule the deletion in 7 to 30 whole days."""
        checked_grace(grace)
        days = max(SHORTEST, math.ceil(grace / DAY))
        if days > LONGEST:
            raise CustodyError(
                f"AWS Secrets Manager keeps a secret that is to be deleted for {LONGEST} days at most, not {days}"
            )
        how: dict[str, Any] = (
            {"RecoveryWindowInDays": days} if grace > 0 else {"ForceDeleteWithoutRecovery": True}
        )

        def doom(secret: dict[str, Any]) -> HeldKey:
            there = secret.get("DeletedDate")
            if there is not None:
                if grace > 0 and there.timestamp() <= now + days * DAY:
                    return self._held(name, _tags(secret), there)
                self._service.call("RestoreSecret", SecretId=self._id(name))
            answer = self._service.call("DeleteSecret", SecretId=self._id(name), **how)
            return self._held(name, _tags(secret), answer["DeletionDate"])

        return self._changed(name, doom)

    def undelete(self, name: str) -> HeldKey:
        def restore(secret: dict[str, Any]) -> HeldKey:
            if secret.get("DeletedDate") is not None:
                self._service.call("RestoreSecret", SecretId=self._id(name))
            return self._held(name, _tags(secret), None)

        return self._changed(name, restore)

    def _changed(self, name: str, change: Callable[[dict[str, Any]], HeldKey]) -> HeldKey:
        """Return the result of `change` on the secret. Another client may be deleting or restoring it at the same
        time."""
        for _ in range(_TRIES):
            secret = self._there(name)
            try:
                return change(secret)
            except Refused as error:
                if error.code not in {_ABSENT, _DELETED}:
                    raise
        raise CustodyUnavailable(f"{self._uri(name)} is changed by others all the time")

    # ---- internals

    def _described(self, name: str) -> dict[str, Any] | None:
        return _described(self._service, self._id(name))

    def _there(self, name: str) -> dict[str, Any]:
        secret = self._described(name)
        if secret is None:
            raise NoSuchKey(f"there is no {self._uri(name)} ({self._service.title})")
        if _tags(secret).get(_KIND) != "key":
            raise NoSuchKey(f"{self._uri(name)} is a secret, but not a key that Keyfront wrote")
        return secret

    def _held(self, name: str, tags: Mapping[str, str], deleted: Any) -> HeldKey:
        try:
            return HeldKey(
                self._uri(name),
                name,
                _of_tags(tags),
                float(tags[_CREATED]),
                exportable=True,
                delete_at=None if deleted is None else deleted.timestamp(),
                labels=labels_of(tags),
            )
        except (KeyError, ValueError):
            raise CustodyError(f"{self._uri(name)}: its tags do not say what Keyfront wrote there") from None


class SecretRecords:
    """Records (contract.py) as secrets. A removed record stays as a secret marked as removed, because Secrets Manager
    has no conditional delete."""

    def __init__(self, service: Service, prefix: str, uri: str, kms_key: Mapping[str, str]) -> None:
        self.uri = uri
        self._service = service
        self._prefix = prefix
        self._kms_key = kms_key

    def __repr__(self) -> str:
        return f"<SecretRecords {self.uri}>"

    def read(self, name: str) -> Record | None:
        record = self._current(checked_name(name))
        return record if record and record.data else None

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        checked_name(name)
        return self._write(name, checked_data(data), version)

    def names(self) -> list[str]:
        found = []
        for secret in _listed(self._service, self._prefix):
            name = secret["Name"].removeprefix(self._prefix)
            if re.fullmatch(NAME, name) and _tags(secret).get(_KIND) == "record" and self.read(name):
                found.append(name)
        return sorted(found)

    def remove(self, name: str, version: str) -> None:
        self._write(checked_name(name), b"", version)

    # ---- internals

    def _current(self, name: str) -> Record | None:
        """Return the current record. Its data is empty if the record was removed."""
        secret_id = self._prefix + name
        try:
            answer = self._service.call("GetSecretValue", SecretId=secret_id, VersionStage="AWSCURRENT")
        except Refused as error:
            if error.code == _ABSENT:
                return None
            if error.code == _DELETED:
                raise CustodyError(
                    f"the secret {secret_id} is to be deleted: restore it, it is a record"
                ) from None
            raise
        first, _, text = answer.get("SecretString", "").partition("\n")
        if first not in (_IS, _WAS):
            raise CustodyError(f"the secret {secret_id} is not a record that Keyfront wrote")
        return Record(name, text.encode() if first == _IS else b"", answer["VersionId"])

    def _write(self, name: str, data: bytes, version: str | None) -> Record:
        secret_id, token = self._prefix + name, str(uuid.uuid4())
        text = f"{_IS}\n{data.decode()}" if data else _WAS
        changed = RecordChanged(f"another process has changed the record {name} in {self.uri}")
        if version is None:
            try:
                self._service.call(
                    "CreateSecret",
                    Name=secret_id,
                    SecretString=text,
                    Description="A record of Keyfront's: which key signs now",
                    ClientRequestToken=token,
                    Tags=[{"Key": _KIND, "Value": "record"}],
                    **self._kms_key,
                )
                return Record(name, data, token)
            except Refused as error:
                if error.code not in {_TAKEN, _DELETED}:
                    raise
            seen = self._current(name)
            if seen is None or seen.data:
                raise changed
            version = seen.version
        try:
            self._service.call(
                "PutSecretValue",
                SecretId=secret_id,
                SecretString=text,
                ClientRequestToken=token,
                VersionStages=[_STAGED],
            )
            self._service.call(
                "UpdateSecretVersionStage",
                SecretId=secret_id,
                VersionStage="AWSCURRENT",
                MoveToVersionId=token,
                RemoveFromVersionId=version,
            )
        except Refused as error:
            if error.code == _ABSENT:
                raise changed from None
            if error.code not in {"InvalidParameterException", "InvalidRequestException"}:
                raise
            seen = self._current(name)
            if seen is None or seen.version != token:  # ours, if a response was lost and the call retried
                raise changed from None
        return Record(name, data, token)


_IS, _WAS = "keyfront-record-1", "keyfront-record-removed-1"
_STAGED = "KEYFRONT-STAGED"
"""The staging label of a new version before it becomes current. Only one version can have this label, so the versions
of writers that lost have no label, and Secrets Manager deletes them."""


def _described(service: Service, secret_id: str) -> dict[str, Any] | None:
    try:
        return service.call("DescribeSecret", SecretId=secret_id)
    except Refused as error:
        if error.code == _ABSENT:
            return None
        raise


def _listed(service: Service, prefix: str) -> Iterator[dict[str, Any]]:
    filters = [{"Key": "name", "Values": [prefix]}] if prefix else []
    for secret in service.pages("ListSecrets", "SecretList", IncludePlannedDeletion=True, Filters=filters):
        if secret["Name"].startswith(prefix):
            yield secret


def _tags(secret: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in secret.get("Tags", ())}


def _in_tags(key: PublicKey) -> dict[str, str]:
    text = "".join(key.pem.splitlines()[1:-1])
    return {f"{_PUBLIC}{start // _TAG}": text[start : start + _TAG] for start in range(0, len(text), _TAG)}


def _of_tags(tags: Mapping[str, str]) -> PublicKey:
    text = "".join(tags[tag] for tag in sorted(tags) if tag.startswith(_PUBLIC))
    lines = b64encode(b64decode(text, validate=True)).decode("ascii")
    body = "\n".join(lines[start : start + 64] for start in range(0, len(lines), 64))
    return load_public_key(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
