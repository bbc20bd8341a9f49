"""What an audit record shows of a call, and what it hides, without a store."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

from keyfront.control.audit.records import HIDDEN, record, subject
from keyfront.control.call import Call, Caller
from tests.rows import rows

CALLER = Caller("AKIAEXAMPLE", "arn:aws:iam::123456789012:user/ada", "123456789012")


def call(operation: str, source: str = "cloudfront.amazonaws.com", **params: Any) -> Call:
    return Call(operation, params, CALLER, "192.0.2.7", "tests/1", "r", 1_700_000_000.0, source=source)


def shown(call: Call, outcome: dict[str, Any]) -> tuple[Any, Any]:
    """The request parameters and the response elements in the record."""
    made = record(call, outcome, random.Random(1))
    return made["requestParameters"], made["responseElements"]


@rows(
    ("params", "outcome", "expected"),
    [
        ({"Id": "K1"}, {}, "K1"),
        ({"Id": b"K1"}, {}, ""),
        ({}, {"Location": "https://a/K2", "PublicKey": {"Id": "K2"}}, "K2"),
        ({}, {"PublicKeyList": {"Quantity": 0}, "Other": {"Id": 3}}, ""),
    ],
)
def test_the_resource_of_a_call(params: dict[str, Any], outcome: dict[str, Any], expected: str) -> None:
    assert subject(call("CreatePublicKey", **params), outcome) == expected


@rows(
    ("output", "expected"),
    [
        ({"ETag": "E1", "Location": "https://a/K1"}, {"eTag": "E1", "location": "https://a/K1"}),
        ({"PublicKey": {"Id": "K1", "PublicKeyConfig": {"Name": "n"}}}, {"publicKey": {"id": "K1"}}),
        ({"FunctionCode": b"secret", "Items": ["secret"]}, None),
        ({}, None),
    ],
)
def test_only_names_and_versions_of_what_was_made_are_recorded(
    output: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    assert shown(call("CreatePublicKey"), output)[1] == expected


@rows(
    ("operation", "params", "expected"),
    [
        (
            "ListDistributionsByWebACLId",
            {"MaxItems": 5, "Marker": None, "WebACLId": "w"},
            {"maxItems": 5, "marker": None, "webACLId": "w"},
        ),
        ("GetKeyGroup", {"Id": "-----BEGIN PRIVATE KEY-----"}, {"id": HIDDEN}),
        ("GetKeyGroup", {"Id": b"bytes"}, {"id": HIDDEN}),
        ("GetKeyGroup", {"Id": ["a list where the model has a text"]}, {"id": [HIDDEN]}),
        ("GetKeyGroup", {"Id": {"Name": "a structure where the model has a text"}}, {"id": {"name": HIDDEN}}),
        ("GetKeyGroup", {"Unknown": "value"}, {"unknown": HIDDEN}),
        ("NoSuchOperation", {"Id": "value"}, HIDDEN),
        (
            "GetKeyGroup",
            {"Id": datetime(2026, 1, 2, tzinfo=UTC)},
            {"id": "2026-01-02T00:00:00+00:00"},
        ),
    ],
)
def test_parameters_are_shown_as_far_as_the_model_knows_them(
    operation: str, params: dict[str, Any], expected: Any
) -> None:
    assert shown(call(operation, **params), {})[0] == expected
