"""`keyfront backup create`: capture, verify, encrypt, store in each place, read back, and only then remove old ones."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from keyfront.backup import capture
from keyfront.backup.archive import encryption
from keyfront.backup.archive.encryption import Seal
from keyfront.backup.archive.names import Name
from keyfront.backup.audit import CREATED, AuditActor, append_event
from keyfront.backup.capture import Capture, CaptureOptions, Source, Unchanged
from keyfront.backup.retention import Rule, kept
from keyfront.backup.targets import Place
from keyfront.control.audit import search as audit_search
from keyfront.control.store.store import Store
from keyfront.errors import ApiError, BackupError

log = logging.getLogger("keyfront.backup")


class BackupJob(msgspec.Struct, frozen=True):
    """What to archive, for whom, where to store it, and which archives to keep there. `always`: make an archive even if
    nothing has changed."""

    options: CaptureOptions
    seal: Seal
    places: Sequence[Place]
    rule: Rule = Rule()
    always: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """The result of a run.

    `name` is the archive's, empty if none was made; `size` is in bytes. `made` and `unchanged` are the URIs of places,
    `removed` the old archives that were removed, each with its place. `missing` is what the archive lacks, `trouble`
    what failed, `notes` what else an operator should look at.
    """

    name: str
    size: int
    made: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    missing: tuple[str, ...]
    trouble: tuple[str, ...]
    notes: tuple[str, ...] = ()


def create(source: Source, job: BackupJob, actor: AuditActor, *, now: float) -> Outcome:
    """Make an archive and store it in every place of `job` that lacks it.

    :param now: epoch seconds.
    :raises BackupError: if an archive was needed and could not be made or stored; no place has changed then.
    :raises ApiError: ServiceUnavailable if the store does not respond.
    """
    listed, trouble = _listed(job.places)
    if not listed:
        raise BackupError(f"no archive was made: {'; '.join(trouble)}")
    options = msgspec.structs.replace(
        job.options, sealed_for=" ".join(sorted(job.seal.recipients)) or "passphrase"
    )
    inspectors = [TargetInspector(place, names, now) for place, names in listed]
    recorded = _recorded(source.store, {name for each in inspectors for name in each.newest.values()})

    def has(inspector: TargetInspector, origin: str, state: str) -> bool:
        return not job.always and inspector.has(origin, state, recorded)

    captured = capture.take(
        source,
        options,
        now=now,
        is_known=lambda origin, state: all(has(inspector, origin, state) for inspector in inspectors),
    )
    trouble += captured.trouble
    trouble += [inspector.fault for inspector in inspectors if inspector.fault]
    notes = tuple(note for inspector in inspectors for note in inspector.notes)
    if isinstance(captured, Unchanged):
        uris = tuple(place.uri for place, _ in listed)
        return Outcome("", 0, (), uris, (), captured.missing, tuple(trouble), notes)
    name = captured.name
    log.info("archive captured", extra={"archive": str(name), "snapshot": captured.manifest.snapshot})
    unchanged = [each.place for each in inspectors if has(each, name.origin, name.state)]
    lacking = [place for place, _ in listed if place not in unchanged]
    data = _sealed(captured, job.seal, source)
    made: list[Place] = []
    for place in lacking:
        try:
            _put(place, name, data)
            log.info("archive stored", extra={"archive": str(name), "place": place.uri, "bytes": len(data)})
            made.append(place)
        except BackupError as error:
            trouble.append(str(error))
    if not made:
        raise BackupError(f"no archive was made: {'; '.join(trouble)}")
    trouble += _append_event(source.store, actor, captured, data, made, now)
    removed: list[str] = []
    # An incomplete archive replaces nothing: what it lacks may be gone for longer than the old archives are kept.
    for place in () if captured.trouble else made:
        gone, errors = _apply_retention(place, name, job.rule, now)
        removed += gone
        trouble += errors
    return Outcome(
        str(name),
        len(data),
        tuple(place.uri for place in made),
        tuple(place.uri for place in unchanged),
        tuple(removed),
        captured.manifest.missing,
        tuple(trouble),
        notes,
    )


class TargetInspector:
    """Checks whether a place already stores what would be made. `newest` is its last archive of each installation."""

    def __init__(self, place: Place, names: Mapping[Name, int], now: float) -> None:
        self.place = place
        self._sizes = names
        self.newest: dict[str, Name] = {}
        self.notes: list[str] = []
        self.fault = ""
        self._found: bool | None = None
        for name in sorted(names):
            if name.taken <= now:
                self.newest[name.origin] = name
            else:
                self.notes.append(f"{name} in {place.uri} is dated in the future and is ignored")

    def has(self, origin: str, state: str, recorded: Mapping[str, tuple[int, str]]) -> bool:
        """Whether the installation's newest archive has that state and is, byte by byte, what was stored.

        A name alone proves nothing: the disk may have been full, or the connection lost.
        """
        last = self.newest.get(origin)
        if last is None or last.state != state:
            return False
        if self._found is None:
            self._found = self._whole(last, recorded)
        return self._found

    def _whole(self, last: Name, recorded: Mapping[str, tuple[int, str]]) -> bool:
        what = f"{last} in {self.place.uri}"
        if str(last) not in recorded:
            self.fault = f"{what} is not in the audit log, so another one is made"
            return False
        size, digest = recorded[str(last)]
        try:
            if self._sizes[last] == size and self.place.digest(str(last)) == digest:
                return True
            self.fault = f"{what} is not what was stored there"
        except BackupError as error:
            self.fault = str(error)
        return False


def _recorded(store: Store, archives: Iterable[Name]) -> dict[str, tuple[int, str]]:
    """The size in bytes and the SHA-256 of each archive that the audit log records, by name."""
    found: dict[str, tuple[int, str]] = {}
    for archive in archives:
        # A name has the time to the millisecond.
        then = audit_search.AuditQuery(since=archive.taken - 1, until=archive.taken + 1, event=CREATED)
        for row in audit_search.search(store, then):
            try:
                record = msgspec.convert(row.record, _Record)
            except msgspec.ValidationError:
                continue
            made = record.response_elements
            if record.request_parameters.archive == str(archive):
                found[str(archive)] = (made.bytes, made.sha256)
    return found


class _Parameters(msgspec.Struct):
    archive: str


class _Elements(msgspec.Struct):
    bytes: int
    sha256: str


class _Record(msgspec.Struct, rename="camel"):
    """An audit record about an archive."""

    request_parameters: _Parameters
    response_elements: _Elements


def _listed(places: Sequence[Place]) -> tuple[list[tuple[Place, dict[Name, int]]], list[str]]:
    found: list[tuple[Place, dict[Name, int]]] = []
    trouble: list[str] = []
    for place in places:
        try:
            found.append((place, place.names()))
        except BackupError as error:
            trouble.append(str(error))
    return found, trouble


def _sealed(captured: Capture, seal: Seal, source: Source) -> bytes:
    """The encrypted archive, once the archive has been restored in memory and the encryption undone."""
    capture.judge(capture.read(captured.plain), source.account, source.version)
    data, opener = encryption.sealed(captured.plain, seal)
    if encryption.opened(data, opener) != captured.plain:
        raise BackupError("no archive was made: it does not decrypt to what was encrypted")
    return data


def _put(place: Place, name: Name, data: bytes) -> None:
    """Store the archive and read it back. One that cannot be read back is removed."""
    place.put(str(name), data)
    try:
        if place.get(str(name)) != data:
            raise BackupError(f"{place.uri} did not store what was written there")
    except BackupError:
        with contextlib.suppress(BackupError):
            place.remove(name)
        raise


def _append_event(
    store: Store, actor: AuditActor, captured: Capture, data: bytes, made: Sequence[Place], now: float
) -> list[str]:
    """Record the archive in the audit log. Returns what went wrong."""
    parameters = {"Archive": str(captured.name), "Places": [place.uri for place in made]}
    elements = {
        "Snapshot": captured.manifest.snapshot,
        "Bytes": len(data),
        "Sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        with store.write() as transaction:
            append_event(transaction, actor, CREATED, parameters, elements, now)
    except ApiError as error:
        return [f"it could not be recorded in the audit log: {error.message}"]
    return []


def _apply_retention(place: Place, newest: Name, rule: Rule, now: float) -> tuple[list[str], list[str]]:
    """Remove the archives of this installation that `rule` does not keep. Returns those, and what went wrong."""
    try:
        own = [name for name in place.names() if name.origin == newest.origin]
        if newest not in own:
            return [], [f"{place.uri} does not list the archive that was stored there; nothing was removed"]
        keep = kept(own, rule, max(now, newest.taken))
        gone = [name for name in own if name not in keep]
        for name in gone:
            place.remove(name)
            log.info("archive removed", extra={"archive": str(name), "place": place.uri})
    except BackupError as error:
        return [], [str(error)]
    return [f"{place.uri}: {name}" for name in gone], []
