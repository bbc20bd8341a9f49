"""Members of response headers policies that have conditions, and those that CloudFront refuses."""

from __future__ import annotations

from typing import Any

from keyfront.model.compile import read_response_headers_policy
from keyfront.model.snapshot import ResponseHeadersPolicy
from tests.rows import rows


def read(security: dict[str, Any]) -> ResponseHeadersPolicy | list[Any]:
    return read_response_headers_policy("p", {"Name": "p", "SecurityHeadersConfig": security})


@rows(
    ("member", "value"),
    [
        ({"Protection": False, "Override": True}, "0"),
        ({"Protection": True, "Override": True}, "1"),
        ({"Protection": True, "ModeBlock": True, "Override": True}, "1; mode=block"),
        ({"Protection": True, "ReportUri": "/r", "Override": True}, "1; report=/r"),
    ],
)
def test_protection_from_scripts(member: dict[str, Any], value: str) -> None:
    found = read({"XSSProtection": member})
    assert isinstance(found, ResponseHeadersPolicy), found
    assert [(each.name, each.value) for each in found.headers] == [("x-xss-protection", value)]


def test_strict_transport_security_has_an_age() -> None:
    found = read({"StrictTransportSecurity": {"Override": True}})
    assert isinstance(found, list)
    assert any("AccessControlMaxAgeSec is required" in str(problem) for problem in found)


def cors(**members: Any) -> ResponseHeadersPolicy | list[Any]:
    usual = {
        "AccessControlAllowOrigins": {"Quantity": 1, "Items": ["https://a.test"]},
        "AccessControlAllowHeaders": {"Quantity": 1, "Items": ["x-token"]},
        "AccessControlAllowMethods": {"Quantity": 1, "Items": ["GET"]},
        "AccessControlAllowCredentials": False,
        "OriginOverride": True,
    }
    return read_response_headers_policy("p", {"Name": "p", "CorsConfig": usual | members})


@rows(
    ("methods", "expected"),
    [
        (["GET"], ("GET",)),
        (["PUT", "GET"], ("GET", "PUT")),
        (["ALL"], ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")),
    ],
)
def test_methods_of_cors(methods: list[str], expected: tuple[str, ...]) -> None:
    found = cors(AccessControlAllowMethods={"Quantity": len(methods), "Items": methods})
    assert isinstance(found, ResponseHeadersPolicy), found
    assert found.cors is not None
    assert found.cors.methods == expected


@rows(
    ("methods", "words"),
    [
        (["GET", "ALL"], "either ALL or a list"),
        (["GET", "TRACE"], "must list DELETE"),
        (["get"], "must list DELETE"),
    ],
)
def test_methods_that_cors_does_not_have(methods: list[str], words: str) -> None:
    found = cors(AccessControlAllowMethods={"Quantity": len(methods), "Items": methods})
    assert isinstance(found, list)
    assert any(words in str(problem) for problem in found)


@rows(
    ("age", "expected"),
    [(None, None), (0, 0), (600, 600)],
)
def test_the_age_of_a_preflight(age: int | None, expected: int | None) -> None:
    found = cors(AccessControlMaxAgeSec=age)
    assert isinstance(found, ResponseHeadersPolicy), found
    assert found.cors is not None
    assert found.cors.max_age == expected
