"""What an operation of Keyfront's own is, and how a request finds it. Pure.

An operation has a method, a path below `/keyfront/`, an IAM action `keyfront:NAME`, and a function. Paths have segments
in braces, which become parameters: `/keyfront/2026-11-22/sessions/{Id}`. Further parameters come from the query of a
GET, or from the JSON object in the body of a POST.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from keyfront.control.call import Call
from keyfront.errors import ApiError

PREFIX = "/keyfront/"
SOURCE = "keyfront"
"""The operations' source (CloudTrail's eventSource) in the audit log."""
LONGEST_VALUE = 2048
"""Characters in the value of a parameter."""

_any_object = msgspec.json.Decoder(dict[str, Any])


class OwnOperation(msgspec.Struct, frozen=True):
    """An operation.

    :param path: with parameters in braces.
    :param run: gets the authorized call and returns what is sent as JSON.
    :param members: the names of further parameters, each a text or a boolean.
    :param longest: characters in the value of a parameter.
    :param secret: parameters whose values are credentials, which the audit log does not get.
    :param resource: returns the ARN that policies are evaluated with; by default the operation has no resource.
    """

    name: str
    method: str
    path: str
    run: Callable[[Call], Any]
    members: tuple[str, ...] = ()
    resource: Callable[[Call], str] = lambda _: "*"
    longest: int = LONGEST_VALUE
    secret: frozenset[str] = frozenset()

    def path_parameters(self, path: str) -> dict[str, str] | None:
        """The parameters in `path`, as sent; None if it is another operation's."""
        ours, given = self.path.split("/"), path.split("/")
        if len(ours) != len(given):
            return None
        found: dict[str, str] = {}
        for expected, segment in zip(ours, given, strict=True):
            if expected.startswith("{"):
                found[expected[1:-1]] = unquote(segment)
                if not segment:
                    return None
            elif expected != segment:
                return None
        return found

    def further_parameters(self, query: str, body: bytes) -> dict[str, str | bool]:
        """The parameters in the query of a GET, or in the JSON object in the body of another method.

        :raises ApiError: InvalidArgument.
        """
        if self.method == "GET":
            pairs: Mapping[str, Any] = _query(self.name, query)
        else:
            pairs = _object(self.name, body) if body else {}
        for name, value in pairs.items():
            if name not in self.members:
                raise ApiError("InvalidArgument", f"{self.name} has no parameter {name[:100]}.")
            if not isinstance(value, str | bool) or (isinstance(value, str) and len(value) > self.longest):
                raise ApiError(
                    "InvalidArgument",
                    f"The parameter {name} must be a boolean, or a text of at most {self.longest} characters.",
                )
        return dict(pairs)


def _query(operation: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError:
        raise ApiError("InvalidArgument", f"The query of {operation} cannot be read.") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name.lower().startswith("x-amz-"):
            continue
        if name in found:
            raise ApiError("InvalidArgument", f"The parameter {name[:100]} must not be repeated.")
        found[name] = value
    return found


def _object(operation: str, body: bytes) -> dict[str, Any]:
    try:
        return _any_object.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ApiError("InvalidArgument", f"The body of {operation} must be a JSON object.") from None


class Found(msgspec.Struct, frozen=True):
    """The operation of a request, and its parameters in the path."""

    operation: OwnOperation
    parameters: dict[str, str]


def find(operations: Iterable[OwnOperation], method: str, path: str) -> Found | tuple[str, ...]:
    """The operation at this path; if it has others only, their methods; empty if there are none."""
    allow = []
    for operation in operations:
        parameters = operation.path_parameters(path)
        if parameters is None:
            continue
        if method == operation.method or (method == "HEAD" and operation.method == "GET"):
            return Found(operation, parameters)
        allow.append(operation.method)
    return tuple(allow)
