"""The compiler from stored resources to snapshots, which recompiles only what has changed.

Compiled values are cached by ETag. Every change gives a resource a new ETag that is never used again, so the cache
needs no invalidation, neither after a rollback nor after a change by another control plane.

The compiler is pure except for its cache: rows come through a transaction's protocol, and numbers and times are
arguments.
"""

from __future__ import annotations

import logging
from typing import cast

import msgspec

from keyfront.control.store.contract import OperationTransaction
from keyfront.control.store.rows import Row
from keyfront.errors import ApiError, SettingsError
from keyfront.model.access import Signing, signing_of
from keyfront.model.compile import (
    Lookup,
    Problem,
    compile_cache_policy,
    compile_distribution,
    compile_origin_request_policy,
    compile_snapshot,
    read_response_headers_policy,
)
from keyfront.model.config_reader import Config
from keyfront.model.forwarding import Forwarding
from keyfront.model.invalidation import Carried
from keyfront.model.kinds import (
    CACHE_POLICY,
    DISTRIBUTION,
    KEY_GROUP,
    ORIGIN_ACCESS_CONTROL,
    ORIGIN_ACCESS_IDENTITY,
    ORIGIN_REQUEST_POLICY,
    PUBLIC_KEY,
    RESPONSE_HEADERS_POLICY,
    Kind,
    Quotas,
)
from keyfront.model.residency import NOWHERE, TAG, regions_of, tied_keys
from keyfront.model.snapshot import EMPTY, Distribution, KeyGroup, PublicKey, ResponseHeadersPolicy, Snapshot

log = logging.getLogger("keyfront.control")

Compiled = Distribution | KeyGroup | PublicKey | ResponseHeadersPolicy | Forwarding | Signing

_TRAVELLING = (PUBLIC_KEY, KEY_GROUP, RESPONSE_HEADERS_POLICY, DISTRIBUTION)
"""The kinds that a snapshot contains. Other kinds reach edges only as parts of the distributions that refer to them."""


class Compiler:
    """Compiles rows to values and to snapshots. Not thread-safe."""

    def __init__(self, account: str, quotas: Quotas) -> None:
        self._account = account
        self._quotas = quotas
        self._known: dict[tuple[str, str], tuple[str, Compiled]] = {}
        self._carried: dict[str, tuple[str, Carried]] = {}
        self._invalid_tags: set[tuple[str, str]] = set()
        self.current: Snapshot = EMPTY
        """The last snapshot that was committed."""

    def compiled(self, transaction: OperationTransaction, row: Row) -> Compiled:
        """The compiled value of `row`.

        :raises ApiError: the first problem, if it does not compile.
        """
        found = self._found(transaction, row)
        if isinstance(found, list):
            raise ApiError(found[0].code, found[0].message, found[0].status)
        return found

    def problems(self, transaction: OperationTransaction, row: Row) -> list[Problem]:
        """All problems for which `row` does not compile."""
        found = self._found(transaction, row)
        return found if isinstance(found, list) else []

    def _found(self, transaction: OperationTransaction, row: Row) -> Compiled | list[Problem]:
        known = self._known.get((row.kind, row.id))
        if known is not None and known[0] == row.etag:
            return known[1]
        found = self._compile(transaction, row)
        if not isinstance(found, list) and any(row.kind == kind.name for kind in _TRAVELLING):
            self._known[row.kind, row.id] = (row.etag, found)
        return found

    def differs(self, transaction: OperationTransaction, row: Row, other: Compiled) -> bool:
        """True if `row` compiles to something other than `other`, or no longer compiles (see `_keep_last`)."""
        try:
            return self.compiled(transaction, row) != other
        except ApiError:
            return True

    def snapshot(self, transaction: OperationTransaction, number: int, now: float) -> Snapshot:
        """Everything in the store as snapshot `number`, created at `now` (epoch seconds). Each region gets only its
        part of it: see `model/residency.py`."""
        keys, groups, policies, distributions = (self._all(transaction, kind) for kind in _TRAVELLING)
        invalidations = self._invalidations(transaction)
        tied = self._tied(transaction)
        served = [
            msgspec.structs.replace(
                value,
                invalidations=invalidations.get(value.id, ()),
                regions=tied.get((DISTRIBUTION.name, value.id), ()),
            )
            for value in cast(list[Distribution], distributions)
        ]
        bound = [
            msgspec.structs.replace(value, regions=tied[KEY_GROUP.name, value.id])
            if (KEY_GROUP.name, value.id) in tied
            else value
            for value in cast(list[KeyGroup], groups)
        ]
        return compile_snapshot(
            served,
            tied_keys(cast(list[PublicKey], keys), bound),
            bound,
            number,
            now,
            cast(list[ResponseHeadersPolicy], policies),
        )

    def _tied(self, transaction: OperationTransaction) -> dict[tuple[str, str], tuple[str, ...]]:
        """The regions that resources are tied to, by kind and id. Tags do not change ETags, so they are read every
        time. An invalid tag, set before Keyfront knew this tag, ties its resource to no region at all."""
        found: dict[tuple[str, str], tuple[str, ...]] = {}
        invalid_tags = set()
        for named, value in transaction.tag_values(TAG).items():
            try:
                found[named] = regions_of(value)
            except SettingsError as error:
                found[named] = NOWHERE
                invalid_tags.add(named)
                if named not in self._invalid_tags:
                    log.error("no edge gets %s %s: %s", *named, error)
        self._invalid_tags = invalid_tags
        return found

    def _invalidations(self, transaction: OperationTransaction) -> dict[str, Carried]:
        """The invalidations that each distribution carries, read only if they changed."""
        versions = transaction.carried_versions()
        known = self._carried
        self._carried = {
            id_: known[id_]
            if id_ in known and known[id_][0] == version
            else (version, transaction.carried(id_))
            for id_, version in versions.items()
        }
        return {id_: carried for id_, (_, carried) in self._carried.items()}

    def _all(self, transaction: OperationTransaction, kind: Kind) -> list[Compiled]:
        versions = transaction.versions(kind.name)
        stale = [id_ for id_, etag in versions.items() if self._known.get((kind.name, id_), ("",))[0] != etag]
        for row in transaction.get_many(kind.name, stale):
            try:
                self.compiled(transaction, row)
            except ApiError as error:
                self._keep_last(row, error)
        for gone in [id_ for name, id_ in self._known if name == kind.name and id_ not in versions]:
            del self._known[kind.name, gone]
        return [self._known[kind.name, id_][1] for id_ in versions if (kind.name, id_) in self._known]

    def _keep_last(self, row: Row, error: ApiError) -> None:
        """Keep the last published form of a resource that no longer compiles, because an upgrade made a rule stricter.
        Such a resource must neither make other calls fail nor remove content."""
        policies = {value.id: value for value in self.current.response_headers_policies}
        served = {value.id: value for value in self.current.distributions}
        last: Compiled | None = served.get(row.id) or policies.get(row.id)
        log.error("%s %s no longer compiles; its last form stays in use: %s", row.kind, row.id, error)
        if last is not None:
            self._known[row.kind, row.id] = (row.etag, last)
        else:
            self._known.pop((row.kind, row.id), None)

    def _compile(self, transaction: OperationTransaction, row: Row) -> Compiled | list[Problem]:
        if row.kind == PUBLIC_KEY.name:
            return PublicKey(id=row.id, pem=row.config["EncodedKey"])
        if row.kind == KEY_GROUP.name:
            return KeyGroup(id=row.id, name=row.config["Name"], key_ids=tuple(row.config["Items"]))
        if row.kind == CACHE_POLICY.name:
            return compile_cache_policy(row.config)
        if row.kind == ORIGIN_REQUEST_POLICY.name:
            return compile_origin_request_policy(row.config)
        if row.kind == RESPONSE_HEADERS_POLICY.name:
            return read_response_headers_policy(row.id, row.config)
        if row.kind == ORIGIN_ACCESS_CONTROL.name:
            return signing_of(row.config)
        if row.kind == ORIGIN_ACCESS_IDENTITY.name:
            return "always"
        return compile_distribution(
            row.id,
            DISTRIBUTION.arn_of(row.id, self._account),
            row.attributes["DomainName"],
            row.config,
            Lookup(
                key_groups=_Configs(transaction, KEY_GROUP),
                cache_policies=_Configs(transaction, CACHE_POLICY),
                origin_request_policies=_Configs(transaction, ORIGIN_REQUEST_POLICY),
                response_headers_policies=_Configs(transaction, RESPONSE_HEADERS_POLICY),
                origin_access_controls=_Configs(transaction, ORIGIN_ACCESS_CONTROL),
                origin_access_identities=_Configs(transaction, ORIGIN_ACCESS_IDENTITY),
            ),
            self._quotas.limits,
        )


class _Configs:
    """The configs of a kind by id, each read on access."""

    def __init__(self, transaction: OperationTransaction, kind: Kind) -> None:
        self._transaction = transaction
        self._kind = kind.name

    def get(self, id_: str, /) -> Config | None:
        row = self._transaction.get(self._kind, id_)
        return None if row is None else row.config
