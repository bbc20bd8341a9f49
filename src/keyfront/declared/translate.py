"""The translation of a file's values to the API's: the same members, without the boilerplate.

- A list that the API counts (`{Quantity, Items}`) is a plain list here: `Aliases = ["media.example.com"]`. Where
  the object holds more than the list (`AllowedMethods`, `GeoRestriction`), it is a table with `Items`, or a list if
  that is sufficient. `Enabled` beside a list (`TrustedKeyGroups`) is true exactly if something is listed, unless the
  file says otherwise.
- `{ file = "…" }` in place of a text is the content of that file, which is beside the declaration; the line break at
  its end is dropped.

The members and their types come from botocore's description of the API; nothing is repeated here. A member that it
does not define is refused: a misspelled `TrustedKeyGroups` must not publish what was meant to be private.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keyfront.declared.locations import Path
from keyfront.declared.problems import Faults, nearest
from keyfront.model.shapes import Shape

Load = Callable[[str], bytes]
"""Returns the bytes of a file for its path as the declaration gives it; raises OSError."""

_WANTED: dict[str, tuple[type | tuple[type, ...], str]] = {
    "string": (str, "a text"),
    "boolean": (bool, "true or false"),
    "integer": (int, "a whole number"),
    "long": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "double": ((int, float), "a number"),
}
_SUPPLIED = ("OriginAccessIdentity",)
"""Members that the API requires although they carry no information: with origin access control, or none, it is
empty."""

LARGEST = 1 << 20
"""Maximum bytes of a file that a declaration includes."""


class Words:
    """Translates one file. All faults go to `faults`; if there are any, the result is not usable."""

    def __init__(self, faults: Faults, load: Load) -> None:
        self._faults = faults
        self._load = load

    def api(self, shape: Shape, value: Any, path: Path, supplied: frozenset[str] = frozenset()) -> Any:
        """Return `value` in the API's form. `supplied` members may be missing: the caller adds them."""
        if shape.type_name == "structure":
            return self._structure(shape, value, path, supplied)
        if shape.type_name == "list":
            return self._list(shape, value, path)
        if shape.type_name == "string" and isinstance(value, dict):
            value = self.text_of(value, path)
        wanted, name = _WANTED.get(shape.type_name, ((), "left out: a file cannot express it"))
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            quoted = f', such as "{value}"' if wanted is str and type(value) is int else ""
            self._faults.add(path, f"must be {name}{quoted}")
        elif shape.enum and value not in shape.enum:
            self._faults.add(path, f"must be one of {', '.join(shape.enum)}{_meant(str(value), shape.enum)}")
        return value

    def _structure(self, shape: Shape, value: Any, path: Path, supplied: frozenset[str]) -> Any:
        counted = "Items" in shape.members and "Quantity" in shape.members
        if counted and isinstance(value, list):
            value = {"Items": value}
        if not isinstance(value, dict):
            self._faults.add(path, "must be a list" if counted else "must be a table")
            return {}
        found: dict[str, Any] = {}
        for member, inner in value.items():
            if member not in shape.members:
                self._faults.unknown((*path, member), shape.members, f"member of {shape.name}")
            elif counted and member == "Quantity":
                self._faults.add((*path, member), "leave it out: Keyfront counts")
            else:
                at = (*path, member) if not counted or member != "Items" else path
                found[member] = self.api(shape.members[member], inner, at)
        if counted:
            items = found.pop("Items", [])
            found["Quantity"] = len(items)
            if items:
                found["Items"] = items
            elif "Items" in shape.required_members:
                self._faults.add(path, "must list something")
            if "Enabled" in shape.members:
                found.setdefault("Enabled", bool(items))
        for member in shape.required_members:
            if (
                member in found
                or member in supplied
                or member in _SUPPLIED
                or (counted and member == "Items")
            ):
                continue
            self._faults.add(path, f"{member} is missing")
        return found

    def _list(self, shape: Shape, value: Any, path: Path) -> list[Any]:
        if not isinstance(value, list):
            self._faults.add(path, "must be a list")
            return []
        return [self.api(shape.member, inner, (*path, at)) for at, inner in enumerate(value)]

    def text_of(self, value: Mapping[str, Any], path: Path) -> str:
        """Return the text of the file that `{ file = "…" }` names."""
        if set(value) != {"file"} or not isinstance(value["file"], str):
            self._faults.add(path, 'must be a text, or { file = "…" }')
            return ""
        try:
            data = self._load(value["file"])
            if len(data) > LARGEST:
                raise ValueError("larger than 1 MiB")
            return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            self._faults.add(path, f"{value['file']} is not UTF-8 text")
        except OSError as error:
            self._faults.add(path, f"{value['file']}: {error.strerror or 'cannot be read'}")
        except ValueError as error:
            self._faults.add(path, f"{value['file']}: {error}")
        return ""


def _meant(value: str, known: list[str]) -> str:
    return found if (found := nearest(value, known)).startswith(": did") else ""
