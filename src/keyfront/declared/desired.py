"""What a file wants there to be: a config of the API for each table, with names where ids will stand.

Whose a resource is, its comment says: it ends with a mark, `(keyfront media/prod)`. Every kind has a comment, lists
return it, and it is written in the same call as the rest; tags only distributions have (decision 0016).

What the file leaves out:
- `Name` is `<set-up>-<environment>-<label>`, and for a public key the first 8 hex digits of its SHA-256 after it. So
  another key under the same label is another resource, which is what CloudFront wants: a key never changes.
- `CallerReference` is the name, and `<set-up>/<environment>/<label>` where there is no name.
- `Comment` is the mark alone; a distribution's `Enabled` is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from keyfront.declared.document import Document
from keyfront.declared.locations import Path
from keyfront.declared.problems import Faults
from keyfront.declared.resources import ROWS, Row
from keyfront.declared.translate import Load, Words
from keyfront.errors import KeyLoadError
from keyfront.model.kinds import Reference
from keyfront.model.service import Shape, service
from keyfront.signing.keys import load_public_key

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MARK = re.compile(r"(?:^|\s)\(keyfront ([^()\s]+)\)$")
_OURS = ("rotation_days",)


class Said(msgspec.Struct, frozen=True):
    """A reference as the file has it: a label, a name or an id, of a resource of `kind`."""

    kind: str
    text: str
    prefix: str = ""


class Desired(msgspec.Struct, frozen=True):
    """A resource that there shall be. `config` is the API's, as far as the file says it, with `Said` for ids.
    `tags` are None if the file says nothing of them. `chosen`: the file itself says the identity."""

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
    """Whose a resource with this comment is; empty if nobody's."""
    found = _MARK.search(comment)
    return found[1] if found else ""


def setup(document: Document, load: Load) -> Setup:
    """The resources that `document` declares, in the order in which they can be made.

    :param load: the bytes of a file by the path that the document gives.
    :raises DeclarationError: with every fault that shows without asking the API.
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
        said = {key: value for key, value in table.items() if key not in ours}
        tags = self._tags(said.pop("Tags"), (*path, "Tags")) if row.tagged and "Tags" in said else None
        shape: Shape = service().operations[f"Create{row.name}"].input.members[row.config]
        supplied = {row.identity, row.comment, "CallerReference", "Enabled"}
        config = self._words.api(shape, said, path, frozenset(supplied))
        known = _OURS if row.name == "PublicKey" else ()
        for key in ours.keys() - set(known):
            self._faults.unknown((*path, key), (*known, *shape.members), f"word for a {row.title}")
        fingerprint = self._public_key(config, path) if row.name == "PublicKey" else ""
        identity = self._identify(row, label, config, fingerprint)
        self._say_whose(row, config, path)
        if "Enabled" in shape.members:
            config.setdefault("Enabled", True)
        for reference in row.refers_to:
            rewrite(config, reference, lambda text, kind, prefix: Said(kind, text, prefix))
        return Desired(
            kind=row.name,
            label=label,
            identity=identity,
            chosen=row.identity in said,
            config=config,
            tags=tags,
            rotation_days=self._days(ours.get("rotation_days"), path),
        )

    def _identify(self, row: Row, label: str, config: dict[str, Any], fingerprint: str) -> str:
        """The value by which it is found again; CallerReference and Name are filled in."""
        if row.identity == "Name":
            parts = [*self._owner.split("/"), label, *([fingerprint[:8]] if fingerprint else [])]
            config.setdefault("Name", "-".join(parts))
            if row.has_reference:
                config.setdefault("CallerReference", config["Name"])
        else:
            config.setdefault("CallerReference", f"{self._owner}/{label}")
        return str(config[row.identity])

    def _say_whose(self, row: Row, config: dict[str, Any], path: Path) -> None:
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
        """The fingerprint; the key is put into the one form that CloudFront returns."""
        encoded = config.get("EncodedKey")
        if not isinstance(encoded, str) or not encoded:
            return ""  # a fault already
        try:
            key = load_public_key(encoded)
        except KeyLoadError as error:
            self._faults.add((*path, "EncodedKey"), str(error))
            return ""
        config["EncodedKey"] = key.pem
        return key.fingerprint

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
    """What `setup_` says that nobody may be shown: the headers by which origins know their edges."""
    found = set()
    for each in setup_.desired:
        for origin in (each.config.get("Origins") or {}).get("Items") or ():
            for header in (origin.get("CustomHeaders") or {}).get("Items") or ():
                found.add(header["HeaderValue"])
    return frozenset(found - {""})


Rewriter = Callable[[Any, str, str], Any]
"""Called with an id as it stands there, the kind that it is of, and its prefix; what it returns takes its place."""


def rewrite(config: dict[str, Any], reference: Reference, new: Rewriter) -> None:
    """Replace, in place, every id of `config` that `reference` speaks of."""
    for _, holder, key in references(config, reference):
        text = holder[key]
        if isinstance(text, str):
            text = text.removeprefix(reference.prefix)
        holder[key] = new(text, reference.kind, reference.prefix)


def references(config: dict[str, Any], reference: Reference) -> Iterator[tuple[Path, Any, Any]]:
    """Where in `config` the ids stand: the path as the file has it, the dict or list, and the key in it."""
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
