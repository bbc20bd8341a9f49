"""Policies as an operator and viewers see them: created with boto3, obeyed by every worker, changed, and protected
from deletion while in use."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.up import Answer, Up, distribution_config

MANY = 12
"""Connections enough for the kernel to give some to each worker."""


class App(BaseHTTPRequestHandler):
    """Reports the request: the page, the cookie and the language that reached it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        heard = [self.path, self.headers.get("Cookie", "-"), self.headers.get("Accept-Language", "-")]
        body = " ".join(heard).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Powered-By", "php")
        self.send_header("X-Frame-Options", "ALLOWALL")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def app() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


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


def test_policies_are_made_obeyed_changed_and_kept(tmp_path: Path, app: int) -> None:
    with Up(tmp_path / "data") as up:
        client = up.client()
        cache = client.create_cache_policy(
            CachePolicyConfig={
                "Name": "by-page",
                "MinTTL": 60,
                "ParametersInCacheKeyAndForwardedToOrigin": {
                    "EnableAcceptEncodingGzip": False,
                    "HeadersConfig": selection("HeaderBehavior", "none"),
                    "CookiesConfig": selection("CookieBehavior", "none"),
                    "QueryStringsConfig": selection(
                        "QueryStringBehavior", "whitelist", "QueryStrings", "page"
                    ),
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
        config = distribution_config("1", app, [])
        config["DefaultCacheBehavior"] |= ids
        made = client.create_distribution(DistributionConfig=config)
        id_, host = made["Distribution"]["Id"], made["Distribution"]["DomainName"]
        up.deployed(id_)

        def ask(target: str, **more: str) -> Answer:
            return up.get(host, target, {name.replace("_", "-"): value for name, value in more.items()})

        # The cache policy: only `page` is in the key and forwarded. The origin request policy: the cookie is
        # forwarded too.
        assert ask("/a?page=1&noise=1", Cookie="session=ada; other=1", Accept_Language="de").body == (
            b"/a?page=1 session=ada -"
        )
        up.until(lambda: all(ask("/a?page=1").x_cache == "Hit" for _ in range(MANY)))
        assert ask("/a?page=1&noise=2").body.startswith(b"/a?page=1 ")
        assert ask("/a?page=2").body == b"/a?page=2 - -"

        # The response headers policy, applied to stored responses.
        def told(seen: Answer) -> tuple[str | None, ...]:
            return tuple(
                seen.headers.get(name)
                for name in ("access-control-allow-origin", "x-frame-options", "x-powered-by")
            )

        for _ in range(MANY):
            seen = ask("/a?page=1", Origin="https://app.example.org")
            assert (seen.x_cache, told(seen)) == ("Hit", ("https://app.example.org", "DENY", None))
            assert told(ask("/a?page=1", Origin="https://evil.example.org")) == (None, "DENY", None)

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
            seen = ask("/a?page=1", Origin="https://evil.example.org")
            assert (seen.x_cache, told(seen)) == ("Hit", ("https://evil.example.org", "DENY", None))

        # A policy in use cannot be deleted. Once a managed one replaces it, it can.
        for kind, delete in (
            ("CachePolicy", client.delete_cache_policy),
            ("OriginRequestPolicy", client.delete_origin_request_policy),
            ("ResponseHeadersPolicy", client.delete_response_headers_policy),
        ):
            with pytest.raises(ClientError) as caught:
                version = getattr(client, f"get_{delete.__name__.removeprefix('delete_')}")(
                    Id=ids[f"{kind}Id"]
                )["ETag"]
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
        seen = ask("/a?page=1", Origin="https://app.example.org")
        assert told(seen) == (None, "ALLOWALL", "php")
        assert seen.headers["x-content-type-options"] == "nosniff"
        current = client.get_response_headers_policy(Id=ids["ResponseHeadersPolicyId"])["ETag"]
        client.delete_response_headers_policy(Id=ids["ResponseHeadersPolicyId"], IfMatch=current)
