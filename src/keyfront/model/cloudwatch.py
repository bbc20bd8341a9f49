"""CloudWatch's API as described by botocore: operations by name, their shapes, and its errors. See `model/service.py`,
which reads CloudFront's."""

from __future__ import annotations

import functools

import msgspec

from keyfront.model.service import read_description
from keyfront.model.shapes import NOTHING, Shape, Shapes

API_VERSION = "2010-08-01"
NAMESPACE = f"http://monitoring.amazonaws.com/doc/{API_VERSION}/"
TARGET = "GraniteServiceVersion20100801"
"""The name of the service in the protocols JSON and CBOR."""


class Operation(msgspec.Struct, frozen=True):
    """One operation.

    :param output: a structure without members if the operation has no output.
    :param wrapper: the element around the output in the query protocol; empty: none.
    """

    name: str
    input: Shape
    output: Shape
    wrapper: str


class Api(msgspec.Struct, frozen=True):
    """The whole API: `operations` by name; by error code, `shapes` (the names of errors' shapes) and `statuses`
    (HTTP)."""

    operations: dict[str, Operation]
    shapes: dict[str, str]
    statuses: dict[str, int]


@functools.cache
def api() -> Api:
    """The API in the installed botocore.

    :raises LookupError: if it has no model of API_VERSION.
    :raises ModuleNotFoundError: if botocore is not installed.
    """
    description = read_description("cloudwatch", API_VERSION)
    shapes = Shapes(description["shapes"])
    operations = {}
    for name, described in description["operations"].items():
        output = described.get("output")
        operations[name] = Operation(
            name=name,
            input=shapes.referred(described["input"]) if "input" in described else Shape("", NOTHING, shapes),
            output=shapes.referred(output) if output else Shape("", NOTHING, shapes),
            wrapper=output.get("resultWrapper", "") if output else "",
        )
    errors = {
        traits.get("error", {}).get("code", name): (name, traits.get("error", {}).get("httpStatusCode", 400))
        for name, traits in shapes.definitions.items()
        if "exception" in traits
    }
    return Api(
        operations,
        {code: name for code, (name, _) in errors.items()},
        {code: status for code, (_, status) in errors.items()},
    )


def error_status(code: str) -> int:
    """The HTTP status of the error `code`; 400 if the model does not have it."""
    return api().statuses.get(code, 400)
