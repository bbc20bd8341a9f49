"""Policies as an operator and viewers see them: created with boto3, obeyed by every worker, changed, and protected
from deletion while in use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.application import Request, Response, served
from tests.up import Answer, Up, distribution_config

MANY = 12
"""Connections enough for the kernel to give some to each worker."""


@pytest.fixture
def app() -> Iterator[int]:
    """Reports the request: the page, the cookie, and the language that reached it."""

    def respond(request: Request) -> Response:
        received = [
            request.target,
            request.headers.get("Cookie", "-"),
            request.headers.get("Accept-Language", "-"),
        ]
        headers = {"X-Powered-By": "php", "X-Frame-Options": "ALLOWALL"}
        return Response(" ".join(received).encode(), headers)

    with served(respond) as port:
        yield port


def selection(behavior: str, mode: str, member: str = "", *names: str) -> dict[str, Any]:
    return {behavior: mode} | ({member: {"Quantity": len(names), "Items": list(names)}} if names else {})


def headers_policy(name: str, origin: str) -> dict[str, Any]:
    return {
        "Name": name,
        "CorsConfig": {
            "AccessControlAllowOrigins": {"Quantity": 1, "Items": [origin]},
            "AccessControlAllowHeaders": {"Quantity": 1, "Items": ["*"]},
            "AccessControlAllowMethods": {"Quantity": 2, "Items": ["GET", "HEAD"]},
            "AccessControlAllowCredentials": False,
            "OriginOverride": True,
        },
        "SecurityHeadersConfig": {"FrameOptions": {"Override": True, "FrameOption": "DENY"}},
        "RemoveHeadersConfig": {"Quantity": 1, "Items": [{"Header": "X-Powered-By"}]},
    }


def test_policies_are_created_applied_changed_and_protected(shared_up: Up, app: int) -> None:
    up = shared_up
    up.well()
    client = up.client()
    cache = client.create_cache_policy(
        CachePolicyConfig={
            "Name": "by-page",
            "MinTTL": 60,
            "ParametersInCacheKeyAndForwardedToOrigin": {
                "EnableAcceptEncodingGzip": False,
                "HeadersConfig": selection("HeaderBehavior", "none"),
                "CookiesConfig": selection("CookieBehavior", "none"),
                "QueryStringsConfig": selection("QueryStringBehavior", "whitelist", "QueryStrings", "page"),
            },
        }
    )
    request = client.create_origin_request_policy(
        OriginRequestPolicyConfig={
            "Name": "session",
            "HeadersConfig": selection("HeaderBehavior", "none"),
            "CookiesConfig": selection("CookieBehavior", "whitelist", "Cookies", "session"),
            "QueryStringsConfig": selection("QueryStringBehavior", "none"),
        }
    )
    headers = client.create_response_headers_policy(
        ResponseHeadersPolicyConfig=headers_policy("for-the-app", "https://app.example.org")
    )
    ids = {
        "CachePolicyId": cache["CachePolicy"]["Id"],
        "OriginRequestPolicyId": request["OriginRequestPolicy"]["Id"],
        "ResponseHeadersPolicyId": headers["ResponseHeadersPolicy"]["Id"],
    }
    config = distribution_config("policies", app, [])
    config["DefaultCacheBehavior"] |= ids
    made = client.create_distribution(DistributionConfig=config)
    id_, host = made["Distribution"]["Id"], made["Distribution"]["DomainName"]
    up.deployed(id_)

    def request_for(target: str, **more: str) -> Answer:
        return up.get(host, target, {name.replace("_", "-"): value for name, value in more.items()})

    # The cache policy: only `page` is in the key and forwarded. The origin request policy: the cookie is
    # forwarded too.
    assert request_for("/a?page=1&noise=1", Cookie="session=ada; other=1", Accept_Language="de").body == (
        b"/a?page=1 session=ada -"
    )
    up.until(lambda: all(request_for("/a?page=1").x_cache == "Hit" for _ in range(MANY)))
    assert request_for("/a?page=1&noise=2").body.startswith(b"/a?page=1 ")
    assert request_for("/a?page=2").body == b"/a?page=2 - -"

    # The response headers policy, applied to stored responses.
    def policy_headers(seen: Answer) -> tuple[str | None, ...]:
        return tuple(
            seen.headers.get(name)
            for name in ("access-control-allow-origin", "x-frame-options", "x-powered-by")
        )

    for _ in range(MANY):
        seen = request_for("/a?page=1", Origin="https://app.example.org")
        assert (seen.x_cache, policy_headers(seen)) == ("Hit", ("https://app.example.org", "DENY", None))
        assert policy_headers(request_for("/a?page=1", Origin="https://evil.example.org")) == (
            None,
            "DENY",
            None,
        )

    # Every worker applies a change to responses already stored, and the distribution's status reports when.
    version = client.get_distribution(Id=id_)["ETag"]
    client.update_response_headers_policy(
        Id=ids["ResponseHeadersPolicyId"],
        IfMatch=headers["ETag"],
        ResponseHeadersPolicyConfig=headers_policy("for-the-app", "https://*.example.org"),
    )
    up.deployed(id_)
    assert client.get_distribution(Id=id_)["ETag"] != version
    for _ in range(MANY):
        seen = request_for("/a?page=1", Origin="https://evil.example.org")
        assert (seen.x_cache, policy_headers(seen)) == ("Hit", ("https://evil.example.org", "DENY", None))

    # A policy in use cannot be deleted. Once a managed one replaces it, it can.
    for kind, delete in (
        ("CachePolicy", client.delete_cache_policy),
        ("OriginRequestPolicy", client.delete_origin_request_policy),
        ("ResponseHeadersPolicy", client.delete_response_headers_policy),
    ):
        with pytest.raises(ClientError) as caught:
            version = getattr(client, f"get_{delete.__name__.removeprefix('delete_')}")(Id=ids[f"{kind}Id"])[
                "ETag"
            ]
            delete(Id=ids[f"{kind}Id"], IfMatch=version)
        assert caught.value.response["Error"]["Code"] == f"{kind}InUse"
    security = next(
        item["ResponseHeadersPolicy"]["Id"]
        for item in client.list_response_headers_policies(Type="managed")["ResponseHeadersPolicyList"][
            "Items"
        ]
        if item["ResponseHeadersPolicy"]["ResponseHeadersPolicyConfig"]["Name"]
        == "Managed-SecurityHeadersPolicy"
    )
    read = client.get_distribution_config(Id=id_)
    config = read["DistributionConfig"]
    config["DefaultCacheBehavior"]["ResponseHeadersPolicyId"] = security
    client.update_distribution(Id=id_, IfMatch=read["ETag"], DistributionConfig=config)
    up.deployed(id_)
    seen = request_for("/a?page=1", Origin="https://app.example.org")
    assert policy_headers(seen) == (None, "ALLOWALL", "php")
    assert seen.headers["x-content-type-options"] == "nosniff"
    current = client.get_response_headers_policy(Id=ids["ResponseHeadersPolicyId"])["ETag"]
    client.delete_response_headers_policy(Id=ids["ResponseHeadersPolicyId"], IfMatch=current)
