"""Keys in Vault's transit engine: created there or imported. Every signature is a call to Vault.

    vault:transit/NAME                               the key NAME of the engine mounted at transit/
    vault:transit/MOUNT/NAME                         … at MOUNT/
    vault:transit/NAME?notes=secret/keyfront         notes on keys are stored in KV, below secret/keyfront/

Transit stores a key without any metadata, and a request to create a key whose name exists does nothing. So a key's
labels and its deletion time are noted in a KV engine. The note is written first, and says which process owns the name.
Without `notes`, a key has no labels, and no grace period when it is deleted.

OpenBao refuses to sign with a key that it has soft-deleted. Vault has no soft deletion: there the handles read the note
every `check-every` seconds.

Keyfront uses only the first version of a key. Rotating a key in Vault adds versions that Keyfront does not use: a
different public key is a different CloudFront public key, and Keyfront itself does that rotation.

Source: the transit API (keys, import, sign, soft-delete, export, encrypt, decrypt).
"""

from __future__ import annotations

import contextlib
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from keyfront.custody.adapters.vault.kv import KvTexts
from keyfront.custody.adapters.vault.server import Server, is_soft_deleted
from keyfront.custody.contract import (
    NAME,
    HeldKey,
    Record,
    checked_grace,
    checked_labels,
    checked_name,
    there_already,
)
from keyfront.custody.key_import import wrapped_for_import
from keyfront.custody.local_handle import Watch, gone
from keyfront.errors import (
    CustodyError,
    CustodyUnavailable,
    KeyExists,
    KeyLoadError,
    NoSuchKey,
    NotExportable,
    RecordChanged,
)
from keyfront.signing.keys import (
    Algorithm,
    HashName,
    PrivateKey,
    PublicKey,
    digest,
    load_public_key,
    parse_private_key,
)

_TYPES: dict[Algorithm, str] = {"RSA-2048": "rsa-2048", "ECDSA-P256": "ecdsa-p256"}
_HASHES: dict[HashName, str] = {"SHA1": "sha1", "SHA256": "sha2-256"}
_SEALING = ("aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305")
"""Key types that encrypt with associated data."""

_FIRST = "1"
_TRIES = 20
NEVER = 253402300799.0
"""The end of the year 9999: the deletion time of a key that was soft-deleted in OpenBao by something other than
Keyfront."""


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """The note on a key. `state` is `claimed` until the key has been created. `delete_at` is in epoch seconds."""

    state: str
    labels: dict[str, str] = {}
    delete_at: float | None = None

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)


class TransitCustody:
    """A custody (contract.py) in one mount of the transit engine."""

    algorithms: tuple[Algorithm, ...] = ("RSA-2048", "ECDSA-P256")

    def __init__(
        self,
        server: Server,
        mount: str,
        uri: str,
        notes: KvTexts | None,
        check_every: float,
        *,
        exportable: bool,
    ) -> None:
        """`uri` is the place's URI, with a `*` where a name goes."""
        self.exports = exportable
        self._server = server
        self._mount = mount
        self._pattern = uri
        self.uri = self._uri("")
        self._notes = notes
        self._check_every = check_every

    def __repr__(self) -> str:
        return f"<TransitCustody {self.uri}>"

    def _uri(self, name: str) -> str:
        return self._pattern.replace("*", name, 1)

    def _path(self, name: str, rest: str = "") -> str:
        return f"{self._mount}/keys/{_called(checked_name(name))}{rest}"

    # ---- creating and importing keys

    def create(
        self, name: str, algorithm: Algorithm, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        kind = {"type": _TYPES[algorithm], "exportable": self.exports}
        return self._made(name, labels, "", kind)

    def import_key(
        self, name: str, key: PrivateKey, *, now: float, labels: Mapping[str, str] | None = None
    ) -> HeldKey:
        checked_name(name)
        checked_labels(labels)
        there = self._key(name)
        if there is None:
            public = self._server.request_ok("get", f"{self._mount}/wrapping_key")["public_key"]
            sealed = wrapped_for_import(key, public.encode())
            body = {
                "type": _TYPES[key.algorithm],
                "exportable": self.exports,
                "hash_function": "SHA256",
                "allow_rotation": False,
                "ciphertext": b64encode(sealed).decode(),
            }
            try:
                held = self._made(name, labels, "/import", body)
            except KeyExists:
                held = self.describe(name)
        else:
            held = self._held(name, there)
        return there_already(held, key.public_key)

    def _made(self, name: str, labels: Mapping[str, str] | None, rest: str, body: dict[str, Any]) -> HeldKey:
        taken = KeyExists(f"{self._uri(name)} is there already")
        checked = checked_labels(labels)
        if checked and self._notes is None:
            raise self._needs_notes("labels")
        claim = self._claimed(name, checked)
        answer = self._server.request("post", self._path(name, rest), body)
        if answer.status >= 400:
            if self._key(name) is not None:
                raise taken
            raise self._server.refused("post", self._path(name, rest), answer)
        if claim is not None and self._notes is not None:
            try:  # fails if another process took over the claim and so owns the key
                self._notes.write(name, Note("made", checked).to_bytes(), claim.version)
            except RecordChanged:
                raise taken from None
        key = self._there(name)
        if key.get("type") != body["type"] or bool(key.get("imported_key")) is not bool(rest):
            raise taken  # a process that had lost the claim created its key first
        return self._held(name, key)

    def _claimed(self, name: str, labels: dict[str, str]) -> Record | None:
        """Write the note that claims the name for this process.

        The note is read before the check that there is no key, and written only if it is unchanged since. So a process
        that claims after another has noted that the key was created finds that key. A claim without a key comes from a
        process that did not get to create the key, or is about to: the claim is taken over, and that process has lost.
        """
        there = None if self._notes is None else self._notes.read(name)
        if self._key(name) is not None:
            raise KeyExists(f"{self._uri(name)} is there already")
        if self._notes is None:
            return None
        claim = Note("claimed", labels).to_bytes()
        try:
            return self._notes.write(name, claim, there.version if there else None)
        except RecordChanged:
            raise KeyExists(f"{self._uri(name)} is being created by another process") from None

    # ---- listing and describing keys

    def list(self) -> Iterator[HeldKey]:
        path = f"{self._mount}/keys"
        answer = self._server.request("list", path)
        if answer.status == 404 and "no handler" not in answer.errors:
            return
        if answer.status >= 400:
            raise self._server.refused("list", path, answer)
        for name in sorted(_named(called) for called in answer.data.get("keys", [])):
            if re.fullmatch(NAME, name):
                try:
                    key = self._key(name)
                    if key is not None:
                        yield self._held(name, key)
                except NoSuchKey:
                    continue

    def describe(self, name: str) -> HeldKey:
        return self._held(name, self._there(name))

    def handle(self, name: str) -> TransitHandle:
        key = self._there(name)
        held = self._held(name, key)
        if held.delete_at is not None:
            raise gone(held.uri)
        looks = self._notes is not None and "soft_deleted" not in key  # otherwise the server itself refuses
        watch = Watch(lambda: self.describe(name), held, self._check_every) if looks else None
        return TransitHandle(held.uri, held.public_key, self._server, self._mount, name, watch)

    def export(self, name: str) -> PrivateKey:
        uri = self._uri(name)
        checked_name(name)
        if not self.exports:
            raise NotExportable(f"{self.uri} exports no private keys: it was not opened with exportable=yes")
        if not self._there(name).get("exportable"):
            raise NotExportable(f"{uri} was not made to be exportable, and never will be")
        path = f"{self._mount}/export/signing-key/{_called(name)}/{_FIRST}"
        pem = self._server.request_ok("get", path).get("keys", {}).get(_FIRST, "")
        if "-----BEGIN " not in pem:
            raise CustodyError(f"{uri}: Vault has exported no private key in PEM")
        try:
            return parse_private_key(pem)
        except KeyLoadError:
            raise CustodyError(f"{uri}: Vault has exported a private key that cannot be read") from None

    # ---- deleting keys

    def delete(self, name: str, *, grace: float, now: float) -> HeldKey:
        checked_grace(grace)
        key = self._there(name)
        if grace > 0 and self._notes is None:
            raise self._needs_notes("grace")
        for _ in range(_TRIES):
            record, note = self._note(name)
            at = now + grace if note.delete_at is None else min(now + grace, note.delete_at)
            marked = msgspec.structs.replace(note, delete_at=at)
            try:
                if marked != note and self._notes is not None:
                    record = self._notes.write(name, marked.to_bytes(), record.version if record else None)
                if grace <= 0:
                    self._erase(name, record)
            except RecordChanged:
                continue
            break
        else:
            raise CustodyUnavailable(f"{self._uri(name)} is changed by others all the time")
        held = self._held(name, key, marked)
        if grace > 0:
            path = self._path(name, "/soft-delete")
            answer = self._server.request("delete", path)
            if answer.status >= 400 and answer.status not in (
                404,
                405,
            ):  # 404, 405: Vault has no soft deletion
                raise self._server.refused("delete", path, answer)
        return held

    def undelete(self, name: str) -> HeldKey:
        key = self._there(name)
        for _ in range(_TRIES):
            record, note = self._note(name)
            try:
                if note.delete_at is not None and record is not None and self._notes is not None:
                    back = msgspec.structs.replace(note, delete_at=None)
                    self._notes.write(name, back.to_bytes(), record.version)
            except RecordChanged:
                continue
            break
        if key.get("soft_deleted"):
            self._server.request_ok("post", self._path(name, "/soft-delete-restore"), {})
        return self.describe(name)

    # ---- wrapping small secrets under a key that stays in Vault (`KeyWrapping`)

    def wrap(self, name: str, secret: bytes, bound: str) -> bytes:
        body = {"plaintext": b64encode(secret).decode(), "associated_data": _text64(bound)}
        self._sealing(name)  # encrypt would create a missing key
        sealed: str = self._server.request_ok("post", f"{self._mount}/encrypt/{_called(name)}", body)[
            "ciphertext"
        ]
        return sealed.encode()

    def unwrap(self, name: str, wrapped: bytes, bound: str) -> bytes:
        self._sealing(name)
        path = f"{self._mount}/decrypt/{_called(name)}"
        body = {"ciphertext": wrapped.decode("ascii", "replace"), "associated_data": _text64(bound)}
        answer = self._server.request("post", path, body)
        if answer.status >= 400:
            raise CustodyError(f"{self._uri(name)} has not wrapped that, or not for {bound!r}")
        return b64decode(answer.data["plaintext"])

    def _sealing(self, name: str) -> None:
        answer = self._server.request("get", self._path(name))
        if answer.status == 404 and "no handler" not in answer.errors:
            raise NoSuchKey(f"there is no {self._uri(name)}")
        if answer.status >= 400:
            raise self._server.refused("get", self._path(name), answer)
        if answer.data.get("type") not in _SEALING or answer.data.get("derived"):
            raise CustodyError(f"{self._uri(name)} is not a key to wrap with: make one of type {_SEALING[1]}")

    # ---- internals

    def _key(self, name: str) -> dict[str, Any] | None:
        """Return transit's data about a key, or None if there is no key. A key whose deletion time has come is erased
        first."""
        path = self._path(name)
        answer = self._server.request("get", path)
        if answer.status == 404 and "no handler" not in answer.errors:
            return None
        if answer.status >= 400:
            raise self._server.refused("get", path, answer)
        record, note = self._note(name)
        if note.delete_at is not None and note.delete_at <= time.time():
            try:
                self._erase(name, record)
            except RecordChanged:
                pass  # another process is erasing it
            return None
        return {**answer.data, "note": note}

    def _there(self, name: str) -> dict[str, Any]:
        key = self._key(name)
        if key is None:
            raise NoSuchKey(f"there is no {self._uri(name)} (Vault at {self._server.address})")
        return key

    def _note(self, name: str) -> tuple[Record | None, Note]:
        record = None if self._notes is None else self._notes.read(name)
        if record is None:
            return None, Note("made")
        try:
            return record, msgspec.json.decode(record.data, type=Note)
        except msgspec.MsgspecError:
            raise CustodyError(f"the note on {self._uri(name)} was not written by Keyfront") from None

    def _erase(self, name: str, record: Record | None) -> None:
        """Erase the key before its note: a note without a key does no harm, and the next process to create a key takes
        it over.

        :raises RecordChanged: if the note has changed; nothing has been done then.
        """
        if record is not None and self._notes is not None:
            record = self._notes.write(name, record.data, record.version)
        for method, path, body in (
            ("post", self._path(name, "/config"), {"deletion_allowed": True}),
            ("delete", self._path(name), None),
        ):
            answer = self._server.request(method, path, body)
            if answer.status >= 400:
                if self._exists(name) and not re.search("no existing key|not found", answer.errors):
                    raise self._server.refused(method, path, answer)
                break  # another process was faster
        if record is not None and self._notes is not None:
            with contextlib.suppress(RecordChanged):  # the name may have a new owner
                self._notes.remove(name, record.version)

    def _exists(self, name: str) -> bool:
        return self._server.request("get", self._path(name)).status == 200

    def _needs_notes(self, what: str) -> CustodyError:
        return CustodyError(
            f"{self.uri}: Vault's transit engine keeps no {what}: say notes=MOUNT/PATH of a KV engine, "
            "where they are kept"
        )

    def _held(self, name: str, key: Mapping[str, Any], note: Note | None = None) -> HeldKey:
        uri, versions = self._uri(name), key.get("keys", {})
        note = note or key["note"]
        first = versions.get(_FIRST)
        if key.get("type") not in _TYPES.values():
            raise NoSuchKey(f"{uri} is of type {key.get('type')}: no key that CloudFront takes")
        if not isinstance(first, dict):
            raise NoSuchKey(f"{uri} has lost its first version, which was the key")
        return HeldKey(
            uri,
            name,
            load_public_key(first["public_key"]),
            datetime.fromisoformat(first["creation_time"]).timestamp(),
            exportable=bool(key.get("exportable")),
            delete_at=NEVER if note.delete_at is None and key.get("soft_deleted") else note.delete_at,
            labels=note.labels,
        )


class TransitHandle:
    """A handle (contract.py) on a key in transit."""

    hash_names: tuple[HashName, ...] = ("SHA1", "SHA256")

    def __init__(
        self, uri: str, public_key: PublicKey, server: Server, mount: str, name: str, watch: Watch | None
    ) -> None:
        self.uri = uri
        self.public_key = public_key
        self._server = server
        self._path = f"{mount}/sign/{_called(name)}"
        self._watch = watch

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        """Sign the hash of `data`; only the hash is sent. (hvac's own method refuses SHA-1, which Vault does not.)"""
        if self._watch is not None:
            self._watch.check()
        path = f"{self._path}/{_HASHES[hash_name]}"
        body = {
            "input": b64encode(digest(data, hash_name)).decode(),
            "prehashed": True,
            "key_version": int(_FIRST),
            "signature_algorithm": "pkcs1v15",
            "marshaling_algorithm": "asn1",
        }
        answer = self._server.request("post", path, body)
        if is_soft_deleted(answer) or (answer.status in (400, 404) and "key not found" in answer.errors):
            raise gone(self.uri)
        if answer.status >= 400:
            raise self._server.refused("post", path, answer)
        try:
            signature = b64decode(answer.data["signature"].split(":")[2], validate=True)
        except (KeyError, IndexError, ValueError):
            raise CustodyError(f"{self.uri}: Vault has answered with no signature") from None
        if not self.public_key.verify(data, signature, hash_name):
            raise gone(self.uri)  # the name now belongs to another key
        return signature

    def __repr__(self) -> str:
        return f"<TransitHandle {self.uri}>"


def _called(name: str) -> str:
    """Return the key's name in transit: transit names cannot end with a hyphen, and Keyfront's names contain no dot."""
    return f"{name}.k" if name.endswith("-") else name


def _named(called: str) -> str:
    return called.removesuffix(".k") if called.endswith("-.k") else called


def _text64(text: str) -> str:
    return b64encode(text.encode()).decode()
