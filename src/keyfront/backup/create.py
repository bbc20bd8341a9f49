"""`create` from end to end: taken, judged, encrypted, put into each place, read back, and only then thinned out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from keyfront.backup import capture
from keyfront.backup.archive import encryption
from keyfront.backup.archive.encryption import Seal
from keyfront.backup.archive.names import Name
from keyfront.backup.audit import CREATED, AuditActor, append_event
from keyfront.backup.capture import Capture, CaptureOptions, Unchanged
from keyfront.backup.retention import Rule, kept
from keyfront.backup.targets import Place
from keyfront.control.audit import search as trail
from keyfront.control.store.store import Store
from keyfront.errors import ApiError, BackupError


class BackupJob(msgspec.Struct, frozen=True):
    """What is to be made, for whom, and where it is to lie. `always`: also if nothing has changed."""

    wanted: CaptureOptions
    seal: Seal
    places: Sequence[Place]
    rule: Rule = Rule()
    always: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What became of it: `made` and `unchanged` are places, `removed` archives that were thinned out, with their
    places, `missing` what is not in the archive, `trouble` what went wrong, `notes` what else somebody should look at.
    `name` is the archive's, empty if none was made."""

    name: str
    size: int
    made: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    missing: tuple[str, ...]
    trouble: tuple[str, ...]
    notes: tuple[str, ...] = ()


def create(
    store: Store,
    folder: Path,
    order: BackupJob,
    teller: AuditActor,
    *,
    now: float,
    keyfront: str,
    host: str,
    environment: Mapping[str, str],
) -> Outcome:
    """:param folder: the data folder.
    :param now: epoch seconds.
    :param keyfront: the version of Keyfront that this is.
    :raises BackupError: if no archive was made though there should be one; no place has changed then.
    :raises ApiError: ServiceUnavailable if the store does not answer.
    """
    there, trouble = _listed(order.places)
    if not there:
        raise BackupError(f"no archive was made: {'; '.join(trouble)}")
    wanted = msgspec.structs.replace(
        order.wanted, sealed_for=" ".join(sorted(order.seal.recipients)) or "passphrase"
    )

    lookers = [TargetInspector(place, names, now) for place, names in there]
    recorded = _recorded(store, {last for looker in lookers for last in looker.newest.values()})

    def has(looker: TargetInspector, origin: str, state: str) -> bool:
        return not order.always and looker.has(origin, state, recorded)

    taken = capture.take(
        store,
        folder,
        wanted,
        now=now,
        account=teller.account,
        keyfront=keyfront,
        host=host,
        environment=environment,
        known=lambda origin, state: all(has(looker, origin, state) for looker in lookers),
    )
    trouble += taken.trouble
    trouble += [looker.fault for looker in lookers if looker.fault]
    notes = tuple(note for looker in lookers for note in looker.notes)
    if isinstance(taken, Unchanged):
        uris = tuple(place.uri for place, _ in there)
        return Outcome("", 0, (), uris, (), taken.missing, tuple(trouble), notes)
    unchanged = [looker.place for looker in lookers if has(looker, taken.name.origin, taken.name.state)]
    lacking = [place for place, _ in there if place not in unchanged]
    data = _sealed(taken, order.seal, teller.account, keyfront)
    made: list[Place] = []
    for place in lacking:
        try:
            _put(place, taken.name, data)
            made.append(place)
        except BackupError as error:
            trouble.append(str(error))
    if not made:
        raise BackupError(f"no archive was made: {'; '.join(trouble)}")
    trouble += _told(store, teller, taken, data, made, now)
    removed: list[str] = []
    # What lacks something takes the place of nothing: the reason may last longer than all that is kept.
    for place in () if taken.trouble else made:
        gone, why = _thinned(place, taken.name, order.rule, now)
        removed += gone
        trouble += why
    return Outcome(
        str(taken.name),
        len(data),
        tuple(place.uri for place in made),
        tuple(place.uri for place in unchanged),
        tuple(removed),
        taken.manifest.missing,
        tuple(trouble),
        notes,
    )


class TargetInspector:
    """Looks whether a place has already what would be made. `newest` are the last archives there, by installation."""

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
                self.notes.append(f"{name} in {place.uri} is dated after now, and counts for nothing")

    def has(self, origin: str, state: str, recorded: Mapping[str, tuple[int, str]]) -> bool:
        """Does the installation's newest archive hold the very same, and is it, byte by byte, what was put there? A
        name alone proves nothing: the disk may have been full, or the connection gone."""
        last = self.newest.get(origin)
        if last is None or last.state != state:
            return False
        if self._found is None:
            self._found = self._whole(last, recorded)
        return self._found

    def _whole(self, last: Name, recorded: Mapping[str, tuple[int, str]]) -> bool:
        what = f"{last} in {self.place.uri}"
        if str(last) not in recorded:
            self.fault = f"{what} is not in the audit log, so that another one is made"
            return False
        size, digest = recorded[str(last)]
        try:
            if self._sizes[last] == size and self.place.digest(str(last)) == digest:
                return True
            self.fault = f"{what} is not what was put there"
        except BackupError as error:
            self.fault = str(error)
        return False


def _recorded(store: Store, archives: Iterable[Name]) -> dict[str, tuple[int, str]]:
    """The size and the SHA-256 of those archives of which the audit log tells."""
    found: dict[str, tuple[int, str]] = {}
    for archive in archives:
        # A name has the time to the millisecond.
        then = trail.AuditQuery(since=archive.taken - 1, until=archive.taken + 1, event=CREATED)
        for row in trail.search(store, then):
            try:
                told = msgspec.convert(row.record, _Record)
            except msgspec.ValidationError:
                continue
            made = told.response_elements
            if told.request_parameters.archive == str(archive):
                found[str(archive)] = (made.bytes, made.sha256)
    return found


class _Parameters(msgspec.Struct):
    archive: str


class _Elements(msgspec.Struct):
    bytes: int
    sha256: str


class _Record(msgspec.Struct, rename="camel"):
    """What an audit record tells of an archive."""

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


def _sealed(taken: Capture, seal: Seal, account: str, keyfront: str) -> bytes:
    """The archive encrypted. What it was before is restored in memory, and what it is now decrypted again."""
    capture.judge(capture.read(taken.plain), account, keyfront)
    data, opener = encryption.sealed(taken.plain, seal)
    if encryption.opened(data, opener) != taken.plain:
        raise BackupError("no archive was made: what was encrypted does not decrypt to itself")
    return data


def _put(place: Place, name: Name, data: bytes) -> None:
    """Put the archive into the place, and read it back. One that cannot be read back does not stay."""
    place.put(str(name), data)
    try:
        if place.get(str(name)) != data:
            raise BackupError(f"{place.uri} did not keep what was written there")
    except BackupError:
        with contextlib.suppress(BackupError):
            place.remove(name)
        raise


def _told(
    store: Store, teller: AuditActor, taken: Capture, data: bytes, made: Sequence[Place], now: float
) -> list[str]:
    parameters = {"Archive": str(taken.name), "Places": [place.uri for place in made]}
    elements = {
        "Snapshot": taken.manifest.snapshot,
        "Bytes": len(data),
        "Sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        with store.write() as transaction:
            append_event(transaction, teller, CREATED, parameters, elements, now)
    except ApiError as error:
        return [f"the audit log does not tell of it: {error.message}"]
    return []


def _thinned(place: Place, newest: Name, rule: Rule, now: float) -> tuple[list[str], list[str]]:
    """Remove what `rule` does not ask for, of this installation's archives only."""
    try:
        own = [name for name in place.names() if name.origin == newest.origin]
        if newest not in own:
            return [], [f"{place.uri} does not list what was written there; nothing was removed"]
        keep = kept(own, rule, max(now, newest.taken))
        gone = [name for name in own if name not in keep]
        for name in gone:
            place.remove(name)
    except BackupError as error:
        return [], [str(error)]
    return [f"{place.uri}: {name}" for name in gone], []
