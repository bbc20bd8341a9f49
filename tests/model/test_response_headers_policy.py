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
