"""Delivery of standard logs: from the spool, by way of an outbox, to the places where the log files belong.

Everything happens in one folder, and a crash at any moment neither loses a record nor delivers it twice under another
name:

1. `collect` renames the spool to a segment. Workers go on with a new file (`append_file`).
2. `render` writes the segment's log files into an outbox, with an index that says where each of them goes. The folder
   gets its name once it is complete and on the disk; then the segment is removed. Rendering is deterministic: after a
   crash, it gives the same files with the same names.
3. `deliver` puts one file after the other at its destination, and removes it from the outbox. A file that was put
   before a crash is put again, under the same name.

What cannot be delivered waits in the outbox, up to a size; beyond that, the oldest files are dropped and counted. A
line that cannot be read is skipped and counted.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import gmtime, strftime
from typing import Final, Protocol

import msgspec

from keyfront.edge.logs import standard_format
from keyfront.edge.logs.delivery_settings import LEGACY_LOG, Delivery, DeliverySettings
from keyfront.edge.logs.parquet_format import parquet
from keyfront.edge.logs.spool import CURRENT, FOLDER
from keyfront.edge.types.record import LogRecord
from keyfront.private_files import create_file, replace_file, sync_folder

logger = logging.getLogger("keyfront.logs")

PART: Final = 64 << 20
"""Bytes of a segment whose records are rendered together: a longer one gives several files per hour."""
_MACHINE: Final = "machine"
_INDEX: Final = "index.json"
STATUS_FILE: Final = f"{FOLDER}/status.json"
_SEGMENT: Final = re.compile(r"segment-(\d{20})\.jsonl")
_OUTBOX: Final = re.compile(r"outbox-(\d{20})")


class DeliveryError(Exception):
    """A destination that refuses a file or cannot be reached. The message says why."""


class Destination(Protocol):
    """Where log files go."""

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store a file, in place of any that has the name. It is durable and whole when this returns.

        :param bucket: the bucket's name; empty for the destination's own.
        :param key: the file's name, with `/` between folders.
        :raises DeliveryError: if it cannot be stored.
        """


class File(msgspec.Struct, frozen=True):
    """A file in an outbox. `place` is the name of its delivery, `records` the number of records in it, `first` the time
    of the earliest (epoch seconds)."""

    name: str
    place: str
    bucket: str
    key: str
    records: int
    first: float


class Status(msgspec.Struct):
    """What the delivery has done since the folder exists, and what waits. Times are epoch seconds.

    `dropped` counts records that were dropped because too much waited, `unreadable` counts lines that were not records.
    `waiting_since` is the time of the earliest record that waits in the outbox, 0 if there is none. `problem` is why
    files wait; empty if nothing is wrong. `last_file` is the file that was counted last: after a crash, it may still be
    in the outbox, and is not counted again.
    """

    delivered_files: int = 0
    delivered_records: int = 0
    dropped: int = 0
    unreadable: int = 0
    waiting_files: int = 0
    waiting_bytes: int = 0
    waiting_since: float = 0.0
    last_delivery: float = 0.0
    last_file: str = ""
    problem: str = ""


def read_status(data: Path) -> Status | None:
    """The status that the delivery of a data folder has written, None if nothing was ever delivered."""
    try:
        return msgspec.json.decode((data / STATUS_FILE).read_bytes(), type=Status)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def has_work(data: Path) -> bool:
    """Whether anything waits in the data folder to be delivered."""
    try:
        with os.scandir(data / FOLDER) as entries:
            return any(
                _SEGMENT.fullmatch(one.name)
                or _OUTBOX.fullmatch(one.name)
                or (one.name == CURRENT and one.stat().st_size > 0)
                for one in entries
            )
    except FileNotFoundError:
        return False


class Outbox:
    """The delivery folder of one machine. One process at a time may use it."""

    def __init__(self, settings: DeliverySettings) -> None:
        self._folder = Path(settings.data) / FOLDER
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._settings = settings
        self._machine = self._machine_id()
        self.status = read_status(Path(settings.data)) or Status()
        for one in self._folder.glob("rendering-*"):
            shutil.rmtree(one)

    def _machine_id(self) -> str:
        """A name for this machine, so that no other machine's files have the same names as its own."""
        path = self._folder / _MACHINE
        create_file(path, secrets.token_hex(8).encode())
        return path.read_text()

    # -- 1. collect --------------------------------------------------------------------------------------------------

    def collect(self, now: float) -> None:
        """Make a segment of what workers have written, if they have written anything.

        :param now: epoch seconds.
        """
        current = self._folder / CURRENT
        try:
            if not current.stat().st_size:
                return
        except FileNotFoundError:
            return
        numbers = [int(found[1]) for _, found in self._found(_SEGMENT)]
        number = max([int(now * 1e9), *(last + 1 for last in numbers)])
        segment = self._folder / f"segment-{number:020}.jsonl"
        os.rename(current, segment)
        with segment.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # waits for the workers that are writing to it
            os.fsync(file.fileno())
        sync_folder(self._folder)

    def _found(self, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
        """The files or folders with such a name, the oldest first."""
        names = sorted(one.name for one in self._folder.iterdir())
        return [
            (self._folder / name, found) for name in names if (found := pattern.fullmatch(name)) is not None
        ]

    # -- 2. render ---------------------------------------------------------------------------------------------------

    def render(self) -> None:
        """Write the log files of all segments into outboxes."""
        for segment, found in self._found(_SEGMENT):
            outbox = self._folder / f"outbox-{found[1]}"
            if not outbox.exists():
                self._render_segment(segment, found[1], outbox)
            segment.unlink()
            sync_folder(self._folder)

    def _render_segment(self, segment: Path, stamp: str, outbox: Path) -> None:
        rendering = self._folder / f"rendering-{stamp}"
        rendering.mkdir(mode=0o700)
        index: list[File] = []
        for number, (records, bad) in enumerate(_parts(segment)):
            self.status.unreadable += bad
            if bad:
                logger.warning("%d lines of the spool of standard logs are unreadable and skipped", bad)
            for delivery in (LEGACY_LOG, *self._settings.deliveries):
                for file, data in self._files(records, delivery, f"{stamp}.{number}", len(index)):
                    replace_file(rendering / file.name, data, durable=False)
                    index.append(file)
        for file in index:
            with (rendering / file.name).open("rb") as written:
                os.fsync(written.fileno())
        replace_file(rendering / _INDEX, msgspec.json.encode(index))
        os.rename(rendering, outbox)
        sync_folder(self._folder)

    def _files(
        self, records: list[LogRecord], delivery: Delivery, part: str, start: int
    ) -> Iterator[tuple[File, bytes]]:
        """The log files of one delivery, with their content: one per distribution and hour."""
        groups: defaultdict[tuple[str, str, str, int], list[LogRecord]] = defaultdict(list)
        for record in records:
            if delivery.takes(record):
                bucket, prefix = (record.bucket, record.prefix) if delivery is LEGACY_LOG else ("", "")
                groups[bucket, prefix, record.distribution, standard_format.hour(record)].append(record)
        for offset, ((bucket, prefix, distribution, hour), some) in enumerate(sorted(groups.items())):
            name = f"{part}/{delivery.name}/{bucket}/{prefix}/{self._machine}"
            unique = hashlib.sha256(name.encode()).hexdigest()[:16]
            stem = f"{distribution}.{strftime('%Y-%m-%d-%H', gmtime(hour * 3600))}.{unique}"
            key = delivery.key(prefix, distribution, hour, stem)
            if self._settings.mask:
                some = [standard_format.masked(one) for one in some]
            data = render(some, delivery, self._settings.location)
            first = min([standard_format.ended(one) for one in some])
            yield File(str(start + offset), delivery.name, bucket, key, len(some), first), data

    # -- 3. deliver --------------------------------------------------------------------------------------------------

    def deliver(self, destinations: dict[str, Destination], now: float) -> None:
        """Put all files at their destinations. A destination that fails gets no more files in this run; the others do.

        :param destinations: by the names of deliveries.
        :param now: epoch seconds.
        """
        problems: dict[str, str] = {}
        for outbox, _ in self._found(_OUTBOX):
            waiting = False
            for file in _index(outbox):
                path = outbox / file.name
                if not path.exists():
                    continue
                destination = destinations.get(file.place)
                if destination is None:
                    problems[file.place] = f"no destination is configured any more for {file.place!r}"
                if file.place in problems or destination is None:
                    waiting = True
                    continue
                try:
                    destination.put(file.bucket, file.key, path.read_bytes())
                except DeliveryError as error:
                    problems[file.place] = str(error)
                    waiting = True
                    continue
                self._count(f"{outbox.name}/{file.name}", file, now)
                path.unlink()
            if not waiting:
                shutil.rmtree(outbox)
        self._drop_oldest()
        self.report("; ".join(sorted(problems.values())))

    def report(self, problem: str) -> None:
        """Write the status.

        :param problem: why files wait; empty if nothing is wrong.
        """
        if problem != self.status.problem:
            if problem:
                logger.warning("log files cannot be delivered, and wait: %s", problem)
            else:
                logger.warning("log files are delivered again")
        self.status.problem = problem
        self.write_status()

    def _count(self, name: str, file: File, now: float) -> None:
        status = self.status
        if name != status.last_file:
            status.delivered_files += 1
            status.delivered_records += file.records
            status.last_delivery = now
            status.last_file = name
            self.write_status()

    def _drop_oldest(self) -> None:
        """Drop the oldest files beyond the space for waiting ones, and count what waits."""
        status = self.status
        status.waiting_files = status.waiting_bytes = 0
        status.waiting_since = 0.0
        for outbox, _ in reversed(self._found(_OUTBOX)):
            for file in _index(outbox):
                path = outbox / file.name
                try:
                    size = path.stat().st_size
                except FileNotFoundError:
                    continue
                if status.waiting_bytes + size > self._settings.most:
                    logger.warning(
                        "%d records of a log file were dropped, because too much waits: %s",
                        file.records,
                        file.key,
                    )
                    status.dropped += file.records
                    path.unlink()
                    continue
                status.waiting_files += 1
                status.waiting_bytes += size
                status.waiting_since = min(status.waiting_since or file.first, file.first)

    def write_status(self) -> None:
        replace_file(Path(self._settings.data) / STATUS_FILE, msgspec.json.encode(self.status), durable=False)


def _index(outbox: Path) -> list[File]:
    return msgspec.json.decode((outbox / _INDEX).read_bytes(), type=list[File])


def _parts(segment: Path) -> Iterator[tuple[list[LogRecord], int]]:
    """The records of a segment, in parts of about `PART` bytes, and the number of unreadable lines in each."""
    decoder = msgspec.json.Decoder(LogRecord)
    with segment.open("rb") as file:
        while lines := file.readlines(PART):
            records, bad = [], 0
            for line in lines:
                try:
                    records.append(decoder.decode(line))
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    bad += 1
            yield records, bad


def render(records: list[LogRecord], delivery: Delivery, location: str) -> bytes:
    """The content of a file. The same records give the same bytes.

    :param location: the name of the edge location.
    """
    if delivery.format == "parquet":
        return parquet(records, delivery.fields, location)
    if delivery.format == "json":
        text = standard_format.json_lines(records, delivery.fields, location)
    else:
        head = standard_format.w3c_head(delivery.fields) if delivery.format == "w3c" else ""
        lines = standard_format.separated(records, delivery.fields, location, delivery.separator)
        text = (head + lines).encode()
    return gzip.compress(text, 6, mtime=0)
