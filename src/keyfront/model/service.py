"""CloudFront's API as described by botocore: operations by name, their shapes, and the status of each error.

The description is the file `cloudfront/2020-05-31/service-2.json` in botocore; the code repeats none of it. It is read
on first use, without botocore's code (`model/shapes.py` says why). Only the copy inside botocore is used, never a model
in `~/.aws/models`.

`LATER` adds members that only newer versions of botocore have, so that old and new clients are treated alike, whatever
botocore Keyfront is installed with. Members that neither has are refused by name (`model/supported_members.py` and the
codec).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gzip
import importlib.util
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from keyfront.model.shapes import NOTHING, Shape, Shapes

API_VERSION = "2020-05-31"
NAMESPACE = f"http://cloudfront.amazonaws.com/doc/{API_VERSION}/"

LATER: dict[str, dict[str, Any]] = {
    "CustomOriginConfig": {
        "members": {
            "IpAddressType": {"shape": "IpAddressType"},
            "OriginHttpVersion": {"shape": "OriginHttpVersion"},
            "OriginMtlsConfig": {"shape": "OriginMtlsConfig"},
        }
    },
    "VpcOriginConfig": {"members": {"OriginHttpVersion": {"shape": "OriginHttpVersion"}}},
    "DistributionConfig": {
        "members": {
            "CacheTagConfig": {"shape": "CacheTagConfig"},
            "ConnectionFunctionAssociation": {"shape": "ConnectionFunctionAssociation"},
            "ViewerMtlsConfig": {"shape": "ViewerMtlsConfig"},
        }
    },
    "MinimumProtocolVersion": {"enum": ["TLSv1.3_2025", "TLSv1.2_2025"]},
    "OriginAccessControlSigningBehaviors": {"enum": ["always-amz-auth"]},
    "OriginAccessControlSigningProtocols": {"enum": ["sigv4a"]},
    "CacheTagConfig": {
        "type": "structure",
        "required": ["HeaderName"],
        "members": {"HeaderName": {"shape": "string"}},
    },
    "ConnectionFunctionAssociation": {
        "type": "structure",
        "required": ["Id"],
        "members": {"Id": {"shape": "ResourceId"}},
    },
    "IpAddressType": {"type": "string", "enum": ["ipv4", "ipv6", "dualstack"]},
    "OriginHttpVersion": {"type": "string", "enum": ["http1.1", "http2"]},
    "OriginMtlsConfig": {
        "type": "structure",
        "required": ["ClientCertificateArn"],
        "members": {"ClientCertificateArn": {"shape": "string"}},
    },
    "ResourceId": {"type": "string", "max": 64, "min": 1},
    "TrustStoreConfig": {
        "type": "structure",
        "required": ["TrustStoreId"],
        "members": {
            "TrustStoreId": {"shape": "string"},
            "AdvertiseTrustStoreCaNames": {"shape": "boolean"},
            "IgnoreCertificateExpiry": {"shape": "boolean"},
        },
    },
    "ViewerMtlsConfig": {
        "type": "structure",
        "members": {"Mode": {"shape": "ViewerMtlsMode"}, "TrustStoreConfig": {"shape": "TrustStoreConfig"}},
    },
    "ViewerMtlsMode": {"type": "string", "enum": ["required", "optional", "passthrough"]},
}
"""What is newer in the API than the oldest supported botocore (1.40), by shape: members, values, and whole shapes, in
the form of botocore's description."""

_TITLES = {"cloudfront": "CloudFront", "cloudwatch": "CloudWatch"}
_LABEL = re.compile(r"\{(\w+)\}")


class Operation(msgspec.Struct, frozen=True):
    """One operation.

    :param segments: its path, split at the slashes; None stands for a label.
    :param labels: the names of the labels, in order.
    :param query: constant parameters that distinguish it from others with the same path (`?WithTags`,
        `?Operation=Tag`).
    :param status: the HTTP status of a success.
    :param output: a structure without members if the operation has no output.
    :param errors: the error codes in the model.
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
    """The API in the installed botocore.

    :raises LookupError: if it has no model of API_VERSION.
    :raises ModuleNotFoundError: if botocore is not installed.
    """
    description = read_description("cloudfront", API_VERSION)
    add_later_members(description["shapes"])
    shapes = Shapes(description["shapes"])
    errors = {
        name: _error_code(name, traits)
        for name, traits in shapes.definitions.items()
        if "exception" in traits
    }
    return Service(
        operations={
            name: _operation(name, operation, shapes, errors)
            for name, operation in description["operations"].items()
        },
        statuses={code: shapes.definitions[name]["error"]["httpStatusCode"] for name, code in errors.items()},
    )


def read_description(name: str, version: str) -> dict[str, Any]:
    """The description of an AWS API in the installed botocore.

    :param name: botocore's name of the service.
    :raises LookupError: if it has none of that version.
    :raises ModuleNotFoundError: if botocore is not installed.
    """
    botocore = importlib.util.find_spec("botocore")
    if botocore is None or botocore.origin is None:
        raise ModuleNotFoundError("No module named 'botocore'", name="botocore")
    folder = Path(botocore.origin).parent / "data" / name / version
    with contextlib.suppress(FileNotFoundError):
        return _parsed(gzip.decompress((folder / "service-2.json.gz").read_bytes()))
    with contextlib.suppress(FileNotFoundError):
        return _parsed((folder / "service-2.json").read_bytes())
    raise LookupError(f"this botocore has no model of {_TITLES[name]} {version}")


def _parsed(text: bytes) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any])


def error_status(code: str) -> int:
    """The HTTP status of the error `code`; 400 if the model does not have it (cloudfront-semantics §7.2)."""
    return service().statuses.get(code, 400)


def add_later_members(shapes: dict[str, Any]) -> None:
    """Add what the `shapes` of a description lack of `LATER`."""
    for name, later in LATER.items():
        shape = shapes.setdefault(name, copy.deepcopy(later))
        for member, reference in later.get("members", {}).items():
            shape["members"].setdefault(member, reference)
        shape.get("enum", []).extend(value for value in later.get("enum", ()) if value not in shape["enum"])


def _error_code(name: str, traits: dict[str, Any]) -> str:
    code: str = traits.get("error", {}).get("code", name)
    return code


def _operation(
    name: str, described: dict[str, Any], shapes: Shapes, error_codes: dict[str, str]
) -> Operation:
    http = described["http"]
    path, _, query = http["requestUri"].partition("?")
    segments = path.strip("/").split("/")
    return Operation(
        name=name,
        method=http["method"],
        segments=tuple(None if _LABEL.fullmatch(segment) else segment for segment in segments),
        labels=tuple(match[1] for segment in segments if (match := _LABEL.fullmatch(segment))),
        query=tuple(parse_qsl(query, keep_blank_values=True)),
        status=http.get("responseCode", 200),
        input=shapes.referred(described["input"]),
        output=shapes.referred(described["output"]) if "output" in described else Shape("", NOTHING, shapes),
        errors=frozenset(error_codes[error["shape"]] for error in described.get("errors", ())),
    )
