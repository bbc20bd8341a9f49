"""REST-XML both ways, driven by the model. No operation is named here.

    match(method, path, query)      -> which operation, with what stands in its path and query
    read(matched, headers, body)    -> its input as a dict in botocore's shape, checked against the model
    write(operation, output)        -> status, headers and body of a success
    write_error(error, request_id)  -> the same of a failure

What a request may not do, whichever operation it asks for:

1. The path is matched segment by segment as sent, then percent-decoded; an empty segment, `.` and `..` match
   nothing, so that the path acted on is always the path that was signed.
2. A body is at most BODY_LIMIT bytes and ELEMENT_LIMIT elements, DEPTH_LIMIT deep, without DTD or entities,
   in CloudFront's namespace or in none. The order of elements does not matter.
3. An element that the model does not know, or that comes twice where one is expected, is refused and named.
   To skip it in silence would let a misspelt `TrustedKeyGroups` publish what was meant to be private.
4. What the model demands (required members, enums, lengths, ranges, patterns) is checked, and every fault is
   reported at once in the API's own words (cloudfront-semantics §7.1).

An empty element is kept as what it is: an empty string, list or structure. Text keeps its white space.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree.ElementTree import Element, ParseError, TreeBuilder  # values only: defusedxml parses

import msgspec
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import XMLParser

from keyfront.errors import ApiError
from keyfront.model.service import API_VERSION, NAMESPACE, Operation, Shape, service

BODY_LIMIT = 1024 * 1024
DEPTH_LIMIT = 32
ELEMENT_LIMIT = 50_000
FAULT_LIMIT = 20
"""How many faults of one request are spelt out."""

Headers = Iterable[tuple[str, str]]


class Matched(msgspec.Struct, frozen=True):
    """An operation and what the request line said: `labels` from the path, `query` decoded, as ordered."""

    operation: Operation
    labels: dict[str, str]
    query: list[tuple[str, str]]


class Answer(msgspec.Struct, frozen=True):
    """What goes back over the wire, framing and request id aside."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class MethodNotAllowed(ApiError):
    """The path exists, the method does not; `allow` are those that do."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(
            "MethodNotAllowed", "The specified method is not allowed against this resource.", status=405
        )
        self.allow = allow


# ---- from the request line to an operation


def match(method: str, path: str, query: str) -> Matched:
    """The operation that `method`, the raw `path` and the raw `query` ask for.

    If several fit, the one with the most constant parts wins: `POST /distribution?WithTags` is
    CreateDistributionWithTags, not CreateDistribution.

    :raises MethodNotAllowed: if the path is one of the API's, but not with this method.
    :raises ApiError: InvalidURI if the path is none of the API's, or cannot be decoded.
    """
    parts = path.split("/")[1:] if path.startswith("/") else []
    pairs = [_pair(piece) for piece in query.split("&") if piece]
    allow: set[str] = set()
    for operation in _by_length().get(len(parts), ()):
        found = _labels(operation, parts)
        if found is None or not all(constant in pairs for constant in operation.query):
            continue
        if operation.method == method:
            return Matched(operation, found, pairs)
        allow.add(operation.method)
    if allow:
        raise MethodNotAllowed(tuple(sorted(allow)))
    raise ApiError(
        "InvalidURI",
        f"Could not parse the specified URI: it is none of the CloudFront API, version {API_VERSION}.",
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
    """Percent-decoded. A plus sign stays one, as SigV4 reads it (clients send blanks as %20)."""
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeError:
        raise ApiError("InvalidURI", "Could not parse the specified URI: it is not UTF-8.") from None


# ---- from the request to the input


def read(matched: Matched, headers: Headers, body: bytes) -> dict[str, Any]:
    """The input of `matched.operation`, in botocore's shape, complete and valid as far as the model can tell.

    :raises ApiError: InvalidArgument if the path, the query or a header is at fault; MissingBody,
        MalformedInput (not XML at all) or MalformedXML (XML of another shape) if the body is.
    """
    shape = matched.operation.input
    if shape is None:
        return {}
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value.strip(" \t"))
    line, content = Faults(), Faults()
    params: dict[str, Any] = {}
    in_body: dict[str, Shape] = {}
    payload = shape.serialization.get("payload")
    for member, kind in shape.members.items():
        location, name = kind.serialization.get("location"), kind.serialization.get("name", member)
        if location is None:
            if payload in {None, member}:
                in_body[member] = kind
            continue
        values: list[str] = []
        if location == "uri":
            values = [matched.labels[name]]
        elif location == "querystring":
            values = [value for key, value in matched.query if key == name]
        elif location == "header":
            values = [", ".join(fields[name.lower()])] if name.lower() in fields else []
        path = _camel(member)
        if not values:
            if member in shape.required_members:
                line.null(path)
        elif len(values) > 1:
            line.add(path, "Member must be given once", None)
        else:
            params[member] = _scalar(kind, values[0], path, line)
    if line:
        raise ApiError("InvalidArgument", str(line))
    if payload is not None and in_body[payload].type_name != "structure":
        params[payload] = body
    elif in_body:
        params |= _body(matched.operation, in_body, payload, body, content)
        if content:
            raise ApiError("MalformedXML", str(content))
    return params


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
            faults.null(_camel(payload))
        elif payload is None:
            for member in members:
                if member in shape.required_members:
                    faults.null(_camel(member))
        return {}
    root = parse_xml(body)
    expected = shape.serialization.get("name", payload or shape.name)
    found = _local(root)
    if found != expected:
        raise ApiError("MalformedXML", f"The root element must be {expected}, not {found}")
    if payload is None:
        return _structure(shape, members, root, "", faults)
    return {payload: _value(shape, root, _camel(payload), faults)}


# ---- XML to values


class _Tree(TreeBuilder):
    """A tree of limited depth and size."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.size = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self.depth += 1
        self.size += 1
        if self.depth > DEPTH_LIMIT or self.size > ELEMENT_LIMIT:
            raise ParseError("too deep or too many elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self.depth -= 1
        return super().end(tag)


def parse_xml(body: bytes) -> Element:
    """The document that `body` holds.

    :raises ApiError: MalformedInput if it is too long, too deep, not well-formed, or has a DTD.
    """
    if len(body) > BODY_LIMIT:
        raise ApiError("MalformedInput", f"The XML document is longer than {BODY_LIMIT} bytes", status=413)
    parser = XMLParser(target=_Tree(), forbid_dtd=True)
    try:
        parser.feed(body)
        root: Element = parser.close()
    except DefusedXmlException:
        raise ApiError("MalformedInput", "Invalid XML document: a DTD is not allowed") from None
    except (ParseError, ValueError, LookupError) as error:  # the last two: encodings that Python lacks
        raise ApiError("MalformedInput", f"Invalid XML document: {error}") from None
    return root


def _local(node: Element) -> str:
    """The node's name without the namespace, which must be CloudFront's or none."""
    namespace, _, name = node.tag.rpartition("}")
    if namespace not in {"", "{" + NAMESPACE}:
        raise ApiError("MalformedXML", f"The element {name} is in a namespace other than {NAMESPACE}")
    return name


def _value(shape: Shape, node: Element, path: str, faults: Faults) -> Any:
    if shape.type_name == "structure":
        return _structure(shape, shape.members, node, path, faults)
    if shape.type_name == "list":
        children = list(node)
        name = shape.member.serialization.get("name", "member")
        for child in children:
            if _local(child) != name:
                faults.add(path, f"Element {_local(child)} is not known here; items are named {name}", None)
        _no_text(node, path, faults)
        return _items(shape, [child for child in children if _local(child) == name], path, faults)
    if len(node):
        faults.add(path, f"Element {_local(node[0])} is not known here", None)
    return _scalar(shape, node.text or "", path, faults)


def _structure(
    shape: Shape, members: Mapping[str, Shape], node: Element, path: str, faults: Faults
) -> dict[str, Any]:
    by_name = {_element_name(kind, member): member for member, kind in members.items()}
    found: dict[str, list[Element]] = {}
    for child in node:
        name = _local(child)
        if name in by_name:
            found.setdefault(by_name[name], []).append(child)
        else:
            faults.add(path, f"Element {name} is not known here", None)
    _no_text(node, path, faults)
    value: dict[str, Any] = {}
    for member, kind in members.items():
        inner = f"{path}.{_camel(member)}" if path else _camel(member)
        nodes = found.get(member)
        if nodes is None:
            if member in shape.required_members:
                faults.null(inner)
        elif _flattened(kind):
            value[member] = _items(kind, nodes, inner, faults)
        elif len(nodes) > 1:
            faults.add(inner, "Member must be given once", None)
        else:
            value[member] = _value(kind, nodes[0], inner, faults)
    if shape.metadata.get("union") and len(found) != 1:
        faults.add(path, "Exactly one member must be set", None)
    return value


def _items(shape: Shape, nodes: list[Element], path: str, faults: Faults) -> list[Any]:
    _length(shape, len(nodes), path, faults, None)
    return [
        _value(shape.member, node, f"{path}.{number}.member", faults) for number, node in enumerate(nodes, 1)
    ]


def _no_text(node: Element, path: str, faults: Faults) -> None:
    texts = [node.text, *(child.tail for child in node)]
    if any(text and text.strip(" \t\r\n") for text in texts):
        faults.add(path, "Member must not hold text", None)


def _flattened(shape: Shape) -> bool:
    return bool(shape.type_name == "list" and shape.serialization.get("flattened"))


def _element_name(shape: Shape, member: str) -> str:
    """What a member of a structure is called in XML; a flattened list goes by the name of its items."""
    name = shape.serialization.get("name", member)
    return str(shape.member.serialization.get("name", name) if _flattened(shape) else name)


# ---- scalars

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_BITS = {"integer": 31, "long": 63}


def _scalar(shape: Shape, text: str, path: str, faults: Faults) -> Any:
    """The value of `text`; a fault, and `text` itself, if it is none of the shape's."""
    value: Any = text
    kind, trimmed = shape.type_name, text.strip(" \t\r\n")
    # A secret is not repeated, not even to the one who sent it.
    shown = None if shape.metadata.get("sensitive") else text
    if kind == "boolean":
        if trimmed not in _BOOLEANS:
            faults.add(path, "Member must be true or false", shown)
        return _BOOLEANS.get(trimmed, text)
    if kind in _BITS:
        number = int(trimmed) if _INTEGER.fullmatch(trimmed) else None
        if number is None or not -(1 << _BITS[kind]) <= number < 1 << _BITS[kind]:
            faults.add(
                path, f"Member must be {'an integer' if kind == 'integer' else 'a long integer'}", shown
            )
            return text
        return _in_range(shape, number, path, faults, shown)
    if kind in {"float", "double"}:
        value = float(trimmed) if _NUMBER.fullmatch(trimmed) else math.inf
        if not math.isfinite(value):
            faults.add(path, "Member must be a number", shown)
            return text
        return _in_range(shape, value, path, faults, shown)
    if kind == "blob":
        try:
            value = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            faults.add(path, "Member must be base64", None)
            return text
        shown = None
    elif kind == "timestamp":
        try:
            value = datetime.fromisoformat(trimmed)
        except ValueError:
            faults.add(path, "Member must be an ISO 8601 timestamp", shown)
            return text
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    elif shape.enum and text not in shape.enum:
        faults.add(path, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]", shown)
        return value
    _length(shape, len(value), path, faults, shown)
    pattern = shape.metadata.get("pattern")
    if pattern is not None and not _compiled(pattern).fullmatch(value):
        faults.add(path, f"Member must satisfy regular expression pattern: {pattern}", shown)
    return value


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _in_range(shape: Shape, number: float, path: str, faults: Faults, shown: str | None) -> float:
    low, high = shape.metadata.get("min", -math.inf), shape.metadata.get("max", math.inf)
    if number < low:
        faults.add(path, f"Member must have value greater than or equal to {low}", shown)
    elif number > high:
        faults.add(path, f"Member must have value less than or equal to {high}", shown)
    return number


def _length(shape: Shape, length: int, path: str, faults: Faults, shown: str | None) -> None:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and length < low:
        faults.add(path, f"Member must have length greater than or equal to {low}", shown)
    elif high is not None and length > high:
        faults.add(path, f"Member must have length less than or equal to {high}", shown)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    r"""The model's patterns are Java's; Python's `\w` is letters, numbers (Unicode's) and the underscore."""
    separators = " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    return re.compile(pattern.replace(r"\p{L}", r"\w").replace(r"\p{N}", r"\w").replace(r"\p{Z}", separators))


def _camel(member: str) -> str:
    return member[:1].lower() + member[1:]


class Faults:
    """What is wrong with one request, in the order found."""

    def __init__(self) -> None:
        self._count = 0
        self._texts: list[str] = []

    def add(self, path: str, rule: str, value: str | None) -> None:
        """The member at `path` breaks `rule`; its `value` is shown if given."""
        shown = "" if value is None else f" '{value if len(value) <= 256 else value[:256] + '…'}'"
        self._keep(f"Value{shown} at '{path}' failed to satisfy constraint: {rule}")

    def null(self, path: str) -> None:
        """The member at `path` is missing."""
        self._keep(f"Value null at '{path}' failed to satisfy constraint: Member must not be null")

    def _keep(self, text: str) -> None:
        self._count += 1
        if self._count <= FAULT_LIMIT:
            self._texts.append(text)

    def __bool__(self) -> bool:
        return self._count > 0

    def __str__(self) -> str:
        plural = "s" if self._count > 1 else ""
        return f"{self._count} validation error{plural} detected: " + "; ".join(self._texts)


# ---- from the output to the answer

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DECLARATION = '<?xml version="1.0"?>\n'
_TYPE = ("Content-Type", "text/xml")


def write(operation: Operation, output: Mapping[str, Any]) -> Answer:
    """A success: `output` is in botocore's output shape; members that are None count as absent.

    :raises KeyError: if `output` has a member that the model lacks: our fault, not the caller's.
    """
    shape = operation.output
    if shape is None:
        return Answer(operation.status, (), b"")
    members = shape.members
    payload = shape.serialization.get("payload")
    headers: list[tuple[str, str]] = []
    content: dict[str, Any] = {}
    for member, value in output.items():
        kind = members[member]
        if value is None:
            continue
        if kind.serialization.get("location") == "header":
            headers.append((kind.serialization.get("name", member), _header_text(_text(kind, value))))
        elif payload in {None, member}:
            content[member] = value
        else:
            raise KeyError(f"{operation.name} has no place for {member}")
    if not content:
        return Answer(operation.status, tuple(headers), b"")
    if payload is not None and members[payload].type_name == "blob":
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("Content-Type", "application/octet-stream"))
        return Answer(operation.status, tuple(headers), content[payload])
    out = [_DECLARATION]
    if payload is None:
        _write(shape, content, shape.name, out, f' xmlns="{NAMESPACE}"')
    else:
        _write(members[payload], content[payload], members[payload].name, out, f' xmlns="{NAMESPACE}"')
    return Answer(operation.status, (*headers, _TYPE), "".join(out).encode())


def write_error(error: ApiError, request_id: str) -> Answer:
    """The error envelope (cloudfront-semantics §7.1)."""
    kind = "Sender" if error.status < 500 else "Receiver"
    body = (
        f'{_DECLARATION}<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>{kind}</Type>'
        f"<Code>{_escaped(error.code)}</Code><Message>{_escaped(error.message)}</Message></Error>"
        f"<RequestId>{_escaped(request_id)}</RequestId></ErrorResponse>"
    )
    allow = (("Allow", ", ".join(error.allow)),) if isinstance(error, MethodNotAllowed) else ()
    return Answer(error.status, (_TYPE, *allow), body.encode())


def _write(shape: Shape, value: Any, name: str, out: list[str], attributes: str = "") -> None:
    if _flattened(shape):
        for item in value:
            _write(shape.member, item, name, out)
        return
    out.append(f"<{name}{attributes}>")
    if shape.type_name == "structure":
        unknown = value.keys() - shape.members.keys()
        if unknown:
            raise KeyError(f"{shape.name} has no {', '.join(sorted(unknown))}")
        for member, kind in shape.members.items():
            inner = value.get(member)
            if inner is not None and "location" not in kind.serialization:
                _write(kind, inner, _element_name(kind, member), out)
    elif shape.type_name == "list":
        item_name = shape.member.serialization.get("name", "member")
        for item in value:
            _write(shape.member, item, item_name, out)
    else:
        out.append(_escaped(_text(shape, value)))
    out.append(f"</{name}>")


_TEXT: dict[str, Callable[[Any], str]] = {
    "boolean": lambda value: "true" if value else "false",
    "blob": lambda value: base64.b64encode(value).decode(),
    "timestamp": lambda value: (
        value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    ),
}


def _text(shape: Shape, value: Any) -> str:
    return _TEXT.get(shape.type_name, str)(value)


def _escaped(text: str) -> str:
    """`text` for XML: a carriage return survives as a reference, what XML cannot say becomes U+FFFD."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")
    return _ILLEGAL.sub("\ufffd", text)


def _header_text(text: str) -> str:
    if any(character < " " or character > "~" for character in text):
        raise ValueError("a header's value must be printable ASCII")
    return text
