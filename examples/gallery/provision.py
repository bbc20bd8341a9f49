"""Provisioning of keys, key groups, and the distribution, as for CloudFront, with nothing but boto3.

A second start with the same data folder finds everything by name, so the demo keeps its keys and its domain name across
restarts; only the origin's port and secret change, through an ordinary UpdateDistribution.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

# CloudFront's managed policies have the same ids everywhere, including in Keyfront.
CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
CACHING_OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"
ALL_VIEWER = "216adef6-5c7f-47e4-b989-5492eafa07d3"

READ = ["GET", "HEAD"]
EVERY_METHOD = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"]

SECRET_HEADER = "X-Origin-Secret"
COMMENT = "The private gallery of make demo"


@dataclass(frozen=True)
class SigningKey:
    """A signing key: the location of its private half, its id at the control plane, and its key group's id."""

    private_key: Path
    public_pem: str
    id: str
    group: str


@dataclass(frozen=True)
class Provisioned:
    """The provisioned resources. `domain_name` is the distribution's, without a port."""

    distribution_id: str
    domain_name: str
    pictures: SigningKey
    downloads: SigningKey


def client(endpoint: str, credentials: Path) -> Any:
    """A CloudFront client as any application would create it, with Keyfront's control plane as its endpoint."""
    session = boto3.Session(botocore_session=_session_of(credentials))
    settings = Config(region_name="us-east-1", retries={"max_attempts": 3}, proxies={})
    return session.client("cloudfront", endpoint_url=endpoint, config=settings)


def _session_of(credentials: Path) -> Any:
    import botocore.session  # imported at its only use; the demo otherwise uses boto3

    session = botocore.session.Session(profile="default")
    session.set_config_variable("credentials_file", str(credentials))
    session.set_config_variable("config_file", os.devnull)
    return session


def provision(cloudfront: Any, keys: Path, origin_port: int, secret: str) -> Provisioned:
    """Find or create two keys, two key groups, and the distribution, and wait until it is deployed.

    The pictures' key is RSA-2048, like most CloudFront keys; the downloads' key is ECDSA P-256, whose signatures make a
    URL about half as long.
    """
    keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    pictures = _signing_key(cloudfront, keys, "gallery-pictures", _new_rsa_key)
    downloads = _signing_key(cloudfront, keys, "gallery-downloads", _new_ecdsa_key)
    distribution = _distribution(cloudfront, pictures.group, downloads.group, origin_port, secret)
    return Provisioned(distribution["Id"], distribution["DomainName"], pictures, downloads)


# --- keys -------------------------------------------------------------------------------------------------


def _new_rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _new_ecdsa_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _signing_key(
    cloudfront: Any,
    folder: Path,
    name: str,
    new: Callable[[], rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey],
) -> SigningKey:
    place = folder / f"{name}.pem"
    if not place.exists():
        pem = new().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with open(place, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(pem)
    private = serialization.load_pem_private_key(place.read_bytes(), password=None)
    public_pem = (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii")
    )
    key_id = _public_key_id(cloudfront, name, public_pem)
    return SigningKey(place, public_pem, key_id, _key_group_id(cloudfront, name, key_id))


def _public_key_id(cloudfront: Any, name: str, pem: str) -> str:
    for known in _pages(cloudfront.list_public_keys, "PublicKeyList"):
        if known["Name"] == name and known["EncodedKey"].strip() == pem.strip():
            return str(known["Id"])
    made = cloudfront.create_public_key(
        PublicKeyConfig={
            "CallerReference": str(uuid.uuid4()),
            "Name": name,
            "EncodedKey": pem,
            "Comment": COMMENT,
        }
    )
    return str(made["PublicKey"]["Id"])


def _key_group_id(cloudfront: Any, name: str, key_id: str) -> str:
    for known in _pages(cloudfront.list_key_groups, "KeyGroupList"):
        group = known["KeyGroup"]
        if group["KeyGroupConfig"]["Name"] == name and key_id in group["KeyGroupConfig"]["Items"]:
            return str(group["Id"])
    made = cloudfront.create_key_group(KeyGroupConfig={"Name": name, "Items": [key_id], "Comment": COMMENT})
    return str(made["KeyGroup"]["Id"])


# --- the distribution -------------------------------------------------------------------------------------


def _distribution(cloudfront: Any, pictures: str, downloads: str, port: int, secret: str) -> Any:
    for known in _pages(cloudfront.list_distributions, "DistributionList"):
        if known["Comment"] == COMMENT:
            current = cloudfront.get_distribution_config(Id=known["Id"])
            config = distribution_config(pictures, downloads, port, secret)
            config["CallerReference"] = current["DistributionConfig"]["CallerReference"]
            answer = cloudfront.update_distribution(
                Id=known["Id"], IfMatch=current["ETag"], DistributionConfig=config
            )
            break
    else:
        answer = cloudfront.create_distribution(
            DistributionConfig=distribution_config(pictures, downloads, port, secret)
        )
    distribution = answer["Distribution"]
    _wait_until_deployed(cloudfront, distribution["Id"])
    return distribution


def distribution_config(pictures: str, downloads: str, port: int, secret: str) -> dict[str, Any]:
    """The distribution's config: public pages that are never cached, and two behaviors restricted by key groups.

    `AllViewer` forwards everything that the viewer sent, including the session cookie and Host. On the other behaviors,
    the edge forwards no cookie: pictures and downloads are the same bytes for everyone who may see them.
    """

    def behavior(pattern: str, key_group: str = "") -> dict[str, Any]:
        return {
            "PathPattern": pattern,
            "TargetOriginId": "application",
            "ViewerProtocolPolicy": "allow-all",
            "AllowedMethods": {"Quantity": 2, "Items": READ, "CachedMethods": {"Quantity": 2, "Items": READ}},
            "CachePolicyId": CACHING_OPTIMIZED,
            "Compress": True,
            "TrustedKeyGroups": {"Enabled": True, "Quantity": 1, "Items": [key_group]}
            if key_group
            else {"Enabled": False, "Quantity": 0},
        }

    behaviors = [
        behavior("/pictures/*", pictures),
        behavior("/downloads/*", downloads),
        behavior("/static/*"),
    ]
    return {
        "CallerReference": str(uuid.uuid4()),
        "Comment": COMMENT,
        "Enabled": True,
        "Origins": {
            "Quantity": 1,
            "Items": [
                {
                    "Id": "application",
                    "DomainName": "127.0.0.1",
                    "CustomOriginConfig": {
                        "HTTPPort": port,
                        "HTTPSPort": 443,
                        "OriginProtocolPolicy": "http-only",
                    },
                    "CustomHeaders": {
                        "Quantity": 1,
                        "Items": [{"HeaderName": SECRET_HEADER, "HeaderValue": secret}],
                    },
                }
            ],
        },
        "DefaultCacheBehavior": {
            "TargetOriginId": "application",
            "ViewerProtocolPolicy": "allow-all",
            "AllowedMethods": {
                "Quantity": 7,
                "Items": EVERY_METHOD,
                "CachedMethods": {"Quantity": 2, "Items": READ},
            },
            "CachePolicyId": CACHING_DISABLED,
            "OriginRequestPolicyId": ALL_VIEWER,
        },
        "CacheBehaviors": {"Quantity": len(behaviors), "Items": behaviors},
    }


def _wait_until_deployed(cloudfront: Any, distribution_id: str, seconds: float = 20) -> None:
    """Wait until the distribution is deployed. CloudFront's own waiter polls once a minute, which suits CloudFront;
    Keyfront needs only a moment."""
    patience = time.monotonic() + seconds
    while cloudfront.get_distribution(Id=distribution_id)["Distribution"]["Status"] != "Deployed":
        if time.monotonic() > patience:
            raise TimeoutError(f"distribution {distribution_id} was not deployed within {seconds:g} s")
        time.sleep(0.05)


def _pages(list_call: Callable[..., Any], member: str) -> Iterable[Any]:
    marker: dict[str, str] = {}
    while True:
        page = list_call(**marker)[member]
        yield from page.get("Items", [])
        if not page.get("NextMarker"):
            return
        marker = {"Marker": page["NextMarker"]}
