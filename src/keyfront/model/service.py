"""CloudFront's API as botocore describes it: operations by name, their shapes, and the status of each error.

The description is the file `cloudfront/2020-05-31/service-2.json` that comes with botocore; nothing of it is
repeated in our code. It is read once, when it is first needed (about 0.2 s with botocore's import).
Only the copy inside botocore counts: a model that somebody keeps in `~/.aws/models` changes nothing here.

`LATER` adds members that a newer botocore knows and this one may not, so that clients of either age are read alike.
Members that neither knows are refused by `model/supported_members.py` and the codec, each by name.
"""

from __future__ import annotations

import functools
import re
from typing import Any
from urllib.parse import parse_qsl

import msgspec

API_VERSION = "2020-05-31"
NAMESPACE = f"http://cloudfront.amazonaws.com/doc/{API_VERSION}/"

LATER: dict[str, dict[str, Any]] = {
    "CustomOriginConfig": {"OriginHttpVersion": {"type": "string", "enum": ["http1.1", "http2"]}},
    "VpcOriginConfig": {"OriginHttpVersion": {"type": "string", "enum": ["http1.1", "http2"]}},
}
"""Members by structure, each with its shape, that came after the oldest botocore that Keyfront runs with (1.44.5)."""

Shape = Any  # botocore.model.Shape, which carries no types

_LABEL = re.compile(r"\{(\w+)\}")


class Operation(msgspec.Struct, frozen=True):
    """One operation.

    `segments` is its path cut at the slashes: a literal, or None where a label stands; `labels` are the names
    of those, in order. `query` holds the constant parameters that tell it from others of the same path
    (`?WithTags`, `?Operation=Tag`). `errors` are the codes that the model foresees.
    """

    name: str
    method: str
    segments: tuple[str | None, ...]
    labels: tuple[str, ...]
    query: tuple[tuple[str, str], ...]
    status: int
    input: Shape
    output: Shape
    errors: frozenset[str]


class Service(msgspec.Struct, frozen=True):
    """The whole API: `operations` by name, `statuses` (HTTP) by error code."""

    operations: dict[str, Operation]
    statuses: dict[str, int]


@functools.cache
def service() -> Service:
    """The API as this botocore knows it.

    :raises LookupError: if this botocore has no model of the version that Keyfront speaks.
    """
    from botocore.exceptions import DataNotFoundError  # heavy, and `keyfront sign` needs none of it
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    try:
        description = loader.load_service_model("cloudfront", "service-2", API_VERSION)
    except DataNotFoundError as error:
        raise LookupError(f"this botocore has no model of CloudFront {API_VERSION}") from error
    add_later_members(description["shapes"])
    model = ServiceModel(description, "cloudfront")
    return Service(
        operations={name: _operation(model.operation_model(name)) for name in model.operation_names},
        statuses={
            shape.error_code: shape.metadata["error"]["httpStatusCode"] for shape in model.error_shapes
        },
    )


def error_status(code: str) -> int:
    """The HTTP status of the error `code`; 400 if the model does not know it (cloudfront-semantics §7.2)."""
    return service().statuses.get(code, 400)


def add_later_members(shapes: dict[str, Any]) -> None:
    """Add the members of `LATER` to a description's `shapes` where they are missing."""
    for structure, members in LATER.items():
        for member, shape in members.items():
            if member not in shapes[structure]["members"]:
                shapes.setdefault(member, shape)
                shapes[structure]["members"][member] = {"shape": member}


def _operation(model: Any) -> Operation:
    path, _, query = model.http["requestUri"].partition("?")
    segments = path.strip("/").split("/")
    return Operation(
        name=model.name,
        method=model.http["method"],
        segments=tuple(None if _LABEL.fullmatch(segment) else segment for segment in segments),
        labels=tuple(match[1] for segment in segments if (match := _LABEL.fullmatch(segment))),
        query=tuple(parse_qsl(query, keep_blank_values=True)),
        status=model.http.get("responseCode", 200),
        input=model.input_shape,
        output=model.output_shape,
        errors=frozenset(shape.error_code for shape in model.error_shapes),
    )
