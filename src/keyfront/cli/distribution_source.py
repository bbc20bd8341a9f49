"""Where `keyfront explain` finds distributions, key groups and keys: in the feed of a data folder, or in an account."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import msgspec

from keyfront.cloudfront.session import CloudFrontClient
from keyfront.errors import SettingsError
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.compile import Lookup, compile_distribution, compile_snapshot
from keyfront.model.snapshot import Distribution, KeyGroup, PublicKey, Snapshot


class Source(msgspec.Struct, frozen=True):
    """A snapshot, and where it is from.

    `ahead` is how far this machine's clock is ahead of the API's, in seconds (0 if no API was called). `keys` are all
    keys that are known there, trusted or not; empty: those of the snapshot.
    """

    snapshot: Snapshot
    place: str
    ahead: float = 0.0
    keys: tuple[PublicKey, ...] = ()
    notes: tuple[str, ...] = ()


def from_data(folder: Path) -> Source:
    """What the edges of a data folder apply, or will apply when they start.

    :raises SettingsError: if there is nothing.
    """
    feed = FileFeed(folder)
    snapshot = feed.published() or feed.servable()
    if snapshot is None:
        raise SettingsError(
            f"nothing is published in {folder}: start Keyfront with `keyfront up --data {shlex.quote(str(folder))}`"
        )
    return Source(snapshot, f"snapshot {snapshot.number} in {folder}")


def from_account(client: CloudFrontClient, host: str, now: float) -> Source:
    """The distribution of an account that has this host name, with its key groups and keys. Only what decides about a
    request is read, so a distribution with members that Keyfront does not support can be explained, too.

    :param host: without a port.
    :param now: epoch seconds by this machine's clock.
    :raises Refused: if the API refuses a call, or is unavailable.
    :raises SettingsError: if the distribution cannot be read.
    """
    ahead = now - _date(client.call("ListDistributions", MaxItems="1"), now)
    named = list(client.pages("ListPublicKeys", "PublicKeyList"))
    keys = tuple(PublicKey(one["Id"], one["EncodedKey"]) for one in named)
    # An exact name is before a wildcard, as at the edge.
    found = min(
        client.pages("ListDistributions", "DistributionList"),
        key=lambda one: _distance(one, host),
        default=None,
    )
    if found is None or _distance(found, host) == _NONE:
        nothing = compile_snapshot([], [], [], number=0, now=now)
        return Source(nothing, client.endpoint, ahead, keys)
    config = client.call("GetDistributionConfig", Id=found["Id"])["DistributionConfig"]
    group_configs = {
        id_: client.call("GetKeyGroup", Id=id_)["KeyGroup"]["KeyGroupConfig"] for id_ in _trusted(config)
    }
    groups = tuple(
        KeyGroup(id_, group["Name"], tuple(group["Items"])) for id_, group in group_configs.items()
    )
    compiled = compile_distribution(
        found["Id"], found["ARN"], found["DomainName"], _essence(config), Lookup(key_groups=group_configs)
    )
    if not isinstance(compiled, Distribution):
        raise SettingsError(
            f"the distribution {found['Id']} cannot be read: {'; '.join(problem.message for problem in compiled)}"
        )
    notes = (
        ("It has trusted signers of the older kind, which are not looked at.",)
        if _old_signers(config)
        else ()
    )
    snapshot = compile_snapshot([compiled], keys, groups, number=0, now=now)
    return Source(snapshot, f"{found['Id']} at {client.endpoint}", ahead, keys, notes)


def _date(answer: Mapping[str, Any], now: float) -> float:
    """The API's time of its response, epoch seconds; `now` if it names none."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return now


_NONE = 2


def _distance(summary: Mapping[str, Any], host: str) -> int:
    """How far the distribution's names are from the host: 0 for the same, 1 for a wildcard, `_NONE` for others."""
    names = [summary["DomainName"].lower(), *map(str.lower, summary["Aliases"].get("Items") or ())]
    if host in names:
        return 0
    return 1 if f"*.{host.partition('.')[2]}" in names else _NONE


def _behaviors(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield config["DefaultCacheBehavior"]
    yield from config.get("CacheBehaviors", {}).get("Items") or ()


def _trusted(config: Mapping[str, Any]) -> list[str]:
    return list(
        dict.fromkeys(
            id_
            for behavior in _behaviors(config)
            for id_ in behavior.get("TrustedKeyGroups", {}).get("Items") or ()
        )
    )


def _old_signers(config: Mapping[str, Any]) -> bool:
    return any(behavior.get("TrustedSigners", {}).get("Enabled") for behavior in _behaviors(config))


_DECIDING = ("PathPattern", "TargetOriginId", "ViewerProtocolPolicy", "AllowedMethods", "TrustedKeyGroups")


def _essence(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what has no influence on whether a request is refused."""

    def behavior(full: Mapping[str, Any]) -> dict[str, Any]:
        forwarded = {"QueryString": False, "Cookies": {"Forward": "none"}}
        kept = {name: full[name] for name in _DECIDING if name in full}
        return kept | {"MinTTL": 0, "ForwardedValues": forwarded}

    origins = [
        {
            "Id": origin["Id"],
            "DomainName": "origin.invalid",
            "OriginPath": origin.get("OriginPath", ""),
            "CustomOriginConfig": {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "http-only"},
        }
        for origin in config["Origins"]["Items"]
    ]
    others = [behavior(one) for one in config.get("CacheBehaviors", {}).get("Items") or ()]
    kept = {
        name: config[name]
        for name in ("CallerReference", "Comment", "Enabled", "Aliases", "DefaultRootObject", "Restrictions")
        if name in config
    }
    return kept | {
        "Origins": {"Quantity": len(origins), "Items": origins},
        "OriginGroups": config.get("OriginGroups", {"Quantity": 0}),
        "DefaultCacheBehavior": behavior(config["DefaultCacheBehavior"]),
        "CacheBehaviors": {"Quantity": len(others), "Items": others},
    }
