"""What calls inside the process are refused for, and the page that a list call requests."""

from __future__ import annotations

from typing import Any

import pytest

from keyfront.errors import ApiError
from keyfront.model import validate
from keyfront.model.kinds import KEY_GROUP, Quotas
from tests.keys import rsa_pem
from tests.rows import rows

GROUP = {"KeyGroupConfig": {"Name": "g", "Items": ["K1"]}}


def refused(operation: str, given: Any) -> str:
    with pytest.raises(ApiError) as caught:
        validate.params(operation, given)
    assert caught.value.code == "InvalidArgument"
    return caught.value.message


@rows(
    ("operation", "given"),
    [
        ("CreateKeyGroup", GROUP),
        ("CreateKeyGroup", {"KeyGroupConfig": {**GROUP["KeyGroupConfig"], "Comment": None}}),
        ("CreateKeyGroup", {"KeyGroupConfig": {"Name": "g", "Items": ()}}),
        ("CreateAnycastIpList", {"Name": "n", "IpCount": (1 << 63) - 1}),
        ("CreateAnycastIpList", {"Name": "n", "IpCount": -(1 << 63)}),
        ("ListConflictingAliases", {"DistributionId": "E1", "Alias": "a\t\n\r\U0010ffff"}),
        ("ListDistributions", {}),
    ],
)
def test_what_fits_the_model_is_accepted(operation: str, given: dict[str, Any]) -> None:
    validate.params(operation, given)


@rows(
    ("operation", "given", "words"),
    [
        ("CreateKeyGroup", [], "CreateKeyGroup is not a structure"),
        ("CreateKeyGroup", {}, "CreateKeyGroup.KeyGroupConfig is missing"),
        ("CreateKeyGroup", {"KeyGroupConfig": None}, "CreateKeyGroup.KeyGroupConfig is missing"),
        ("CreateKeyGroup", {**GROUP, "Other": 1}, "CreateKeyGroup has no member 'Other'"),
        ("CreateKeyGroup", {"KeyGroupConfig": {"Name": "g", "Items": "K1"}}, "Items is not a list"),
        ("CreateKeyGroup", {"KeyGroupConfig": {"Name": "g", "Items": ["K1", 2]}}, "Items[1] is not a string"),
        ("CreateKeyGroup", {"KeyGroupConfig": {"Name": b"g", "Items": []}}, "Name is not a string"),
        ("CreateKeyGroup", {"KeyGroupConfig": {"Name": "g\x00", "Items": []}}, "XML cannot carry"),
        ("CreateKeyGroup", {"KeyGroupConfig": {"Name": "\ud800", "Items": []}}, "XML cannot carry"),
        ("CreateAnycastIpList", {"Name": "n", "IpCount": True}, "IpCount is not a integer"),
        ("CreateAnycastIpList", {"Name": "n", "IpCount": 1 << 63}, "IpCount is too large"),
        ("CreateAnycastIpList", {"Name": "n", "IpCount": -(1 << 63) - 1}, "IpCount is too large"),
        (
            "CreateRealtimeLogConfig",
            {"Name": "n", "EndPoints": [], "Fields": [], "SamplingRate": 1 << 63},
            "large",
        ),
        (
            "CreateOriginAccessControl",
            {
                "OriginAccessControlConfig": {
                    "Name": "n",
                    "SigningProtocol": "sigv4",
                    "SigningBehavior": "sometimes",
                    "OriginAccessControlOriginType": "s3",
                }
            },
            "SigningBehavior is none of never, always, no-override",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(operation: str, given: Any, words: str) -> None:
    assert words in refused(operation, given)


@rows(
    ("given", "expected"),
    [
        ({}, ("", validate.PAGE)),
        ({"MaxItems": None, "Marker": None}, ("", validate.PAGE)),
        ({"MaxItems": ""}, ("", validate.PAGE)),
        ({"MaxItems": "1"}, ("", 1)),
        ({"MaxItems": 7}, ("", 7)),
        ({"MaxItems": validate.PAGE + 1}, ("", validate.PAGE)),
        ({"MaxItems": "9" * 9}, ("", validate.PAGE)),
    ],
)
def test_the_page_of_a_list(given: dict[str, Any], expected: tuple[str, int]) -> None:
    assert validate.page(given, KEY_GROUP.id) == expected


@rows(
    "given",
    [{"MaxItems": "0"}, {"MaxItems": "-1"}, {"MaxItems": "1" * 10}, {"MaxItems": "٣"}, {"Marker": "*"}],
)
def test_a_page_that_makes_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        validate.page(given, KEY_GROUP.id)


def test_any_text_is_a_marker_where_markers_have_no_shape() -> None:
    assert validate.page({"Marker": "*"}, None) == ("*", validate.PAGE)


@rows(
    ("text", "words"),
    [
        (rsa_pem() + "\n" * 4096, "more than 4096 characters"),
        (rsa_pem().replace("\n", "\n\n", 1), ""),
    ],
)
def test_a_public_key_that_is_no_plain_pem_file(text: str, words: str) -> None:
    (problem,) = validate.public_key(
        {"CallerReference": "r", "Name": "n", "Comment": "", "EncodedKey": text}, Quotas()
    )
    assert words in problem.message
