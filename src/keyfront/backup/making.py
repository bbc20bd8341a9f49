"""`create` from end to end: taken, judged, encrypted, put into each place, read back, and only then thinned out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from keyfront.backup import crypt, taking
from keyfront.backup.crypt import Seal
from keyfront.backup.names import Name
from keyfront.backup.places import Place
from keyfront.backup.retention import Rule, kept
from keyfront.backup.taking import Known, Taken, Wanted
from keyfront.backup.telling import CREATED, Teller, tell
from keyfront.control.store import Store
from keyfront.errors import ApiError, BackupError


class Order(msgspec.Struct, frozen=True):
    """What is to be made, for whom, and where it is to lie. `always`: also if nothing has changed."""

    wanted: Wanted
    seal: Seal
    places: Sequence[Place]
    rule: Rule = Rule()
    always: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What became of it: `made` and `unchanged` are places, `removed` archives that were thinned out, with their
    places, `missing` what is not in the archive, `trouble` what went wrong. `name` is the archive's, empty if none was
    made."""

    name: str
    size: int
    made: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    missing: tuple[str, ...]
    trouble: tuple[str, ...]


def create(
    store: Store,
    folder: Path,
    order: Order,
    teller: Teller,
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

    def has(names: Mapping[Name, int], origin: str, state: str) -> bool:
        """Does the installation's newest archive hold the very same already?"""
        own = [name for name in names if name.origin == origin]
        return not order.always and bool(own) and max(own).state == state

    taken = taking.take(
        store,
        folder,
        wanted,
        now=now,
        account=teller.account,
        keyfront=keyfront,
        host=host,
        environment=environment,
        known=lambda origin, state: all(has(names, origin, state) for _, names in there),
    )
    trouble += taken.trouble
    if isinstance(taken, Known):
        return Outcome("", 0, (), tuple(place.uri for place, _ in there), (), taken.missing, tuple(trouble))
    unchanged = [place for place, names in there if has(names, taken.name.origin, taken.name.state)]
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
    for place in made:
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
    )


def _listed(places: Sequence[Place]) -> tuple[list[tuple[Place, dict[Name, int]]], list[str]]:
    found: list[tuple[Place, dict[Name, int]]] = []
    trouble: list[str] = []
    for place in places:
        try:
            found.append((place, place.names()))
        except BackupError as error:
            trouble.append(str(error))
    return found, trouble


def _sealed(taken: Taken, seal: Seal, account: str, keyfront: str) -> bytes:
    """The archive encrypted. What it was before is restored in memory, and what it is now decrypted again."""
    taking.judge(taking.read(taken.plain), account, keyfront)
    data, opener = crypt.sealed(taken.plain, seal)
    if crypt.opened(data, opener) != taken.plain:
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
    store: Store, teller: Teller, taken: Taken, data: bytes, made: Sequence[Place], now: float
) -> list[str]:
    parameters = {"Archive": str(taken.name), "Places": [place.uri for place in made]}
    elements = {
        "Snapshot": taken.manifest.snapshot,
        "Bytes": len(data),
        "Sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        with store.write() as transaction:
            tell(transaction, teller, CREATED, parameters, elements, now)
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
