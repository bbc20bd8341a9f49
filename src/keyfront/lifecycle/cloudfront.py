"""The client of the CloudFront API for rotations, Amazon's or Keyfront's: eight operations, and Keyfront's report on
key usage.

`Api` is the interface that the executor uses. `CloudFront` implements it for a real endpoint: it reads all pages of a
list, takes ETags from fresh reads, and measures the server's clock against the local one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from keyfront.cloudfront import key_usage
from keyfront.cloudfront.refusal import Refused
from keyfront.cloudfront.session import CloudFrontClient
from keyfront.lifecycle.facts import Distribution, Group, KnownKey

OPERATIONS = (
    "GetKeyGroup",
    "ListKeyGroups",
    "UpdateKeyGroup",
    "ListPublicKeys",
    "GetPublicKey",
    "CreatePublicKey",
    "DeletePublicKey",
    "ListDistributions",
)
"""All operations that the client calls: what an IAM policy must allow, in addition to `key_usage.ACTION` on
Keyfront."""


_DATE = 2.0
"""The precision of a Date header in seconds: it has no fractions, and servers update it once a second."""


class Api(Protocol):
    """Every method may raise `Refused`."""

    @property
    def endpoint(self) -> str: ...

    @property
    def skew(self) -> float | None:
        """Seconds by which the server's clock was ahead of the local one at the last response; None if unknown."""

    def key_group(self, id_: str) -> Group | None: ...

    def find_key_group(self, name: str) -> Group | None: ...

    def update_key_group(self, group: Group, items: tuple[str, ...]) -> None:
        """:raises Refused: PreconditionFailed if the group has changed since `group` was read."""

    def key_groups_of(self, public_keys: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """The names of the key groups that contain a public key, for each of `public_keys` that is in one."""

    def public_keys(self) -> tuple[KnownKey, ...]: ...

    def public_key(self, id_: str) -> KnownKey | None:
        """One key, read directly: a list may lack a new one."""

    def create_public_key(self, name: str, encoded_key: str, comment: str) -> str:
        """Create a public key and return its id; `name` is also its caller reference.

        :raises Refused: PublicKeyAlreadyExists, TooManyPublicKeys.
        """

    def delete_public_key(self, id_: str) -> None:
        """Delete a public key. Does nothing if it does not exist.

        :raises Refused: PublicKeyInUse.
        """

    def distributions(self, key_group_id: str) -> tuple[Distribution, ...]:
        """The distributions that trust the key group in any of their behaviors."""

    def last_expiry(self) -> Mapping[str, float]:
        """When the latest link signed by a key that edges have seen expires: epoch seconds by key id, where known."""


class CloudFront:
    """One account through one endpoint. Not thread-safe."""

    def __init__(
        self,
        endpoint_url: str = "",
        profile: str = "",
        *,
        credentials: tuple[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        :param credentials: access key id and secret, in place of any that botocore would find.
        :param clock: the local clock, epoch seconds.
        :raises Refused: if botocore cannot create a client from these arguments.
        """
        self._clock = clock
        self._skew: float | None = None
        self._client = CloudFrontClient(
            endpoint_url,
            profile,
            credentials=credentials,
            user_agent="keyfront-rotation",
            on_response=self._note,
        )

    @property
    def endpoint(self) -> str:
        return self._client.endpoint

    @property
    def skew(self) -> float | None:
        return self._skew

    def _note(self, answer: Mapping[str, Any]) -> None:
        """Read the server's clock from the Date header of a response (RFC 9110 section 6.6.1)."""
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            ahead = parsedate_to_datetime(date).timestamp() - self._clock()
            self._skew = 0.0 if abs(ahead) <= _DATE else ahead
        except (TypeError, ValueError, OverflowError):
            self._skew = None

    # ---- key groups

    def key_group(self, id_: str) -> Group | None:
        try:
            answer = self._client.call("GetKeyGroup", Id=id_)
        except Refused as error:
            if error.code.startswith("NoSuch"):
                return None
            raise
        found, config = answer["KeyGroup"], answer["KeyGroup"]["KeyGroupConfig"]
        modified = found.get("LastModifiedTime")
        return Group(
            id=found["Id"],
            name=config["Name"],
            items=tuple(config.get("Items") or ()),
            etag=answer["ETag"],
            modified=modified.timestamp() if isinstance(modified, datetime) else 0.0,
            comment=config.get("Comment") or "",
        )

    def find_key_group(self, name: str) -> Group | None:
        for item in self._client.pages("ListKeyGroups", "KeyGroupList"):
            if item["KeyGroup"]["KeyGroupConfig"]["Name"] == name:
                return self.key_group(item["KeyGroup"]["Id"])
        return None

    def update_key_group(self, group: Group, items: tuple[str, ...]) -> None:
        config = {"Name": group.name, "Items": list(items), "Comment": group.comment}
        self._client.call("UpdateKeyGroup", Id=group.id, IfMatch=group.etag, KeyGroupConfig=config)

    def key_groups_of(self, public_keys: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        wanted, found = set(public_keys), dict[str, list[str]]()
        for item in self._client.pages("ListKeyGroups", "KeyGroupList"):
            config = item["KeyGroup"]["KeyGroupConfig"]
            for id_ in wanted.intersection(config.get("Items") or ()):
                found.setdefault(id_, []).append(config["Name"])
        return {id_: tuple(names) for id_, names in found.items()}

    # ---- public keys

    def public_keys(self) -> tuple[KnownKey, ...]:
        return tuple(
            KnownKey(item["Id"], item["Name"], item["EncodedKey"])
            for item in self._client.pages("ListPublicKeys", "PublicKeyList")
        )

    def public_key(self, id_: str) -> KnownKey | None:
        try:
            config = self._client.call("GetPublicKey", Id=id_)["PublicKey"]["PublicKeyConfig"]
        except Refused as error:
            if not error.code.startswith("NoSuch"):
                raise
            return None
        return KnownKey(id_, config["Name"], config["EncodedKey"])

    def create_public_key(self, name: str, encoded_key: str, comment: str) -> str:
        config = {"CallerReference": name, "Name": name, "EncodedKey": encoded_key, "Comment": comment}
        return str(self._client.call("CreatePublicKey", PublicKeyConfig=config)["PublicKey"]["Id"])

    def delete_public_key(self, id_: str) -> None:
        try:
            etag = self._client.call("GetPublicKey", Id=id_)["ETag"]
            self._client.call("DeletePublicKey", Id=id_, IfMatch=etag)
        except Refused as error:
            if not error.code.startswith("NoSuch"):
                raise

    # ---- distributions

    def distributions(self, key_group_id: str) -> tuple[Distribution, ...]:
        return tuple(
            Distribution(item["Id"], item["Status"])
            for item in self._client.pages("ListDistributions", "DistributionList")
            if key_group_id in trusted(item)
        )

    # ---- key usage

    def last_expiry(self) -> Mapping[str, float]:
        uses = key_usage.fetch(self._client.session, self.endpoint)
        return {use.key_pair_id: use.signatures_end for use in uses.items} if uses else {}


def trusted(summary: Mapping[str, Any]) -> set[str]:
    """The ids of the key groups that a distribution trusts in any of its behaviors."""
    behaviors = [summary["DefaultCacheBehavior"], *((summary.get("CacheBehaviors") or {}).get("Items") or ())]
    return {id_ for each in behaviors for id_ in (each.get("TrustedKeyGroups") or {}).get("Items") or ()}
