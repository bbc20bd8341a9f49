"""What Terraform's AWS provider sends, as recorded by tests/vectors/terraform.py, so that no Terraform is needed.

The Go SDK's XML differs from botocore's in the order of elements, in its escaping, and in the empty and zero members
that it sends (cloudfront-semantics §7.1, §7.7).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keyfront.control.wire import codec
from tests.control.harness import Harness
from tests.vectors.ids import created

REQUESTS: list[dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "terraform.json").read_text()
)


def test_they_are_obeyed_to_the_end(harness: Harness) -> None:
    ids: list[str] = []

    def ours(text: str) -> str:
        for number in reversed(range(len(ids))):
            text = text.replace(f"<{number}>", ids[number])
        return text

    for request in REQUESTS:
        method, path, query, body = (ours(request[name]) for name in ("method", "path", "query", "body"))
        matched = codec.match(method, path, query)
        kind = matched.operation.name.removeprefix("Update").removeprefix("Delete")
        headers: list[tuple[str, str]] = []
        if method != "POST" and "Id" in matched.labels:
            harness.report()
            headers = [("If-Match", harness.etag(kind, matched.labels["Id"]))]
        params = codec.read(matched, headers, body.encode())
        output = harness.call(matched.operation.name, **params)
        codec.write(matched.operation, output)
        ids += created(matched.operation.name, output)
        if kind == "Distribution" and method == "PUT":
            complete(harness, matched.labels["Id"])
    lists = [harness.call(f"List{name}s") for name in ("Distribution", "KeyGroup", "PublicKey")]
    assert all(page["Quantity"] == 0 for found in lists for page in found.values())


def complete(harness: Harness, id_: str) -> None:
    """Every member is present without which the provider panics, or plans a change forever (§7.5)."""
    output: dict[str, Any] = harness.call("GetDistribution", Id=id_)["Distribution"]
    config = output["DistributionConfig"]
    assert {"ViewerCertificate", "HttpVersion", "PriceClass", "OriginGroups", "Aliases"} <= config.keys()
    for behavior in (config["DefaultCacheBehavior"], *config["CacheBehaviors"]["Items"]):
        assert {
            "TrustedKeyGroups",
            "TrustedSigners",
            "LambdaFunctionAssociations",
            "FunctionAssociations",
            "AllowedMethods",
        } <= behavior.keys()
        assert "CachedMethods" in behavior["AllowedMethods"]
    for origin in config["Origins"]["Items"]:
        assert {
            "CustomHeaders",
            "ConnectionAttempts",
            "ConnectionTimeout",
            "OriginAccessControlId",
        } <= origin.keys()
