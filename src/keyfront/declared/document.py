"""The parser for a file that declares a set-up: its tables for one environment, with variables filled in.

    name = "media"
    [variables]                       a value is the default; a table describes: default, secret, type
    [environments.prod]               values of variables there
    [PublicKey.films]                 a kind, a label, and below it CloudFront's own members

CloudFront's own members begin with a capital letter, Keyfront's with a lowercase one. A variable gets its value from
the last of these that is set: its default, the environment's value, KEYFRONT_VAR_<name> in the process's environment,
`--set name=value`. A text that is exactly `${name}` takes the value with its type; within a longer text, the value must
be a text, a number, or a boolean. `$${` is a literal `${`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from keyfront.declared.locations import Path, Places
from keyfront.declared.problems import Faults, nearest
from keyfront.errors import DeclarationError

PREFIX = "KEYFRONT_VAR_"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SLOT = re.compile(r"\$(\$?)\{([^{}]*)\}")
_BUILT_IN = ("name", "environment")
_TYPES: dict[str, type] = {"string": str, "integer": int, "boolean": bool, "number": float, "list": list}
_SAY = {"string": "a text", "integer": "a whole number", "boolean": "true or false"} | {
    "number": "a number",
    "list": "a list",
}


class Document(msgspec.Struct, frozen=True):
    """`tables` are the file's own, by kind and label. `secrets` are values that must not be shown."""

    file: str
    name: str
    environment: str
    endpoint_url: str
    tables: dict[str, dict[str, Any]]
    secrets: frozenset[str]
    places: Places

    @property
    def owner(self) -> str:
        """The owner of the resources: the set-up in its environment."""
        return f"{self.name}/{self.environment}" if self.environment else self.name


def read(
    text: str,
    file: str,
    *,
    kinds: Iterable[str],
    environment: str = "",
    given: Iterable[str] = (),
    surroundings: Mapping[str, str] | None = None,
    bare: bool = False,
) -> Document:
    """Parse the set-up that `text` declares.

    :param file: the name of the file, for messages.
    :param kinds: the tables that are allowed besides Keyfront's own.
    :param given: `name=value` texts, as given to `--set`.
    :param surroundings: the process's environment; only KEYFRONT_VAR_… variables matter.
    :param bare: read only the identity of the set-up: variables need no value, and there are no tables.
    :raises DeclarationError: that names file, line, table, and key of each fault.
    """
    try:
        top = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"{file}: this is not TOML: {error}") from error
    places = Places(text)
    faults = Faults(file, places)
    kinds = tuple(kinds)
    own = {"name": str, "endpoint_url": str, "variables": dict, "environments": dict}
    for key, value in top.items():
        if key not in own and key not in kinds:
            faults.unknown((key,), (*own, *kinds), "table")
        elif not isinstance(value, own.get(key, dict)):
            faults.add((key,), "must be a text" if own.get(key) is str else "must be a table")
    faults.check()

    name = top.get("name", "")
    if not _NAME.fullmatch(name):
        faults.add(("name",), "a set-up needs a name of up to 32 letters, digits and hyphens")
    values = _environment(top.get("environments", {}), environment, file, faults)
    variables = _Variables(top.get("variables", {}), faults)
    variables.of_environment(values, environment)
    for each, there in top.get("environments", {}).items():
        if each != environment and isinstance(there, dict):
            variables.of_environment(there, each, other=True)
    variables.of_process(surroundings or {}, given)
    variables.built_in({"name": name, "environment": environment})
    faults.check()
    tables = {}
    endpoint = variables.fill(top.get("endpoint_url", ""), ("endpoint_url",))
    if not bare:
        tables = {kind: variables.fill(top[kind], (kind,)) for kind in kinds if kind in top}
    if not isinstance(endpoint, str):
        faults.add(("endpoint_url",), "must be a text")
    faults.check()
    return Document(
        file=file,
        name=name,
        environment=environment,
        endpoint_url=endpoint,
        tables=tables,
        secrets=variables.secrets(),
        places=places,
    )


def _environment(environments: dict[str, Any], chosen: str, file: str, faults: Faults) -> dict[str, Any]:
    for name, values in environments.items():
        if not _NAME.fullmatch(name):
            faults.add(("environments", name), "a name is up to 32 letters, digits and hyphens")
        if not isinstance(values, dict):
            faults.add(("environments", name), "must be a table of variables")
    faults.check()
    if not environments and chosen:
        raise DeclarationError(f"{file}: it has no environments, and --environment {chosen} was asked for")
    if environments and not chosen:
        raise DeclarationError(f"{file}: say which with --environment: {', '.join(environments)}")
    if chosen and chosen not in environments:
        raise DeclarationError(f"{file}: there is no environment {chosen}{nearest(chosen, environments)}")
    return dict(environments.get(chosen, {}))


class _Variables:
    def __init__(self, declared: dict[str, Any], faults: Faults) -> None:
        self._faults = faults
        self._types: dict[str, str] = {}
        self._secret: set[str] = set()
        self._values: dict[str, Any] = {}
        for name, value in declared.items():
            self._declare(name, value)

    def _declare(self, name: str, value: Any) -> None:
        path: Path = ("variables", name)
        if not _VARIABLE.fullmatch(name) or name in _BUILT_IN:
            self._faults.add(path, "a variable cannot have this name")
        described = value if isinstance(value, dict) else {"default": value}
        for key in described.keys() - {"default", "secret", "type"}:
            self._faults.unknown((*path, key), ("default", "secret", "type"), "word for a variable")
        default = described.get("default")
        type_ = described.get("type", _type_of(default) if "default" in described else "string")
        if type_ not in _TYPES:
            self._faults.add(path, f"a variable's type is one of {', '.join(_TYPES)}")
            type_ = "string"
        self._types[name] = type_
        if described.get("secret") is True:
            self._secret.add(name)
            if type_ != "string":
                self._faults.add(path, "a secret is a text")
        elif "secret" in described and described["secret"] is not False:
            self._faults.add((*path, "secret"), "must be true or false")
        if "default" in described:
            self._take(name, default, path)

    def _take(self, name: str, value: Any, path: Path, *, keep: bool = True) -> None:
        wanted = self._types[name]
        if wanted == "number" and type(value) is int:
            value = float(value)
        if type(value) is not _TYPES[wanted]:
            self._faults.add(path, f"must be {_SAY[wanted]}")
        elif keep:
            self._values[name] = value

    def of_environment(self, values: dict[str, Any], environment: str, *, other: bool = False) -> None:
        """`other` means an environment that is not the selected one; it is only checked for mistakes."""
        for name, value in values.items():
            path: Path = ("environments", environment, name)
            if name not in self._types:
                self._faults.unknown(path, self._types, "variable in [variables]")
            else:
                self._take(name, value, path, keep=not other)

    def of_process(self, surroundings: Mapping[str, str], given: Iterable[str]) -> None:
        for variable, text in surroundings.items():
            name = variable.removeprefix(PREFIX)
            if name != variable and name in self._types:  # others may belong to another file
                self._parse(name, text, variable)
        for assignment in given:
            name, equals, text = assignment.partition("=")
            if not equals:
                self._faults.add((), f"--set takes NAME=VALUE, not {name!r}")
            elif name not in self._types:
                self._faults.add((), f"--set {name}: there is no such variable{nearest(name, self._types)}")
            elif name in self._secret:
                self._faults.add(
                    (), f"--set {name}: others on this machine can read a command line; use {PREFIX}{name}"
                )
            else:
                self._parse(name, text, f"--set {name}")

    def _parse(self, name: str, text: str, where: str) -> None:
        value: Any = text
        if self._types[name] != "string":
            try:
                parsed = tomllib.loads(f"value = {text}")
                value = parsed["value"] if len(parsed) == 1 else None
            except tomllib.TOMLDecodeError:
                value = None
        before = self._values.get(name)
        self._values.pop(name, None)
        if self._types[name] == "number" and type(value) is int:
            value = float(value)
        if type(value) is _TYPES[self._types[name]]:
            self._values[name] = value
        else:
            self._values[name] = before
            self._faults.add((), f"{where}: must be {_SAY[self._types[name]]}, as TOML writes it")

    def built_in(self, values: dict[str, str]) -> None:
        self._values |= values
        self._types |= dict.fromkeys(values, "string")

    def secrets(self) -> frozenset[str]:
        return frozenset(self._values[name] for name in self._secret if self._values.get(name))

    def fill(self, value: Any, path: Path) -> Any:
        """Return `value` with each `${name}` in it replaced."""
        if isinstance(value, dict):
            return {key: self.fill(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.fill(inner, (*path, at)) for at, inner in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _SLOT.fullmatch(value)
        if whole and not whole[1]:
            return self._value(whole[2], path)
        return _SLOT.sub(lambda slot: self._text(slot, path), value)

    def _value(self, name: str, path: Path) -> Any:
        if name in self._values:
            return self._values[name]
        if name in self._types:
            self._faults.add(
                path, f"the variable {name} has no value: give it by {PREFIX}{name}"
                + ("" if name in self._secret else f", --set {name}=…")
                + " or a default"
            )  # fmt: skip
        else:
            self._faults.add(path, f"there is no variable {name}{nearest(name, self._types)}")
        return ""

    def _text(self, slot: re.Match[str], path: Path) -> str:
        if slot[1]:
            return slot[0][1:]
        value = self._value(slot[2], path)
        if isinstance(value, list):
            self._faults.add(path, f"the variable {slot[2]} is a list, which cannot stand within a text")
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)


def _type_of(value: Any) -> str:
    return next((name for name, type_ in _TYPES.items() if type(value) is type_), "")
