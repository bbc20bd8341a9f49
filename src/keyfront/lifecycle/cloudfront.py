"""The CloudFront API as a rotation meets it, Amazon's or Keyfront's: eight operations, through botocore, and what a
Keyfront tells besides.

`Api` is all that the conductor knows of it. `CloudFront` speaks to a real one; it repeats what may be repeated, reads
lists to their end, takes ETags from fresh reads, and notes how far the server's clock is from this one.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader, create_loader
from botocore.session import Session

from keyfront.cloudfront import key_usage
from keyfront.errors import AccountError
from keyfront.lifecycle.rotation import Distribution, Group, KnownKey

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
"""All that it calls: what a policy for it has to allow (and `keyuse.ACTION`, where there is such a thing)."""


_DATE = 2.0
"""What a Date header cannot tell, seconds: it has none of their fractions, and servers make it once a second."""


class Refused(AccountError):
    """An API's answer other than success; `code` is its error code, empty if there was no answer."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Api(Protocol):
    """Every method may raise `Refused`."""

    @property
    def endpoint(self) -> str: ...

    @property
    def skew(self) -> float | None:
        """How far the server's clock was ahead of the local one at the last answer, seconds; None if not told."""

    def key_group(self, id_: str) -> Group | None: ...

    def find_key_group(self, name: str) -> Group | None: ...

    def update_key_group(self, group: Group, items: tuple[str, ...]) -> None:
        """:raises Refused: PreconditionFailed, if it is not as `group` says any more."""

    def key_groups_of(self, public_keys: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """Names of all key groups that a public key is in, for those of `public_keys` that are in one."""

    def public_keys(self) -> tuple[KnownKey, ...]: ...

    def public_key(self, id_: str) -> KnownKey | None:
        """One by itself: a list may not have what is new."""

    def create_public_key(self, name: str, encoded_key: str, comment: str) -> str:
        """Its id; `name` is its caller reference too.

        :raises Refused: PublicKeyAlreadyExists, TooManyPublicKeys.
        """

    def delete_public_key(self, id_: str) -> None:
        """One that is gone already is no error.

        :raises Refused: PublicKeyInUse.
        """

    def distributions(self, key_group_id: str) -> tuple[Distribution, ...]:
        """Those that trust the key group in one of their behaviors."""

    def last_expiry(self) -> Mapping[str, float]:
        """Until when the latest link that edges have seen of a key is good, by its id, as far as that is known."""


@functools.cache
def _loader(data_path: str | None) -> Loader:
    return create_loader(data_path)


class CloudFront:
    """One account through one endpoint. For one thread."""

    def __init__(
        self,
        endpoint_url: str = "",
        profile: str = "",
        *,
        credentials: tuple[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        :param credentials: access key id and secret; default: what botocore finds.
        :raises Refused: if botocore cannot make a client of that.
        """
        self._clock = clock
        self._skew: float | None = None
        try:
            session = Session(profile=profile or None)
            session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
            if credentials is not None:
                session.set_credentials(*credentials)
            self._session = session
            self._client = session.create_client(
                "cloudfront",
                endpoint_url=endpoint_url or None,
                region_name=session.get_config_variable("region") or "us-east-1",
                config=Config(
                    user_agent_extra="keyfront-rotation",
                    retries={"mode": "standard", "total_max_attempts": 4},
                    connect_timeout=10,
                    read_timeout=30,
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise Refused(str(error)) from error

    @property
    def endpoint(self) -> str:
        return str(self._client.meta.endpoint_url)

    @property
    def skew(self) -> float | None:
        return self._skew

    def _call(self, operation: str, **params: Any) -> dict[str, Any]:
        try:
            answer = dict(getattr(self._client, xform_name(operation))(**params))
        except ClientError as error:
            self._note(error.response)
            said = error.response.get("Error", {})
            code, message = str(said.get("Code", "")), str(said.get("Message", ""))
            raise Refused(f"{operation}: {code}: {message}", code) from error
        except BotoCoreError as error:
            raise Refused(f"{operation}: {error}") from error
        self._note(answer)
        return answer

    def _note(self, answer: Mapping[str, Any]) -> None:
        said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            ahead = parsedate_to_datetime(said).timestamp() - self._clock()
            self._skew = 0.0 if abs(ahead) <= _DATE else ahead
        except (TypeError, ValueError, OverflowError):
            self._skew = None

    def _pages(self, operation: str, member: str) -> Iterator[dict[str, Any]]:
        marker: dict[str, str] = {}
        while True:
            page = self._call(operation, **marker)[member]
            yield from page.get("Items") or ()
            following = page.get("NextMarker")
            if not following or marker.get("Marker") == following:
                return
            marker = {"Marker": following}

    # ---- key groups

    def key_group(self, id_: str) -> Group | None:
        try:
            answer = self._call("GetKeyGroup", Id=id_)
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
        for item in self._pages("ListKeyGroups", "KeyGroupList"):
            if item["KeyGroup"]["KeyGroupConfig"]["Name"] == name:
                return self.key_group(item["KeyGroup"]["Id"])
        return None

    def update_key_group(self, group: Group, items: tuple[str, ...]) -> None:
        config = {"Name": group.name, "Items": list(items), "Comment": group.comment}
        self._call("UpdateKeyGroup", Id=group.id, IfMatch=group.etag, KeyGroupConfig=config)

    def key_groups_of(self, public_keys: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        wanted, found = set(public_keys), dict[str, list[str]]()
        for item in self._pages("ListKeyGroups", "KeyGroupList"):
            config = item["KeyGroup"]["KeyGroupConfig"]
            for id_ in wanted.intersection(config.get("Items") or ()):
                found.setdefault(id_, []).append(config["Name"])
        return {id_: tuple(names) for id_, names in found.items()}

    # ---- public keys

    def public_keys(self) -> tuple[KnownKey, ...]:
        return tuple(
            KnownKey(item["Id"], item["Name"], item["EncodedKey"])
            for item in self._pages("ListPublicKeys", "PublicKeyList")
        )

    def public_key(self, id_: str) -> KnownKey | None:
        try:
            config = self._call("GetPublicKey", Id=id_)["PublicKey"]["PublicKeyConfig"]
        except Refused as error:
            if not error.code.startswith("NoSuch"):
                raise
            return None
        return KnownKey(id_, config["Name"], config["EncodedKey"])

    def create_public_key(self, name: str, encoded_key: str, comment: str) -> str:
        config = {"CallerReference": name, "Name": name, "EncodedKey": encoded_key, "Comment": comment}
        return str(self._call("CreatePublicKey", PublicKeyConfig=config)["PublicKey"]["Id"])

    def delete_public_key(self, id_: str) -> None:
        try:
            etag = self._call("GetPublicKey", Id=id_)["ETag"]
            self._call("DeletePublicKey", Id=id_, IfMatch=etag)
        except Refused as error:
            if not error.code.startswith("NoSuch"):
                raise

    # ---- distributions

    def distributions(self, key_group_id: str) -> tuple[Distribution, ...]:
        return tuple(
            Distribution(item["Id"], item["Status"])
            for item in self._pages("ListDistributions", "DistributionList")
            if key_group_id in trusted(item)
        )

    # ---- what a Keyfront's edges have seen

    def last_expiry(self) -> Mapping[str, float]:
        uses = key_usage.ask(self._session, self.endpoint)
        return {use.key_pair_id: use.signatures_end for use in uses.items} if uses else {}


def trusted(summary: Mapping[str, Any]) -> set[str]:
    """Ids of the key groups that a distribution trusts anywhere."""
    behaviors = [summary["DefaultCacheBehavior"], *((summary.get("CacheBehaviors") or {}).get("Items") or ())]
    return {id_ for each in behaviors for id_ in (each.get("TrustedKeyGroups") or {}).get("Items") or ()}
