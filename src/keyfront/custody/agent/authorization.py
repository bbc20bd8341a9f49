"""Authorization of the agent's callers: rules for what each may have signed, and a strict policy parser."""

from __future__ import annotations

import hashlib
import hmac
import json
import tomllib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from keyfront.errors import CustodyError, PolicyError
from keyfront.signing.bounds import Bounds
from keyfront.signing.policy import Statement, parse_policy


class Caller(msgspec.Struct, frozen=True):
    """A caller: a process identified by the kernel (`uid`, `gids`, `pid`), or the holder of the token called
    `token`."""

    uid: int | None = None
    gids: frozenset[int] = frozenset()
    pid: int = 0
    token: str = ""

    def __str__(self) -> str:
        return f"token:{self.token}" if self.token else f"uid:{self.uid}"


class Rule(msgspec.Struct, frozen=True):
    """One permission: a caller with the user ID `uid`, in the group `gid`, or with the token `token` (exactly one is
    set) may sign for `key_groups` (None: all) policies that grant nothing beyond one of `bounds` (none: anything)."""

    uid: int | None = None
    gid: int | None = None
    token: str = ""
    key_groups: frozenset[str] | None = None
    bounds: tuple[Bounds, ...] = ()

    def meets(self, caller: Caller) -> bool:
        if self.token:
            return self.token == caller.token
        if self.uid is not None:
            return self.uid == caller.uid
        return self.gid in caller.gids


class Rules:
    """All rules. What no rule grants is refused."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules

    def for_group(self, caller: Caller, key_group: str) -> tuple[Rule, ...]:
        """Return the rules under which `caller` may sign for `key_group`."""
        return tuple(
            rule
            for rule in self._rules
            if rule.meets(caller) and (rule.key_groups is None or key_group in rule.key_groups)
        )

    @property
    def tokens(self) -> frozenset[str]:
        """The names of the tokens that rules use."""
        return frozenset(rule.token for rule in self._rules if rule.token)


def granted(rules: tuple[Rule, ...], statement: Statement) -> bool:
    """Whether one of `rules` allows what `statement` grants."""
    return any(not rule.bounds or any(one.hold(statement.resource) for one in rule.bounds) for rule in rules)


def read_policy(data: bytes) -> Statement:
    """Parse a policy that every parser reads alike: it contains no duplicate members, and none that policies do not
    define.

    Parsers differ in which of two members with the same name counts, and in which members they ignore. For such a
    policy, what is checked here might not be what it grants elsewhere.

    :raises PolicyError: if `data` is not such a policy.
    """
    statement = parse_policy(data)
    try:
        document = json.loads(data.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the policy cannot be read: {error}") from error
    _known(document, _SHAPE, "the policy")
    return statement


_SHAPE: dict[str, Any] = {
    "Statement": {
        "Resource": None,
        "Condition": {
            "DateLessThan": {"AWS:EpochTime": None},
            "DateGreaterThan": {"AWS:EpochTime": None},
            "IpAddress": {"AWS:SourceIp": None},
        },
    }
}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it names a member twice")
    return found


def _known(value: Any, shape: dict[str, Any], where: str) -> None:
    for member in value if isinstance(value, list) else (value,):
        for name, inner in member.items():
            if name not in shape:
                raise PolicyError(f"{name[:60]!r} has no place in {where}")
            if shape[name] is not None:
                _known(inner, shape[name], name)


# ------------------------------------------------------------------------------------------------------------
# Parsing the operators' rules


class _Allowed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: str | int | None = None
    group: str | int | None = None
    token: str | None = None
    key_groups: list[str] = []
    resources: list[str] = []


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    allow: list[_Allowed]


class Names(NamedTuple):
    """Looks up the ID of a local user or group by its name; returns None if there is none."""

    user: Callable[[str], int | None]
    group: Callable[[str], int | None]


def read_rules(text: str, names: Names) -> tuple[Rule, ...]:
    """Parse the rules of an access file: TOML with an `[[allow]]` table per rule, each with `user`, `group`, or
    `token`; `key_groups` (`"*"` for all); and `resources`, patterns beyond which nothing may be granted.

    :raises CustodyError: if the file is invalid; the message names the rule.
    """
    try:
        document = msgspec.convert(tomllib.loads(text), _Document)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CustodyError(f"the access file cannot be read: {error}") from error
    return tuple(_rule(allowed, names, f"rule {at}") for at, allowed in enumerate(document.allow, 1))


def read_rule(text: str, names: Names) -> Rule:
    """Parse a rule from the command line: `user:NAME=KEY_GROUP,…`, `group:NAME=…` or `token:NAME=…`; `*` means every
    key group.

    :raises CustodyError: if the rule is invalid.
    """
    who, equals, groups = text.partition("=")
    kind, colon, name = who.partition(":")
    if not (equals and colon and name and kind in ("user", "group", "token")):
        raise CustodyError(f"{text!r} is not a rule: user:NAME=KEY_GROUP,… or group:NAME=… or token:NAME=…")
    return _rule(_Allowed(**{kind: name}, key_groups=groups.split(",")), names, repr(text))  # type: ignore[arg-type]


def _rule(allowed: _Allowed, names: Names, where: str) -> Rule:
    if sum(who is not None for who in (allowed.user, allowed.group, allowed.token)) != 1:
        raise CustodyError(f"{where} is for a user, a group or a token: name one of them")
    if not allowed.key_groups or not all(allowed.key_groups):
        raise CustodyError(f'{where} names no key_groups; "*" is every one')
    if allowed.token == "":
        raise CustodyError(f"{where} names no token")
    key_groups = None if "*" in allowed.key_groups else frozenset(allowed.key_groups)
    try:
        bounds = tuple(map(Bounds, allowed.resources))
    except PolicyError as error:
        raise CustodyError(f"{where}: {error}") from error
    return Rule(
        uid=None if allowed.user is None else _id(allowed.user, names.user, f"{where}: user"),
        gid=None if allowed.group is None else _id(allowed.group, names.group, f"{where}: group"),
        token=allowed.token or "",
        key_groups=key_groups,
        bounds=bounds,
    )


def _id(name: str | int, named: Callable[[str], int | None], where: str) -> int:
    number = int(name) if isinstance(name, int) or (name.isascii() and name.isdigit()) else named(name)
    if number is not None and 0 <= number < 2**32 - 1:
        return number
    raise CustodyError(f"{where} {name!r} is not known here, and is not a number")


class Tokens:
    """The tokens that the agent accepts, by name. Only their digests are stored."""

    def __init__(self, text: str) -> None:
        """`text` has a line `NAME TOKEN` for each token; lines that begin with # are skipped.

        :raises CustodyError: if there is no token, or one that can be guessed.
        """
        self._digests: dict[str, bytes] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2 or words[0] in self._digests:
                raise CustodyError(f"line {number} of the tokens is not NAME TOKEN with a name of its own")
            if len(words[1]) < _SHORTEST or not words[1].isascii():
                raise CustodyError(
                    f"the token {words[0]!r} can be guessed: it has to have {_SHORTEST} characters at least, "
                    "such as `openssl rand -hex 32` prints"
                )
            self._digests[words[0]] = _digest(words[1])
        if not self._digests:
            raise CustodyError("the file of tokens holds none: a line NAME TOKEN for each caller")

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._digests)

    def holder(self, authorization: str) -> Caller | None:
        """Return the caller that an Authorization header identifies, or None if the token is unknown."""
        scheme, _, token = authorization.partition(" ")
        shown = _digest(token.strip())
        found = ""
        for name, digest in self._digests.items():  # compare all, so that timing reveals nothing
            if hmac.compare_digest(digest, shown):
                found = name
        return Caller(token=found) if found and scheme.lower() == "bearer" else None


_SHORTEST = 32


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
