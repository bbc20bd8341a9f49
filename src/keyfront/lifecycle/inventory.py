"""The facts behind key warnings and key lists, collected from a CloudFront account, the rotation records, custody, and
the usage that edges report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime

from keyfront.cloudfront import key_usage
from keyfront.cloudfront.key_usage import KeyUses
from keyfront.custody.contract import Records
from keyfront.custody.key_record import KeyGroupRecord, parse_record
from keyfront.errors import AccountError, CustodyError
from keyfront.lifecycle.cloudfront import CloudFront, trusted
from keyfront.lifecycle.findings import Commands, Facts, KnownGroup, KnownKey
from keyfront.lifecycle.missing_keys import lost_keys


class Account(CloudFront):
    """A CloudFront account to survey. Not thread-safe."""

    def overview(self) -> tuple[tuple[KnownKey, ...], tuple[KnownGroup, ...]]:
        """All public keys and key groups.

        :raises Refused: if the account cannot be queried.
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
        """How edges see the keys used; None if no usage is reported.

        :raises AccountError: if this caller may not read it.
        """
        return key_usage.fetch(self._client.session, self.endpoint)


def _epoch(moment: object) -> float:
    return moment.timestamp() if isinstance(moment, datetime) else 0.0


def survey(
    account: Account,
    records: Records | None,
    environment: Mapping[str, str] = os.environ,
    complain: Callable[[str], None] = lambda _: None,
    commands: Commands = Commands(),
) -> Facts:
    """Collect all facts that are available now. Only the account itself is required; anything else that cannot be read
    counts as unknown, and `complain` is called with the reason.

    :param records: None if their location is unknown.
    :param commands: those that find this account.
    :raises AccountError: if the account cannot be queried.
    """
    keys, groups = account.overview()
    found = read_records(records, complain) if records is not None else None
    try:
        uses = account.uses()
    except AccountError as error:
        complain(str(error))
        uses = None
    return Facts(keys, groups, found, lost_keys(found or (), environment), uses, commands)


def read_records(records: Records, complain: Callable[[str], None]) -> tuple[KeyGroupRecord, ...] | None:
    """All readable records in `records`; None if it cannot be listed."""
    found = []
    try:
        for name in records.names():
            record = records.read(name)
            try:
                if record is not None:
                    found.append(parse_record(record.data))
            except CustodyError as error:
                complain(f"{name} in {records.uri}: {error}")
    except (CustodyError, OSError) as error:
        complain(f"the records {records.uri} cannot be read: {error}")
        return None
    return tuple(found)
