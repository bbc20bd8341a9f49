"""Texts in version 2 of Vault's KV secrets engine, with check-and-set writes (`cas`) against the version that was read.

To remove a text, Keyfront writes a version marked as removed and destroys the earlier versions, so that none of them
can be read again. Vault has no conditional delete for a path, so the empty path remains.

Source: the KV v2 API (data, destroy, metadata; options.cas).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from keyfront.custody.adapters.vault.server import Answer, Server
from keyfront.custody.contract import NAME, Record, checked_data, checked_name
from keyfront.errors import CustodyError, RecordChanged

_REMOVED = {"keyfront": "removed"}


class KvTexts:
    """Texts (text_custody.py) in the paths below `prefix` of a KV engine. A text is a JSON object whose members become
    the fields of the secret, so that other tools can read a single field."""

    def __init__(self, server: Server, mount: str, prefix: str, uri: str) -> None:
        self.uri = uri
        self._server = server
        self._mount = mount
        self._prefix = prefix

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.uri}>"

    def read(self, name: str) -> Record | None:
        version, fields = self._seen(checked_name(name))
        return None if fields is None else Record(name, self._text(name, fields), str(version))

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        checked_name(name)
        fields = self._fields(data)
        answer = self._put(name, fields, _number(version))
        if answer.status >= 400 and version is None:
            there, kept = self._seen(name)
            if kept is None:  # the text was removed
                answer = self._put(name, fields, there)
        return Record(name, data, str(self._number_of(name, answer)))

    def remove(self, name: str, version: str) -> None:
        checked_name(name)
        seen = _number(version)
        if seen == 0 or self._seen(name)[1] is None:
            raise self._changed(name)
        last = self._number_of(name, self._put(name, _REMOVED, seen))
        path = f"{self._mount}/metadata/{self._prefix}{name}"
        versions = self._server.request_ok("get", path).get("versions", {})
        before = [
            int(number) for number, said in versions.items() if int(number) < last and not said["destroyed"]
        ]
        if before:
            self._server.request_ok(
                "put", f"{self._mount}/destroy/{self._prefix}{name}", {"versions": before}
            )

    def all(self) -> Iterator[Record]:
        path = f"{self._mount}/metadata/{self._prefix}".removesuffix("/")
        answer = self._server.request("list", path)
        if answer.status == 404 and "no handler" not in answer.errors:
            return
        if answer.status >= 400:
            raise self._server.refused("list", path, answer)
        for name in answer.data.get("keys", []):
            if re.fullmatch(NAME, name):
                try:
                    record = self.read(name)
                except _Foreign:
                    continue
                if record is not None:
                    yield record

    # ---- internals

    def _seen(self, name: str) -> tuple[int, dict[str, Any] | None]:
        """Return the current version (0 if there is none) and its fields (None if it was removed or deleted)."""
        path = f"{self._mount}/data/{self._prefix}{name}"
        answer = self._server.request("get", path)
        if answer.status not in (200, 404) or "no handler" in answer.errors:
            raise self._server.refused("get", path, answer)
        metadata = answer.data.get("metadata")
        if metadata is None:
            if answer.status == 200:
                raise CustodyError(f"Vault's {self._mount}/ is not a KV engine of version 2")
            return 0, None
        fields = answer.data.get("data")
        return int(metadata["version"]), None if fields in (None, _REMOVED) else fields

    def _put(self, name: str, fields: dict[str, Any], cas: int) -> Answer:
        return self._server.request(
            "post", f"{self._mount}/data/{self._prefix}{name}", {"options": {"cas": cas}, "data": fields}
        )

    def _number_of(self, name: str, answer: Answer) -> int:
        if answer.status < 300 and "version" in answer.data:
            return int(answer.data["version"])
        if "check-and-set" in answer.errors:
            raise self._changed(name)
        raise self._server.refused("post", f"{self._mount}/data/{self._prefix}{name}", answer)

    def _changed(self, name: str) -> RecordChanged:
        return RecordChanged(f"another process has changed {name} in {self.uri}")

    def _fields(self, data: bytes) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(data)
        return fields

    def _text(self, name: str, fields: dict[str, Any]) -> bytes:
        return json.dumps(fields).encode()


class _Foreign(CustodyError):
    """The secret was not written by Keyfront."""


class KvRecords(KvTexts):
    """Records (contract.py): any text, in one field."""

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        return super().write(name, checked_data(data), version)

    def names(self) -> list[str]:
        return sorted(record.name for record in self.all())

    def _fields(self, data: bytes) -> dict[str, Any]:
        return {"record": data.decode()}

    def _text(self, name: str, fields: dict[str, Any]) -> bytes:
        if fields.keys() != {"record"} or not isinstance(fields["record"], str):
            raise _Foreign(
                f"the secret {self._mount}/{self._prefix}{name} is not a record that Keyfront wrote"
            )
        return fields["record"].encode()


def _number(version: str | None) -> int:
    """Parse a version number. Vault numbers versions from 1; text that is not a number never was a version of
    Vault's."""
    if version is None:
        return 0
    return int(version) if re.fullmatch(r"[1-9][0-9]{0,15}", version) else 1 << 53
