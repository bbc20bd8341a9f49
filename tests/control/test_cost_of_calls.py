"""The cost of an API call is proportional to its size, however large its lists and numbers are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fuzz.cost import opcodes, seconds

from keyfront.control.iam import policy as iam
from keyfront.control.wire import codec
from keyfront.errors import ApiError
from tests.control.harness import Config, Harness, many, minimal
from tests.rows import rows

FEW, MORE = 100, 400
"""Members of the two lists whose costs are compared: no quota is as large."""


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(tmp_path)
    yield harness
    harness.close()


def outcome(call: Callable[[], object]) -> str:
    """The error code of a call; empty if it succeeds. Any exception but ApiError propagates."""
    try:
        call()
    except ApiError as error:
        return error.code
    return ""


def origin(n: int) -> Config:
    return {
        "Id": f"o{n}",
        "DomainName": f"o{n}.example.com",
        "CustomOriginConfig": {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "http-only"},
    }


def behavior(n: int) -> Config:
    default: Config = copy.deepcopy(minimal()["DefaultCacheBehavior"])
    return default | {"PathPattern": f"/{n}/*"}


def listed(member: str, item: Callable[[int], Any], count: int) -> Config:
    config = minimal()
    config[member] = many(*[item(n) for n in range(count)])
    if member == "Origins":
        config["DefaultCacheBehavior"]["TargetOriginId"] = "o0"
    return config


def forwarded(member: str, name: str, count: int) -> Config:
    config = minimal()
    values = config["DefaultCacheBehavior"]["ForwardedValues"]
    names = many(*[f"{name}{n}" for n in range(count)])
    if member == "Cookies":
        values["Cookies"] = {"Forward": "whitelist", "WhitelistedNames": names}
    else:
        values[member] = names
    return config


LISTS: dict[str, Callable[[int], Config]] = {
    "aliases": lambda n: listed("Aliases", lambda n: f"a{n}.example.com", n),
    "one alias again and again": lambda n: listed("Aliases", lambda n: "a.example.com", n),
    "origins": lambda n: listed("Origins", origin, n),
    "one origin again and again": lambda n: listed("Origins", lambda n: origin(0), n),
    "behaviors": lambda n: listed("CacheBehaviors", behavior, n),
    "one behavior again and again": lambda n: listed("CacheBehaviors", lambda n: behavior(0), n),
    "error responses": lambda n: listed("CustomErrorResponses", lambda n: {"ErrorCode": 400 + n}, n),
    "headers": lambda n: forwarded("Headers", "X-", n),
    "cookies": lambda n: forwarded("Cookies", "c", n),
    "query keys": lambda n: forwarded("QueryStringCacheKeys", "q", n),
    "countries": lambda n: (
        minimal() | {"Restrictions": {"GeoRestriction": {"RestrictionType": "whitelist"} | many(*["DE"] * n)}}
    ),
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_any_length(harness: Harness, kind: str) -> None:
    def call(count: int) -> Callable[[], object]:
        config = LISTS[kind](count)

        return lambda: outcome(
            lambda: harness.call(
                "CreateDistribution", DistributionConfig=config | {"CallerReference": f"{harness.calls}"}
            )
        )

    call(FEW)()
    few, more = opcodes(call(FEW)), opcodes(call(MORE))
    assert more < 8 * few + 20_000
    assert seconds(call(MORE), 2.0, 2) < 2.0


NUMBERS = ["9" * 20, "9" * 5000, "-" + "9" * 19, "0" * 5000, "1e9999", "NaN", "Infinity", "٣"]


@rows("number", NUMBERS)
@rows("operation", ["ListDistributions", "ListPublicKeys", "ListInvalidations"])
def test_how_many_items_are_asked_for(harness: Harness, number: str, operation: str) -> None:
    path = {
        "ListDistributions": "/2020-05-31/distribution",
        "ListPublicKeys": "/2020-05-31/public-key",
        "ListInvalidations": "/2020-05-31/distribution/E1/invalidation",
    }[operation]
    matched = codec.match("GET", path, f"MaxItems={quote(number)}")
    read = outcome(lambda: codec.read(matched, (), b""))
    assert read in {"", "InvalidArgument"}
    if not read:
        params = codec.read(matched, (), b"")
        assert opcodes(lambda: outcome(lambda: harness.call(operation, **params))) < 200_000


@rows(
    "member", ["HTTPPort", "HTTPSPort", "OriginReadTimeout", "OriginKeepaliveTimeout", "ConnectionAttempts"]
)
@rows("number", [2**31 - 1, -(2**31), 0])
def test_an_origins_number(harness: Harness, member: str, number: int) -> None:
    one = origin(0)
    (one if member == "ConnectionAttempts" else one["CustomOriginConfig"])[member] = number
    config = minimal() | {"Origins": many(one)}
    config["DefaultCacheBehavior"]["TargetOriginId"] = "o0"
    assert harness.refused("CreateDistribution", DistributionConfig=config).status == 400


@pytest.mark.parametrize("ttl", [2**63 - 1, 10**12])
def test_a_ttl_of_any_length(harness: Harness, ttl: int) -> None:
    config = minimal()
    config["DefaultCacheBehavior"] |= {"MinTTL": 0, "DefaultTTL": ttl, "MaxTTL": ttl}
    assert outcome(lambda: harness.call("CreateDistribution", DistributionConfig=config)) in {
        "",
        "InvalidArgument",
    }


@pytest.mark.parametrize("quantity", [2**31 - 1, -(2**31), 10**6])
def test_a_quantity_that_is_not_the_number_of_items(harness: Harness, quantity: int) -> None:
    config = minimal() | {"Aliases": {"Quantity": quantity, "Items": ["a.example.com"]}}

    def run() -> None:
        assert harness.refused("CreateDistribution", DistributionConfig=config).status == 400

    assert opcodes(run) < 200_000


def document(value: str) -> str:
    condition = '"Condition":{"NumericEquals":{"aws:EpochTime":' + value + "}}"
    return (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*",'
        + condition
        + "}]}"
    )


@rows("value", ["9" * 5000, "1" + "0" * 4000, "1e999", "-1e999", "[" * 5000, "NaN", "1e-9999"])
def test_a_number_in_an_access_policy(value: str) -> None:
    result = outcome(lambda: iam.parse("p", document(value), "123456789012"))
    assert result in {"", "MalformedPolicyDocument", "LimitExceeded"}


def test_an_access_policy_of_nested_lists_is_refused() -> None:
    with pytest.raises(ApiError, match="nested too deeply"):
        iam.parse("p", "[" * 6000, "123456789012")


def test_an_access_policy_whose_last_member_comes_twice_is_read_once() -> None:
    members = ",".join([f'"a{n}":1' for n in range(600)] + ['"a0":1'])
    with pytest.raises(ApiError, match="'a0' is repeated"):
        iam.parse("p", "{" + members + "}", "123456789012")
