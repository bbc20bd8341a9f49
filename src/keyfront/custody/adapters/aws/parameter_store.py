"""Keys in AWS Systems Manager Parameter Store: each key is a SecureString.

    awsssm:keyfront/NAME?region=eu-central-1      the parameter /keyfront/NAME; records are under /keyfront/_records/

Parameter Store has no conditional write except for the first one, and it numbers writes consecutively. So every write
states which write it follows, and it *counts* only if the last counting write before it is that one. A write that came
too late counts for no reader. Every reader can tell which writes count:

    a write counts if its number immediately follows that of the write it names: nothing can lie between the two
    any other write counts if the writes in between do not, which the parameter's history shows
    a parameter that was deleted and recreated starts from 1 again, so writes also identify each other by a mark

A removed text is recorded as one more write that says so. Nothing of a key's parameter may remain, so the process that
made that write then deletes the parameter. Parameter Store keeps a hundred writes.

Source: the Systems Manager API reference (PutParameter, GetParameterHistory).
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from keyfront.custody.adapters.aws.client import OPTIONS, Refused, Service
from keyfront.custody.contract import NAME, Record, checked_data, checked_name
from keyfront.custody.text_custody import TextCustody
from keyfront.custody.uri_options import check_every, known, segments, written
from keyfront.errors import CustodyError, CustodyUnavailable, RecordChanged

LONGEST = 4096
"""Maximum size of a standard parameter, in bytes."""

_MARK = "keyfront-1"
_REMOVED = "removed"
_ERASING = 300.0
"""Seconds after which another process may finish an erasure that a writer has begun."""


class ParameterStoreCustody(TextCustody):
    """A custody (contract.py) in one region of Parameter Store."""

    def __init__(self, place: str, options: Mapping[str, str], environment: Mapping[str, str]) -> None:
        """:raises CustodyError: if `place` or `options` are invalid, or no client can be created."""
        known("awsssm", options, (*OPTIONS, "kms-key", "check-every"))
        path = "".join(f"/{segment}" for segment in segments("awsssm", place))
        service = Service("ssm", "AWS Systems Manager", options, environment)
        key = {"KeyId": options["kms-key"]} if options.get("kms-key") else {}
        kept = dict(options)
        uri = written("awsssm", place, "", kept)
        super().__init__(
            Parameters(service, f"{path}/", uri, key, erases=True),
            ParameterRecords(service, f"{path}/_records/", uri, key, erases=False),
            lambda name: written("awsssm", place, name, kept),
            check_every(options),
        )


class Write(NamedTuple):
    """One write of a parameter: its number, the version that it follows (empty for the first), its own mark, and the
    text (None for a removal). `at` is the time of the write, in epoch seconds."""

    number: int
    after: str
    mark: str
    text: str | None
    at: float

    @property
    def version(self) -> str:
        return f"{self.number}.{self.mark}"

    @property
    def next(self) -> bool:
        """Whether its number immediately follows that of the write it names."""
        return self.number - 1 == int(self.after.partition(".")[0] or 0)


def counting(writes: Iterable[Write], *, known: bool = False) -> list[Write]:
    """Return the writes that count, from a parameter's writes in order of number. `known` says that the first of them
    is known to count.

    Otherwise, earlier writes may have dropped out of the history: the first write to count is one whose number
    immediately follows that of the write it names.
    """
    found: list[Write] = []
    before: Write | None = None
    for write in writes:
        if found:
            counts = write.after == found[-1].version
        elif known:
            counts = True
        else:
            follows = before is None or before.number != write.number - 1 or before.version == write.after
            counts = bool(write.mark) and write.next and follows
        if counts:
            found.append(write)
        before = write
    return found


class Parameters:
    """Texts (text_custody.py) in parameters whose names begin with `prefix`. With `erases`, removing a text also
    deletes its parameter."""

    def __init__(
        self, service: Service, prefix: str, uri: str, kms_key: Mapping[str, str], *, erases: bool
    ) -> None:
        self.uri = uri
        self._service = service
        self._prefix = prefix
        self._kms_key = kms_key
        self._erases = erases

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.uri}>"

    def read(self, name: str) -> Record | None:
        last = self._last(checked_name(name))
        return None if last is None or last.text is None else _record(name, last)

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        checked_name(name)
        if version is not None:
            return _record(name, self._put(name, data.decode(), version))
        made = self._made(name, data)
        if made is None and self._swept(name):
            made = self._made(name, data)
        if made is not None:
            return made
        last = self._last(name)
        if last is None or last.text is not None or (self._erases and time.time() < last.at + _ERASING):
            raise self._changed(name)
        return _record(name, self._put(name, data.decode(), last.version))

    def _made(self, name: str, data: bytes) -> Record | None:
        """Make the first write of a parameter. Returns None if the parameter already exists."""
        mark = uuid.uuid4().hex[:16]
        try:
            self._send(name, f"{_MARK} - {mark}\n{data.decode()}", overwrite=False)
        except Refused as error:
            if error.code != "ParameterAlreadyExists":
                raise
            last = self._last(name)
            if last is None or last.mark != mark:
                return None
            return _record(name, last)  # the first response was lost and the call retried
        return Record(name, data, f"1.{mark}")

    def remove(self, name: str, version: str) -> None:
        self._put(checked_name(name), None, version)
        if self._erases:
            self._delete(name)

    def all(self) -> Iterator[Record]:
        path = self._prefix.removesuffix("/") or "/"
        for parameter in self._service.pages(
            "GetParametersByPath", "Parameters", Path=path, WithDecryption=True
        ):
            name = parameter["Name"].removeprefix(self._prefix)
            if not re.fullmatch(NAME, name):
                continue
            write = _written(parameter)
            if not self._sure(write):
                write = next(reversed(counting(self._history(name))), None)
            if write is None:
                self._swept(name)
                continue
            if write.text is not None:
                yield _record(name, write)
            elif self._erases and time.time() > write.at + _ERASING:
                self._delete(name)

    # ---- internals

    def _put(self, name: str, text: str | None, version: str) -> Write:
        """Write `text` after `version`.

        :raises RecordChanged: if `version` was no longer current; the write then counts for no reader.
        """
        seen = self._last(name)
        if seen is None or seen.version != version:
            raise self._changed(name)
        mine = uuid.uuid4().hex[:16]
        body = f"{_MARK} {seen.version} {mine}" + (f" {_REMOVED}" if text is None else f"\n{text}")
        put = Write(self._send(name, body, overwrite=True), seen.version, mine, text, time.time())
        if put.number == seen.number + 1 and not self._erases:
            return put
        if put.number == 1:  # the parameter was deleted meanwhile, and this write recreated it
            self._delete(name)
            raise self._changed(name)
        for last in counting(self._since(name, seen, put), known=True)[1:]:
            if last.mark == mine:  # this call, or an earlier attempt whose response was lost
                return last
        raise self._changed(name)

    def _since(self, name: str, first: Write, last: Write) -> list[Write]:
        """Return all writes from `first` to `last`. If any is missing, it cannot be determined which ones count."""
        for pause in (0.0, 0.2, 0.5, 1.0):
            time.sleep(pause)  # a recent write may not be in the history yet
            found = [write for write in self._history(name) if first.number <= write.number <= last.number]
            if len(found) == last.number - first.number + 1:
                return found if found[0].version == first.version else []
        if self._erases:
            return []  # the parameter was deleted, including the new write
        raise CustodyUnavailable(
            f"{self._service.title}: the history of {self._prefix}{name} is not whole: "
            "whether it was changed cannot be told now"
        )

    def _sure(self, write: Write | None) -> bool:
        """Whether the write certainly counts, without reading the history: an erased and recreated parameter is
        numbered from 1 again."""
        return write is not None and write.next and (write.number == 1 or not self._erases)

    def _last(self, name: str) -> Write | None:
        """Return the last write that counts, or None if there is no parameter."""
        try:
            answer = self._service.call("GetParameter", Name=self._prefix + name, WithDecryption=True)
        except Refused as error:
            if error.code == "ParameterNotFound":
                return None
            raise
        write = _written(answer["Parameter"])
        if write is not None and self._sure(write):
            return write
        writes = self._history(name)
        count = counting(writes)
        if not count and any(not write.mark for write in writes):
            raise CustodyError(f"the parameter {self._prefix}{name} was not written by Keyfront")
        return count[-1] if count else None

    def _swept(self, name: str) -> bool:
        """Delete the parameter if none of its writes count, `_ERASING` seconds after the last of them. Returns whether
        it did. A process that writes after a parameter was deleted recreates it and then deletes it (`_put`), unless
        it is stopped in between."""
        writes = self._history(name)
        if not writes or counting(writes) or any(not write.mark for write in writes):
            return False
        if time.time() < writes[-1].at + _ERASING:
            return False
        self._delete(name)
        return True

    def _history(self, name: str) -> list[Write]:
        try:
            found = [
                _written(entry) or Write(entry["Version"], "", "", None, 0.0)
                for entry in self._service.pages(
                    "GetParameterHistory", "Parameters", Name=self._prefix + name, WithDecryption=True
                )
            ]
        except Refused as error:
            if error.code == "ParameterNotFound":
                return []
            raise
        return sorted(found, key=lambda write: write.number)

    def _send(self, name: str, value: str, *, overwrite: bool) -> int:
        if len(value.encode()) > LONGEST:
            raise CustodyError(
                f"{self._prefix}{name} would be longer than the {LONGEST} bytes of a parameter: use fewer labels"
            )
        answer = self._service.call(
            "PutParameter",
            secret=value,
            Name=self._prefix + name,
            Value=value,
            Type="SecureString",
            Overwrite=overwrite,
            **self._kms_key,
        )
        return int(answer["Version"])

    def _delete(self, name: str) -> None:
        try:
            self._service.call("DeleteParameter", Name=self._prefix + name)
        except Refused as error:
            if error.code != "ParameterNotFound":
                raise

    def _changed(self, name: str) -> RecordChanged:
        return RecordChanged(f"another process has changed {name} in {self.uri}")


class ParameterRecords(Parameters):
    """Records (contract.py) in parameters."""

    def write(self, name: str, data: bytes, version: str | None) -> Record:
        return super().write(name, checked_data(data), version)

    def names(self) -> list[str]:
        return sorted(record.name for record in self.all())


def _written(parameter: Mapping[str, Any]) -> Write | None:
    """Parse one version of a parameter. Returns None if Keyfront did not write it."""
    first, newline, text = parameter["Value"].partition("\n")
    found = re.fullmatch(
        rf"{_MARK} (-|[1-9][0-9]{{0,9}}\.[0-9a-f]{{16}}) ([0-9a-f]{{16}})( {_REMOVED})?", first
    )
    if not found or bool(newline) is bool(found[3]):
        return None
    return Write(
        int(parameter["Version"]),
        found[1].removeprefix("-"),
        found[2],
        None if found[3] else text,
        parameter["LastModifiedDate"].timestamp(),
    )


def _record(name: str, write: Write) -> Record:
    return Record(name, (write.text or "").encode(), write.version)
