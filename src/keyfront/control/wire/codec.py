"""The REST-XML codec, driven by the model. It names no operation.

    match(method, path, query)      -> the operation, with the parameters in its path and query
    read(matched, headers, body)    -> its input as a dict in botocore's shape, checked against the model
    write(operation, output)        -> status, headers, and body of a success
    write_error(error, request_id)  -> the same for a failure

Rules for every request:

1. The path is matched segment by segment as sent, then percent-decoded. Empty segments, `.`, and `..` match nothing, so
   the path acted on is always the path that was signed.
2. A body is limited in bytes, elements, and depth (xml_body.py), has no DTD or entities, and is in CloudFront's
   namespace or in none. The order of elements does not matter.
3. An element that the model does not know is refused by name, unless it requests nothing. Ignoring it would let a
   misspelled `TrustedKeyGroups` publish private content. A newer client's `<Feature><Enabled>false…` requests nothing
   and is ignored. An element that is repeated where one is expected is refused, too.
4. The model's constraints (required members, enums, lengths, ranges, patterns) are checked, and all faults are reported
   at once, worded like the API's own messages (cloudfront-semantics §7.1).

An empty element stays what it is: an empty string, list, or structure. Text keeps its white space.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from keyfront.control.wire import xml_body
from keyfront.control.wire.scalars import FAULT_LIMIT, Faults, camel, parse_scalar, scalar_text
from keyfront.errors import ApiError
from keyfront.model.service import API_VERSION, NAMESPACE, Operation, service
from keyfront.model.shapes import Shape
from keyfront.model.supported_members import unobeyed

Headers = Iterable[tuple[str, str]]


class Matched(msgspec.Struct, frozen=True):
    """An operation with the parameters of the request line: `labels` from the path, and the decoded `query` in
    order."""

    operation: Operation
    labels: dict[str, str]
    query: list[tuple[str, str]]


class Answer(msgspec.Struct, frozen=True):
    """A response without framing and request id."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class MethodNotAllowed(ApiError):
    """The path exists, but not with this method; `allow` are the methods that it has."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(
            "MethodNotAllowed", "The specified method is not allowed against this resource.", status=405
        )
        self.allow = allow


# ---- from the request line to an operation


def match(method: str, path: str, query: str) -> Matched:
    """The operation of a request line with a raw `path` and a raw `query`.

    If several match, the one with the most constant parts wins: `POST /distribution?WithTags` is
    CreateDistributionWithTags, not CreateDistribution.

    :raises MethodNotAllowed: if the API has the path, but not with this method.
    :raises ApiError: InvalidURI if the API does not have the path, or it cannot be decoded.
    """
    parts = path.split("/")[1:] if path.startswith("/") else []
    pairs = [_pair(piece) for piece in query.split("&") if piece]
    present = set(pairs)
    allow: set[str] = set()
    for operation in _by_length().get(len(parts), ()):
        found = _labels(operation, parts)
        if found is None or not present.issuperset(operation.query):
            continue
        if operation.method == method:
            return Matched(operation, found, pairs)
        allow.add(operation.method)
    if allow:
        raise MethodNotAllowed(tuple(sorted(allow)))
    raise ApiError(
        "InvalidURI",
        f"Could not parse the specified URI: the CloudFront API, version {API_VERSION}, has no such path.",
    )


@functools.cache
def _by_length() -> dict[int, list[Operation]]:
    table: dict[int, list[Operation]] = {}
    for operation in service().operations.values():
        table.setdefault(len(operation.segments), []).append(operation)
    for operations in table.values():
        operations.sort(key=lambda operation: (len(operation.labels), -len(operation.query)))
    return table


def _labels(operation: Operation, parts: list[str]) -> dict[str, str] | None:
    values = []
    for segment, part in zip(operation.segments, parts, strict=True):
        if segment is None:
            if part in {"", ".", ".."}:
                return None
            values.append(_decoded(part))
        elif segment != part:
            return None
    return dict(zip(operation.labels, values, strict=True))


def _pair(piece: str) -> tuple[str, str]:
    name, _, value = piece.partition("=")
    return _decoded(name), _decoded(value)


def _decoded(text: str) -> str:
    """Percent-decoded. A plus sign stays a plus sign, as in SigV4 (clients send spaces as %20)."""
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeError:
        raise ApiError("InvalidURI", "Could not parse the specified URI: it is not UTF-8.") from None


# ---- from the request to the input


def read(matched: Matched, headers: Headers, body: bytes) -> dict[str, Any]:
    """The input of `matched.operation` in botocore's shape, complete and valid as far as the model can tell.

    :raises ApiError: InvalidArgument for a fault in the path, the query, or a header, and for unknown members in the
        body; for other faults of the body MissingBody, MalformedInput (not XML at all), or MalformedXML (XML of another
        shape).
    """
    shape = matched.operation.input
    queried: dict[str, list[str]] = {}
    for name, value in matched.query:
        queried.setdefault(name, []).append(value)
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value.strip(" \t"))
    line, content = Faults(), Faults()
    params: dict[str, Any] = {}
    in_body: dict[str, Shape] = {}
    payload = shape.traits.get("payload")
    for member, kind in shape.members.items():
        location, name = kind.traits.get("location"), kind.traits.get("locationName", member)
        if location is None:
            in_body[member] = kind
            continue
        values: list[str] = []
        if location == "uri":
            values = [matched.labels[name]]
        elif location == "querystring":
            values = queried.get(name, [])
        else:
            values = [", ".join(fields[name.lower()])] if name.lower() in fields else []
        path = camel(member)
        if not values:
            if member in shape.required_members:
                line.null(path)
        elif len(values) > 1:
            line.add(path, "Member must be given once", None)
        else:
            params[member] = parse_scalar(kind, values[0], path, line)
    if line:
        raise ApiError("InvalidArgument", str(line))
    if in_body:
        params |= _body(matched.operation, in_body, payload, body, content)
        if content:
            raise ApiError(content.code, f"{content}{_also_refused(params)}")
    return params


def _also_refused(params: Mapping[str, Any]) -> str:
    """Other members of the configuration that Keyfront refuses regardless of their values, so that one response lists
    everything."""
    config = params.get("DistributionConfig") or params.get("DistributionConfigWithTags")
    if isinstance(config, Mapping) and "DistributionConfig" in config:
        config = config["DistributionConfig"]
    if not isinstance(config, Mapping):
        return ""
    # A number that could not be parsed is reported as a fault already.
    problems = [each for each in unobeyed(config) if each.code != "InconsistentQuantities"]
    named = " ".join(f"({each.code}) {each.message}" for each in problems[:FAULT_LIMIT])
    return f". Also refused: {named}" if problems else ""


def _body(
    operation: Operation, members: dict[str, Shape], payload: str | None, body: bytes, faults: Faults
) -> dict[str, Any]:
    shape = operation.input if payload is None else members[payload]
    required = payload is None or payload in operation.input.required_members
    if not body:
        if required and "MissingBody" in operation.errors:
            raise ApiError(
                "MissingBody",
                "This operation requires a body. Ensure that the body is present "
                "and the Content-Type header is set.",
            )
        if payload is not None and required:
            faults.null(camel(payload))
        elif payload is None:
            for member in members:
                if member in shape.required_members:
                    faults.null(camel(member))
        return {}
    root = xml_body.parse(body)
    expected = shape.traits.get("locationName", payload or shape.name)
    found = xml_body.local(root)
    if found != expected:
        raise ApiError("MalformedXML", f"The root element must be {expected}, not {found}")
    if payload is None:
        return xml_body.structure(shape, members, root, "", faults)
    return {payload: xml_body.read(shape, root, camel(payload), faults)}


# ---- from the output to the response

_TYPE = ("Content-Type", "text/xml")


def write(operation: Operation, output: Mapping[str, Any]) -> Answer:
    """The response of a success. Members of `output` that are None count as absent.

    :param output: in botocore's shape.
    :raises KeyError: if `output` has a member that the model lacks, which is a bug.
    """
    shape = operation.output
    members = shape.members
    payload = shape.traits.get("payload")
    headers: list[tuple[str, str]] = []
    content: dict[str, Any] = {}
    for member, value in output.items():
        kind = members[member]
        if value is None:
            continue
        if kind.traits.get("location") == "header":
            headers.append((kind.traits.get("locationName", member), _header_text(scalar_text(kind, value))))
        else:
            content[member] = value
    if not content:
        return Answer(operation.status, tuple(headers), b"")
    if payload is not None and members[payload].type_name == "blob":
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("Content-Type", "application/octet-stream"))
        return Answer(operation.status, tuple(headers), content[payload])
    out = [xml_body.DECLARATION]
    if payload is None:
        xml_body.write(shape, content, shape.name, out, f' xmlns="{NAMESPACE}"')
    else:
        xml_body.write(
            members[payload], content[payload], members[payload].name, out, f' xmlns="{NAMESPACE}"'
        )
    return Answer(operation.status, (*headers, _TYPE), "".join(out).encode())


def write_error(error: ApiError, request_id: str) -> Answer:
    """The error envelope (cloudfront-semantics §7.1)."""
    kind = "Sender" if error.status < 500 else "Receiver"
    body = (
        f'{xml_body.DECLARATION}<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>{kind}</Type>'
        f"<Code>{xml_body.escaped(error.code)}</Code><Message>{xml_body.escaped(error.message)}</Message></Error>"
        f"<RequestId>{xml_body.escaped(request_id)}</RequestId></ErrorResponse>"
    )
    allow = (("Allow", ", ".join(error.allow)),) if isinstance(error, MethodNotAllowed) else ()
    return Answer(error.status, (_TYPE, *allow), body.encode())


def _header_text(text: str) -> str:
    if any(character < " " or character > "~" for character in text):
        raise ValueError("a header's value must be printable ASCII")
    return text
