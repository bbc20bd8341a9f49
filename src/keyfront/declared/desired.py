"""The resources that a file declares: an API config for each table, with names in place of IDs.

A resource's comment says who owns it: it ends with a mark, `(keyfront media/prod)`. Every kind has a comment, lists
return it, and it is written in the same call as the rest; only distributions have tags (decision 0016).

Defaults for what the file omits:
- `Name` is `<set-up>-<environment>-<label>`, followed for a public key by the first 8 hex digits of its SHA-256. So
  another key under the same label is another resource, as CloudFront requires: a key never changes.
- `CallerReference` is the name, and `<set-up>/<environment>/<label>` where there is no name.
- `Comment` is the mark alone; a distribution's `Enabled` is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from keyfront.declared import alarms
from keyfront.declared.document import Document
from keyfront.declared.locations import Path
from keyfront.declared.problems import Faults
from keyfront.declared.resources import ROWS, Row
from keyfront.declared.translate import Load, Words
from keyfront.errors import KeyLoadError
from keyfront.model.kinds import Reference
from keyfront.signing.keys import load_public_key

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MARK = re.compile(r"(?:^|\s)\(keyfront ([^()\s]+)\)$")
_OURS = {"PublicKey": ("rotation_days",), alarms.KIND: (alarms.DISTRIBUTION,)}
"""Keyfront's own words, by kind."""


class NamedReference(msgspec.Struct, frozen=True):
    """A reference as written in the file: a label, a name, or an ID of a resource of `kind`."""

    kind: str
    text: str
    prefix: str = ""


class Desired(msgspec.Struct, frozen=True):
    """A desired resource. `config` is the API's config, as far as the file states it, with `NamedReference` in place of
    IDs. `tags` is None if the file does not mention tags. `chosen` means that the file itself states the identity."""

    kind: str
    label: str
    identity: str
    chosen: bool
    config: dict[str, Any]
    tags: dict[str, str] | None = None
    rotation_days: int = 0

    @property
    def path(self) -> Path:
        return (self.kind, self.label)


class Setup(msgspec.Struct, frozen=True):
    owner: str
    desired: tuple[Desired, ...] = ()


def mark(owner: str) -> str:
    return f"(keyfront {owner})"


def owner_of(comment: str) -> str:
    """Return the owner that a comment names; empty if it names none."""
    found = _MARK.search(comment)
    return found[1] if found else ""


def setup(document: Document, load: Load) -> Setup:
    """Return the resources that `document` declares, in the order in which they can be created.

    :param load: returns the bytes of a file for the path that the document gives.
    :raises DeclarationError: with every fault that can be found without calling the API.
    """
    faults = Faults(document.file, document.places)
    reader = _Reader(document, faults, Words(faults, load))
    desired = [
        reader.desired(row, label, table)
        for row in ROWS.values()
        for label, table in document.tables.get(row.name, {}).items()
    ]
    faults.check()
    for row in ROWS.values():
        seen: dict[str, str] = {}
        for each in (d for d in desired if d.kind == row.name):
            if each.identity in seen:
                faults.add(each.path, f"has the same {row.identity} as {seen[each.identity]}")
            seen.setdefault(each.identity, each.label)
    faults.check()
    return Setup(owner=document.owner, desired=tuple(desired))


class _Reader:
    def __init__(self, document: Document, faults: Faults, words: Words) -> None:
        self._owner = document.owner
        self._faults = faults
        self._words = words

    def desired(self, row: Row, label: str, table: Any) -> Desired:
        path: Path = (row.name, label)
        if not _LABEL.fullmatch(label):
            self._faults.add(path, "a label is up to 64 letters, digits, hyphens and underscores")
        if not isinstance(table, dict):
            self._faults.add(path, "must be a table")
            table = {}
        ours = {key: value for key, value in table.items() if key[:1].islower()}
        stated = {key: value for key, value in table.items() if key not in ours}
        tags = self._tags(stated.pop("Tags"), (*path, "Tags")) if row.tagged and "Tags" in stated else None
        shape = row.shape
        supplied = {row.identity, row.comment, "CallerReference", "Enabled"}
        config = self._words.api(shape, stated, path, frozenset(supplied))
        known = _OURS.get(row.name, ())
        for key in ours.keys() - set(known):
            self._faults.unknown((*path, key), (*known, *shape.members), f"word for a {row.title}")
        fingerprint = self._public_key(config, path) if row.name == "PublicKey" else ""
        if row.name == alarms.KIND:
            config = alarms.with_namespace(config, self._label_in(ours, path))
        identity = self._identify(row, label, config, fingerprint)
        self._mark_as_ours(row, config, path)
        if "Enabled" in shape.members:
            config.setdefault("Enabled", True)
        for reference in row.refers_to:
            rewrite(config, reference, lambda text, kind, prefix: NamedReference(kind, text, prefix))
        return Desired(
            kind=row.name,
            label=label,
            identity=identity,
            chosen=row.identity in stated,
            config=config,
            tags=tags,
            rotation_days=self._days(ours.get("rotation_days"), path),
        )

    def _identify(self, row: Row, label: str, config: dict[str, Any], fingerprint: str) -> str:
        """Return the value by which the resource is found again. Fills in CallerReference and Name."""
        if row.identity != "CallerReference":
            parts = [*self._owner.split("/"), label, *([fingerprint[:8]] if fingerprint else [])]
            config.setdefault(row.identity, "-".join(parts))
            if row.has_reference:
                config.setdefault("CallerReference", config["Name"])
        else:
            config.setdefault("CallerReference", f"{self._owner}/{label}")
        return str(config[row.identity])

    def _mark_as_ours(self, row: Row, config: dict[str, Any], path: Path) -> None:
        comment = config.get(row.comment, "")
        if not isinstance(comment, str):
            return
        if "(keyfront " in comment:
            self._faults.add((*path, row.comment), "Keyfront itself writes the mark: leave it out")
        config[row.comment] = f"{comment} {mark(self._owner)}".strip()
        if len(config[row.comment]) > row.longest:
            room = row.longest - len(mark(self._owner)) - 1
            self._faults.add(
                (*path, row.comment), f"may have {room} characters here: the mark takes the rest"
            )

    def _public_key(self, config: dict[str, Any], path: Path) -> str:
        """Return the fingerprint, and convert the key to the only form that CloudFront returns."""
        encoded = config.get("EncodedKey")
        if not isinstance(encoded, str) or not encoded:
            return ""  # already reported as a fault
        try:
            key = load_public_key(encoded)
        except KeyLoadError as error:
            self._faults.add((*path, "EncodedKey"), str(error))
            return ""
        config["EncodedKey"] = key.pem
        return key.fingerprint

    def _label_in(self, ours: dict[str, Any], path: Path) -> str | None:
        """The distribution that an alarm names."""
        found = ours.get(alarms.DISTRIBUTION)
        if found is not None and (not isinstance(found, str) or not found):
            self._faults.add((*path, alarms.DISTRIBUTION), "must be the label or the ID of a distribution")
            return None
        return found

    def _days(self, value: Any, path: Path) -> int:
        if value is None:
            return 0
        if type(value) is not int or not 0 <= value <= 36_500:
            self._faults.add((*path, "rotation_days"), "must be a whole number of days, 0 for none")
            return 0
        return value

    def _tags(self, value: Any, path: Path) -> dict[str, str]:
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            self._faults.add(path, 'must be a table of texts, such as { team = "films" }')
            return {}
        return value


def secret_values(setup_: Setup) -> frozenset[str]:
    """Return the values in `setup_` that must not be shown: the headers by which origins recognize their edges."""
    found = set()
    for each in setup_.desired:
        for origin in (each.config.get("Origins") or {}).get("Items") or ():
            for header in (origin.get("CustomHeaders") or {}).get("Items") or ():
                found.add(header["HeaderValue"])
    return frozenset(found - {""})


Rewriter = Callable[[Any, str, str], Any]
"""Called with an ID as written, its kind, and its prefix. The return value replaces it."""


def rewrite(config: dict[str, Any], reference: Reference, new: Rewriter) -> None:
    """Replace, in place, every ID in `config` that `reference` describes."""
    for _, holder, key in references(config, reference):
        text = holder[key]
        if isinstance(text, str):
            text = text.removeprefix(reference.prefix)
        holder[key] = new(text, reference.kind, reference.prefix)


def references(config: dict[str, Any], reference: Reference) -> Iterator[tuple[Path, Any, Any]]:
    """Yield the positions of the IDs in `config`: the path in the file, the dict or list, and the key in it."""
    for path in reference.paths:
        yield from _walk(config, path, ())


def _walk(holder: Any, path: tuple[str, ...], at: Path) -> Iterator[tuple[Path, Any, Any]]:
    key, rest = path[0], path[1:]
    keys: list[Any] = []
    if key == "*":
        keys = list(range(len(holder))) if isinstance(holder, list) else []
    elif isinstance(holder, dict) and holder.get(key):
        keys = [key]
    for each in keys:
        here = at if each == "Items" and at else (*at, each)
        if rest:
            yield from _walk(holder[each], rest, here)
        elif holder[each]:
            yield here, holder, each
