"""CloudWatch's API on the wire, in the three protocols that its clients speak. Driven by the model; names no operation.

    CBOR    POST /service/GraniteServiceVersion20100801/operation/NAME       boto3 and the AWS CLI, since 2025
    JSON    POST / with X-Amz-Target: GraniteServiceVersion20100801.NAME     SDKs that prefer JSON 1.0
    query   POST / with Action=NAME in a form, answered in XML               Terraform's AWS provider, older SDKs

The request is read in its protocol and checked against the model like CloudFront's (`codec.py`): a member that the
model lacks is refused by name, and all faults are reported at once. The answer, and an error, have the protocol's form.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

import cbor2
import msgspec

from keyfront.control.wire.codec import Answer
from keyfront.control.wire.scalars import Faults, camel, check_length, compiled, parse_scalar, scalar_text
from keyfront.control.wire.xml_body import DECLARATION, DEPTH_LIMIT, ELEMENT_LIMIT, escaped
from keyfront.errors import ApiError
from keyfront.model.cloudwatch import API_VERSION, NAMESPACE, TARGET, Operation, api
from keyfront.model.shapes import Shape

SERVICE: Final = "monitoring"
"""The service in the scope of a signature."""
SOURCE: Final = "monitoring.amazonaws.com"
PREFIX: Final = f"/service/{TARGET}/operation/"

Protocol = Literal["cbor", "json", "query"]


class Matched(msgspec.Struct, frozen=True):
    """An operation that a request names, and the protocol that it speaks."""

    protocol: Protocol
    operation: str


def match(
    method: str, path: str, query: str, headers: Iterable[tuple[str, str]], body: bytes, service: str
) -> Matched | None:
    """What a request asks of CloudWatch; None if it addresses another API.

    :param headers: names in lower case.
    :param service: the service that its signature claims to be for.
    """
    if path.startswith(PREFIX):
        return Matched("cbor", path.removeprefix(PREFIX)[:80])
    target = next((value for name, value in headers if name == "x-amz-target"), "")
    if path == "/" and target.startswith(f"{TARGET}."):
        return Matched("json", target.removeprefix(f"{TARGET}.")[:80])
    if path != "/" or service != SERVICE or method not in ("GET", "POST"):
        return None
    for text in (query, body[: 1 << 16].decode("latin-1")):
        for piece in text.split("&"):
            name, _, value = piece.partition("=")
            if name == "Action":
                return Matched("query", value[:80])
    return Matched("query", "")


def operation_of(matched: Matched) -> Operation:
    """The operation in the model.

    :raises ApiError: InvalidAction if there is no such operation.
    """
    found = api().operations.get(matched.operation)
    if found is None:
        raise ApiError(
            "InvalidAction", f"Could not find operation {matched.operation} for version {API_VERSION}", 400
        )
    return found


# ---- from the request to the input


def read(protocol: Protocol, operation: Operation, query: str, body: bytes) -> dict[str, Any]:
    """The input in botocore's shape.

    :raises ApiError: ValidationError for values that violate the model, InvalidParameterValue for unknown members, or
        SerializationException or MalformedQueryString for a body that cannot be read.
    """
    faults, reader = Faults(), _Reader(texts=protocol == "query")
    value = _parsed(protocol, query, body)
    if not isinstance(value, dict):
        raise ApiError("SerializationException", "The body must be a map.")
    found = reader.structure(operation.input, value, "", faults)
    if faults:
        unknown = faults.code == "InvalidArgument"
        raise ApiError("InvalidParameterValue" if unknown else "ValidationError", str(faults))
    return found


def _parsed(protocol: Protocol, query: str, body: bytes) -> Any:
    if protocol == "query":
        return _tree(query, body)
    if not body:
        return {}
    try:
        if protocol == "json":
            return msgspec.json.decode(body)
        return cbor2.loads(
            body, max_depth=DEPTH_LIMIT, allow_duplicate_keys=False, strict_hashable_types=True
        )
    except (
        msgspec.MsgspecError, cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise ApiError(
            "SerializationException", f"The body cannot be read: {type(error).__name__}."
        ) from None


def _tree(query: str, body: bytes) -> dict[str, Any]:
    """The form's parameters as nested dicts: `Dimensions.member.1.Name=x` is `{Dimensions: {member: {1: {Name: x}}}}`.

    :raises ApiError: MalformedQueryString, MissingAction, or InvalidAction for another version.
    """
    try:
        pairs = [
            *parse_qsl(query, keep_blank_values=True, max_num_fields=ELEMENT_LIMIT),
            *parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=ELEMENT_LIMIT),
        ]
    except ValueError:
        raise ApiError("MalformedQueryString", "The parameters cannot be read.", 404) from None
    root: dict[str, Any] = {}
    for name, value in pairs:
        if name.startswith("X-Amz-"):
            continue
        *path, last = name.split(".")
        place: Any = root
        if len(path) > DEPTH_LIMIT:
            raise ApiError("MalformedQueryString", "A parameter's name has too many parts.", 404)
        for part in path:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last in place:
            raise ApiError("MalformedQueryString", f"The parameter {name[:100]} is repeated.", 404)
        place[last] = value
    if "Action" not in root:
        raise ApiError("MissingAction", "The request must contain the parameter Action.", 400)
    version = root.pop("Version", "")
    if version != API_VERSION:
        raise ApiError(
            "InvalidAction",
            f"Could not find operation {str(root['Action'])[:80]} for version {str(version)[:80] or 'NO_VERSION'}",
            400,
        )
    del root["Action"]
    return root


class _Reader:
    """Turns values as they arrive into those of botocore's shapes.

    :param texts: whether all scalars are texts, and lists are numbered members, as in the query protocol.
    """

    def __init__(self, *, texts: bool) -> None:
        self._texts = texts

    def structure(self, shape: Shape, value: Mapping[Any, Any], path: str, faults: Faults) -> dict[str, Any]:
        members = shape.members
        found: dict[str, Any] = {}
        for name, inner in value.items():
            if name not in members:
                if inner is not None:
                    faults.unknown(path or "the request", str(name)[:100])
            elif inner is not None:
                place = f"{path}.{camel(name)}" if path else camel(name)
                found[name] = self.value(members[name], inner, place, faults)
        for name in shape.required_members:
            if name not in found:
                faults.null(f"{path}.{camel(name)}" if path else camel(name))
        return found

    def value(self, shape: Shape, value: Any, path: str, faults: Faults) -> Any:
        if shape.type_name == "structure":
            return self.structure(shape, self._typed(value, dict, path, faults, {}), path, faults)
        if shape.type_name == "list":
            items = self._numbered(value, path, faults) if self._texts else value
            items = self._typed(items, list, path, faults, [])
            check_length(shape, len(items), path, faults, None)
            return [self.value(shape.member, item, path, faults) for item in items]
        if self._texts:
            return parse_scalar(shape, self._typed(value, str, path, faults, ""), path, faults)
        return self._scalar(shape, value, path, faults)

    @staticmethod
    def _typed(value: Any, kind: type, path: str, faults: Faults, instead: Any) -> Any:
        if isinstance(value, kind):
            return value
        words: dict[object, str] = {dict: "a structure", list: "a list", str: "a single value"}
        faults.add(path, f"Member must be {words[kind]}", None)
        return instead

    @staticmethod
    def _numbered(value: Any, path: str, faults: Faults) -> Any:
        """`{member: {1: a, 2: b}}` as `[a, b]`; an empty text is an empty list."""
        if value == "":
            return []
        members = value.get("member") if isinstance(value, dict) and len(value) == 1 else None
        if not isinstance(members, dict) or not all(key.isdecimal() and len(key) < 7 for key in members):
            faults.add(path, "Member must be a list", None)
            return []
        return [members[key] for key in sorted(members, key=int)]

    @staticmethod
    def _scalar(shape: Shape, value: Any, path: str, faults: Faults) -> Any:
        kind = shape.type_name
        if kind == "timestamp":
            return _moment(value, path, faults)
        if kind in ("double", "float"):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                faults.add(path, "Member must be a number", None)
                return 0.0
            return float(value)
        if kind == "boolean":
            if not isinstance(value, bool):
                faults.add(path, "Member must be true or false", None)
            return value
        if kind in ("integer", "long"):
            if isinstance(value, bool) or not isinstance(value, int):
                faults.add(path, "Member must be an integer", None)
                return 0
            return parse_scalar(shape, str(value)[:40], path, faults)
        if kind != "string" or not isinstance(value, str):
            faults.add(path, "Member must be a string", None)
            return ""
        if shape.enum and value not in shape.enum:
            faults.add(path, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]", value)
            return value
        fits, pattern = check_length(shape, len(value), path, faults, value), shape.traits.get("pattern")
        if fits and pattern is not None and not compiled(pattern).fullmatch(value):
            faults.add(path, f"Member must satisfy regular expression pattern: {pattern}", value)
        return value


def _moment(value: Any, path: str, faults: Faults) -> datetime:
    """A timestamp: of CBOR a time, of JSON epoch seconds."""
    try:
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    faults.add(path, "Member must be a timestamp", None)
    return datetime.fromtimestamp(0, UTC)


# ---- from the output to the response


def write(protocol: Protocol, operation: Operation, output: Mapping[str, Any], request_id: str) -> Answer:
    """The response of a success.

    :param output: in botocore's shape; members that are None are left out.
    :raises KeyError: if `output` has a member that the model lacks, which is a bug.
    """
    if protocol == "query":
        out = [f'<{operation.name}Response xmlns="{NAMESPACE}">']
        if operation.wrapper:
            out.append(f"<{operation.wrapper}>")
            _xml(operation.output, output, out)
            out.append(f"</{operation.wrapper}>")
        out.append(f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>")
        out.append(f"</{operation.name}Response>")
        return Answer(200, _XML, (DECLARATION + "".join(out)).encode())
    value = _plain(operation.output, output, _EPOCH[protocol])
    if protocol == "json":
        return Answer(200, _JSON, msgspec.json.encode(value))
    return Answer(200, _CBOR, cbor2.dumps(value, datetime_as_timestamp=True))


_XML: Final = (("Content-Type", "text/xml"),)
_JSON: Final = (("Content-Type", "application/x-amz-json-1.0"),)
_CBOR: Final = (("Content-Type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor"))
_EPOCH: Final[dict[Protocol, Callable[[datetime], Any]]] = {
    "json": lambda moment: round(moment.timestamp(), 3),
    "cbor": lambda moment: moment,
}


def _plain(shape: Shape, value: Any, moment: Callable[[datetime], Any]) -> Any:
    if shape.type_name == "structure":
        members = shape.members
        return {
            name: _plain(members[name], inner, moment) for name, inner in value.items() if inner is not None
        }
    if shape.type_name == "list":
        return [_plain(shape.member, item, moment) for item in value]
    if shape.type_name == "timestamp":
        return moment(value)
    if shape.type_name in ("double", "float"):
        return float(value)
    return value


def _xml(shape: Shape, value: Any, out: list[str]) -> None:
    if shape.type_name == "structure":
        members = shape.members
        for name, inner in value.items():
            if inner is not None:
                out.append(f"<{name}>")
                _xml(members[name], inner, out)
                out.append(f"</{name}>")
    elif shape.type_name == "list":
        for item in value:
            out.append("<member>")
            _xml(shape.member, item, out)
            out.append("</member>")
    elif shape.type_name == "map":  # of texts to numbers: CloudWatch has no other
        for key, number in value.items():
            out.append(f"<entry><key>{escaped(key)}</key><value>{number}</value></entry>")
    else:
        out.append(escaped(scalar_text(shape, value)))


def write_error(protocol: Protocol, error: ApiError, request_id: str) -> Answer:
    """An error in the protocol's form. `x-amzn-query-error` has the code that clients of the query protocol know."""
    kind = "Receiver" if error.status >= 500 else "Sender"
    if protocol == "query":
        text = (
            f'{DECLARATION}<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>{kind}</Type>'
            f"<Code>{escaped(error.code)}</Code><Message>{escaped(error.message)}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return Answer(error.status, _XML, text.encode())
    shape = api().shapes.get(error.code, error.code)
    body = {"__type": f"com.amazonaws.cloudwatch#{shape}", "message": error.message}
    headers: Sequence[tuple[str, str]] = (("x-amzn-query-error", f"{error.code};{kind}"),)
    if protocol == "json":
        return Answer(error.status, (*_JSON, *headers), msgspec.json.encode(body))
    return Answer(error.status, (*_CBOR, *headers), cbor2.dumps(body))
