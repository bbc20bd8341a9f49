"""A feed through a folder: one snapshot file that is replaced as a whole, and one small report file per edge.

In the folder:
  snapshot             the published snapshot, replaced by rename, so that readers see either the old or the new one
  snapshot.accepted    the newest snapshot that an edge has accepted; edges start from it while `snapshot` is unusable
  snapshot.confirmed   an empty file, last modified when `snapshot` was last known to be the control plane's latest
  reports/<name>.json  each edge's last report
  ended/               the last reports of edges that have exited, until their counters have been added up

Only `snapshot` is synced to disk, because a published change must survive a power failure. The other files are also
replaced as a whole; after a power failure they are either rewritten or rejected when read.
"""

from __future__ import annotations

import logging
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from keyfront.errors import SnapshotRefused
from keyfront.fleet.feed import STALE, Report, accept
from keyfront.model import residency
from keyfront.model.snapshot import MAGIC, Snapshot, from_bytes
from keyfront.private_files import replace_file

log = logging.getLogger("keyfront.fleet")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z")

_LEFT_OVER = 60.0
"""Age in seconds from which a temporary file counts as left over by a killed process."""

_CONFIRM = 1.0
"""Minimum number of seconds between two confirmations that are written."""

_FORGOTTEN = 30 * 86_400.0
"""Seconds after which an exited edge's last report is deleted, even if its counters were not added up."""

_SEAL = len(MAGIC) + 32
"""Number of bytes at the start of a snapshot file that identify it: magic and checksum."""

_Seen = tuple[int, int, int]


class FileFeed:
    """A `Feed` in `folder`, for any number of processes, each with its own instance.

    :param folder: created when something is published or reported.
    :param region: the region of the feed's snapshots; empty: for edges without a region. Only the number of a snapshot
        for another region is used, because edges may have seen it.
    """

    def __init__(self, folder: str | os.PathLike[str], region: str = "") -> None:
        self._folder = Path(folder)
        self.region = region
        self._snapshot = self._folder / "snapshot"
        self._accepted = self._folder / "snapshot.accepted"
        self._confirmed = self._folder / "snapshot.confirmed"
        self._reports = self._folder / "reports"
        self._ended = self._folder / "ended"
        self._seen: _Seen | None = None
        self._unreadable: _Seen | None = None
        self._known: dict[Path, tuple[_Seen, int]] = {}
        self._refusal: SnapshotRefused | None = None
        self._confirmation = 0.0
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Report)

    # Methods for the control plane

    def publish(self, snapshot: Snapshot) -> None:
        """See `Feed`. An unreadable file counts as no publication.

        :raises SnapshotRefused: if the snapshot's number is not above the published one, unless it is the same
            snapshot.
        :raises OSError: if the snapshot cannot be written. The one published before then stays.
        """
        if fault := residency.fault(snapshot, self.region):
            raise SnapshotRefused(f"snapshot {snapshot.number} is not for this feed: {fault}")
        data = snapshot.to_bytes()
        published = self._number(self._snapshot)
        if snapshot.number <= published:
            if snapshot == self._readable(self._snapshot):
                return
            raise SnapshotRefused(
                f"snapshot {snapshot.number} is not newer than {published}, the published one"
            )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        self._known[self._snapshot] = (_identity(replace_file(self._snapshot, data)), snapshot.number)
        log.info(
            "feed written", extra={"snapshot": snapshot.number, "region": self.region, "bytes": len(data)}
        )

    def supersede(self, snapshot: Snapshot) -> None:
        """Prevent edges of this feed from starting with a snapshot older than this published one: an older one may
        contain data that they must no longer have.

        :raises OSError: if it cannot be written.
        """
        if self._accepted.exists() and self._number(self._accepted) < snapshot.number:
            status = replace_file(self._accepted, snapshot.to_bytes(), durable=False)
            self._known[self._accepted] = (_identity(status), snapshot.number)

    def confirm(self, now: float) -> None:
        """Record that what is published is the control plane's latest at `now` (epoch seconds). If the disk is full,
        the last confirmation ages."""
        if abs(now - self._confirmation) < _CONFIRM:
            return
        self._confirmation = now
        with suppress(OSError):
            try:
                os.utime(self._confirmed, (now, now))
            except FileNotFoundError:
                os.close(os.open(self._confirmed, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                os.utime(self._confirmed, (now, now))

    def published(self) -> Snapshot | None:
        """The published snapshot; None if there is none for this region, or it cannot be read."""
        return self._own(self._snapshot)

    def servable(self) -> Snapshot | None:
        """The snapshot that an edge can start with without a control plane: the published one, or the last one that an
        edge accepted. None if there is neither, or if it contains no distribution."""
        for path in (self._snapshot, self._accepted):
            found = self._own(path)
            if found is not None and found.distributions:
                return found
        return None

    def published_at(self) -> tuple[int, float] | None:
        """The number of the published snapshot and its publication time (epoch seconds); None if it cannot be read."""
        try:
            status = os.stat(self._snapshot)
        except OSError:
            return None
        number = self._number(self._snapshot)
        return None if number < 0 else (number, status.st_mtime)

    @property
    def folder(self) -> Path:
        """The feed's folder."""
        return self._folder

    def mark(self) -> object:
        """Identifies the published file among all past and future ones; None if there is none."""
        try:
            return _identity(os.stat(self._snapshot))
        except OSError:
            return None

    def published_region(self) -> str | None:
        """The region of the published snapshot, even if it is not this feed's; None if it cannot be read."""
        found = self._readable(self._snapshot)
        return None if found is None else found.region

    def number(self) -> int:
        """The highest number that any edge may have seen; 0 if there is none. The next snapshot's must be higher."""
        return max(self._number(self._snapshot), self._number(self._accepted), 0)

    def reports(self, now: float | None = None) -> list[Report]:
        """See `Feed`. `now` is epoch seconds, by default the current time. Files that cannot be read are ignored."""
        now = time.time() if now is None else now
        return [report for report in self.last_reports() if abs(now - report.at) <= STALE]

    def last_reports(self) -> list[Report]:
        """The last report of each edge that has not shut down cleanly, live or not, in order of name."""
        found = []
        for path in sorted(self._reports.glob("*.json")):
            report = self._report_at(path)
            if report is not None and report.name == path.stem:
                found.append(report)
        return found

    def remove_report(self, name: str) -> None:
        """Move the last report of the edge `name` to `ended/`, so that its counters can be added up. Call this when the
        edge has exited. Does nothing if there is no report."""
        path = self._report_path(name)
        with suppress(FileNotFoundError):
            target = self._ended / f"{name}.{path.stat().st_mtime_ns}.json"
            try:
                os.replace(path, target)
            except FileNotFoundError:
                self._ended.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.replace(path, target)

    def ended(self) -> list[tuple[Path, Report]]:
        """The last reports of edges that have exited, each with the path to pass to `forget` once it has been added
        up."""
        found = []
        for path in sorted(self._ended.glob("*.json")):
            report = self._report_at(path)
            if report is not None:
                found.append((path, report))
        return found

    def forget(self, ended: Path) -> None:
        """Delete the report of an exited edge whose counters are now stored elsewhere."""
        with suppress(OSError):
            ended.unlink(missing_ok=True)

    def _report_at(self, path: Path) -> Report | None:
        try:
            return self._decoder.decode(path.read_bytes())
        except (OSError, msgspec.MsgspecError, ValueError):
            return None

    # Methods for an edge

    def poll(self, current: Snapshot | None) -> Snapshot | None:
        """See `Feed`. Costs one `stat` if nothing new was published.

        Without a `current`, the edge starts from the last snapshot that any edge of this folder accepted. The published
        snapshot is checked against that one, so a restart restores nothing that was revoked. If the published snapshot
        is then rejected, the next call raises the error.
        """
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal
        try:
            seen = _identity(os.stat(self._snapshot))
        except OSError:
            seen = None
        if seen == self._seen and (current is not None or seen is not None):
            return None
        before = current if current is not None else self._own(self._accepted)
        if seen is None:
            self._seen = None
            return None if before is current else before
        try:
            data, self._seen = _read(self._snapshot)
            snapshot = accept(before, data, self.region)
        except SnapshotRefused as refusal:
            return self._fall_back(before, current, refusal)
        except OSError as error:
            # Possibly temporary, for example no free file descriptor: later calls try again but raise only once.
            if seen == self._unreadable:
                return None
            self._unreadable = seen
            return self._fall_back(before, current, SnapshotRefused(f"the snapshot cannot be read: {error}"))
        if snapshot is current:
            return None
        self._store_accepted(snapshot, data)
        return snapshot

    def _fall_back(
        self, before: Snapshot | None, current: Snapshot | None, refusal: SnapshotRefused
    ) -> Snapshot | None:
        """Raise the refusal now if there is no other snapshot to start from; otherwise return `before` and raise the
        refusal in the next call."""
        if before is current:
            raise refusal
        self._refusal = refusal
        return before

    def confirmed_at(self) -> float:
        """When the published snapshot was last known to be the control plane's latest (epoch seconds): when it was
        confirmed, or else published. 0.0 if neither is known. Costs one `stat`, or two."""
        for path in (self._confirmed, self._snapshot):
            with suppress(OSError):
                return os.stat(path).st_mtime
        return 0.0

    def report(
        self, name: str, number: int, *, at: float, refused: str = "", counters: object = None
    ) -> None:
        """See `Feed`.

        :raises ValueError: if `name` is not 1 to 64 letters, digits, `.`, `_`, and `-`, or begins with `.` or `-`.
        :raises OSError: if it cannot be written.
        """
        path = self._report_path(name)
        data = self._encoder.encode(
            {
                "name": name,
                "pid": os.getpid(),
                "number": number,
                "at": at,
                "refused": refused,
                "counters": {} if counters is None else counters,
                "region": self.region,
            }
        )
        try:
            replace_file(path, data, durable=False)
        except FileNotFoundError:
            self._reports.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, data, durable=False)

    def _report_path(self, name: str) -> Path:
        if not _NAME.match(name):
            raise ValueError(f"{name!r} cannot be the name of an edge")
        return self._reports / f"{name}.json"

    def _store_accepted(self, snapshot: Snapshot, data: bytes) -> None:
        """Store `snapshot` as accepted, unless another edge has already stored it or a newer one. If the disk is full,
        the edge continues without storing it."""
        with suppress(OSError):
            # Many edges store the same snapshot: all but the first need only compare its checksum.
            if not self._holds(self._accepted, data):
                if self._number(self._accepted) >= snapshot.number and self._own(self._accepted) is not None:
                    return
                replace_file(self._accepted, data, durable=False)
            self._known[self._accepted] = (_identity(os.stat(self._accepted)), snapshot.number)

    def _holds(self, path: Path, data: bytes) -> bool:
        try:
            with open(path, "rb") as file:
                return os.fstat(file.fileno()).st_size == len(data) and file.read(_SEAL) == data[:_SEAL]
        except FileNotFoundError:
            return False

    def _number(self, path: Path) -> int:
        """The number of the snapshot at `path`; -1 if there is none. Reads the file only if it was replaced."""
        try:
            seen = _identity(os.stat(path))
        except OSError:
            return -1
        known = self._known.get(path)
        if known is None or known[0] != seen:
            snapshot = self._readable(path)
            known = self._known[path] = (seen, -1 if snapshot is None else snapshot.number)
        return known[1]

    def _readable(self, path: Path) -> Snapshot | None:
        try:
            return from_bytes(path.read_bytes())
        except (OSError, SnapshotRefused):
            return None

    def _own(self, path: Path) -> Snapshot | None:
        """The snapshot at `path`, if it is for this region."""
        found = self._readable(path)
        return None if found is None or residency.fault(found, self.region) else found

    def _sweep(self) -> None:
        before = time.time() - _LEFT_OVER
        for path in (*self._folder.glob(".*.tmp"), *self._reports.glob(".*.tmp")):
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()
        before = time.time() - _FORGOTTEN
        for path in self._ended.glob("*.json"):
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()


def _identity(status: os.stat_result) -> _Seen:
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _read(path: Path) -> tuple[bytes, _Seen]:
    """The bytes at `path`, with the identity of the file they came from, because the file may be replaced in the
    meantime."""
    with open(path, "rb") as file:
        seen = _identity(os.fstat(file.fileno()))
        return file.read(), seen
