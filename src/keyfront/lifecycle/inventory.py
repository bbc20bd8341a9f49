"""All that warnings and lists of keys go by, gathered from a CloudFront, the records, custody, and whoever knows what
edges see."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime

from keyfront.cloudfront import key_usage
from keyfront.cloudfront.key_usage import KeyUses
from keyfront.custody.contract import Records
from keyfront.custody.key_record import KeyGroupRecord, read_succession
from keyfront.errors import AccountError, CustodyError
from keyfront.lifecycle.cloudfront import CloudFront, trusted
from keyfront.lifecycle.findings import Facts, KnownGroup, KnownKey
from keyfront.lifecycle.missing_keys import lost_keys


class Account(CloudFront):
    """A CloudFront account as it is looked over. For one thread."""

    def overview(self) -> tuple[tuple[KnownKey, ...], tuple[KnownGroup, ...]]:
        """All public keys and key groups.

        :raises Refused: if it cannot be asked.
        """
        trusting: dict[str, list[str]] = {}
        for item in self._client.pages("ListDistributions", "DistributionList"):
            for id_ in trusted(item):
                trusting.setdefault(id_, []).append(item["Id"])
        groups = []
        within: dict[str, list[str]] = {}
        for item in self._client.pages("ListKeyGroups", "KeyGroupList"):
            found, config = item["KeyGroup"], item["KeyGroup"]["KeyGroupConfig"]
            items = tuple(config.get("Items") or ())
            groups.append(
                KnownGroup(found["Id"], config["Name"], items, tuple(sorted(trusting.get(found["Id"], ()))))
            )
            for id_ in items:
                within.setdefault(id_, []).append(config["Name"])
        keys = tuple(
            KnownKey(
                item["Id"], item["Name"], _epoch(item.get("CreatedTime")), tuple(within.get(item["Id"], ()))
            )
            for item in self._client.pages("ListPublicKeys", "PublicKeyList")
        )
        return keys, tuple(groups)

    def uses(self) -> KeyUses | None:
        """What edges see of them; None where nobody tells.

        :raises AccountError: if it is not told to this caller.
        """
        return key_usage.ask(self._client.session, self.endpoint)


def _epoch(moment: object) -> float:
    return moment.timestamp() if isinstance(moment, datetime) else 0.0


def survey(
    account: Account,
    records: Records | None,
    environment: Mapping[str, str] = os.environ,
    complain: Callable[[str], None] = lambda _: None,
) -> Facts:
    """All that is known now. What cannot be had beside the account itself is not known, and `complain` is told why.

    :param records: None if nobody knows where they are.
    :raises AccountError: if the account cannot be asked.
    """
    keys, groups = account.overview()
    found = read_records(records, complain) if records is not None else None
    try:
        uses = account.uses()
    except AccountError as error:
        complain(str(error))
        uses = None
    return Facts(keys, groups, found, lost_keys(found or (), environment), uses)


def read_records(records: Records, complain: Callable[[str], None]) -> tuple[KeyGroupRecord, ...] | None:
    """All records of a place, without those that cannot be read; None if the place cannot."""
    found = []
    try:
        for name in records.names():
            record = records.read(name)
            try:
                if record is not None:
                    found.append(read_succession(record.data))
            except CustodyError as error:
                complain(f"{name} in {records.uri}: {error}")
    except (CustodyError, OSError) as error:
        complain(f"the records {records.uri} cannot be read: {error}")
        return None
    return tuple(found)
