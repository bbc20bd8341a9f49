"""Key monitoring: key usage as Prometheus metrics, and warnings about keys as metrics and in the log."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keyfront.cloudfront.key_usage import KeyUses
from keyfront.control.keys.usage import uses
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.custody.contract import Records
from keyfront.custody.key_record import KeyGroupRecord, Stage, parse_record
from keyfront.errors import ApiError, CustodyError, KeyfrontError
from keyfront.lifecycle.findings import (
    Commands,
    Facts,
    Finding,
    KeyTerm,
    KnownGroup,
    KnownKey,
    Severity,
    findings,
    key_terms,
)
from keyfront.lifecycle.missing_keys import lost_keys
from keyfront.model.kinds import DISTRIBUTION, KEY_GROUP, PUBLIC_KEY

log = logging.getLogger("keyfront.rotation")

WATCH = 60.0
"""Seconds between two checks for warnings to log."""
ASK_CUSTODY = 3600.0
"""Seconds between two checks that custody still has the keys: some key stores charge for requests."""
FRESH = 10.0
"""Seconds for which the warnings found are reused."""
AGAIN = 86_400.0
"""Seconds after which the same warning is logged again."""


class KeyWatch:
    """Finds and logs warnings about keys. Safe to use from several threads.

    :param records: the rotation records; None if they are unknown.
    :param is_leader: whether this control plane logs the warnings.
    :param commands: those that find this control plane.
    """

    def __init__(
        self,
        store: Store,
        records: Records | None,
        environment: Mapping[str, str] = os.environ,
        is_leader: Callable[[], bool] = lambda: True,
        commands: Commands = Commands(),
    ) -> None:
        self._store = store
        self._records = records
        self._environment = environment
        self._is_leader = is_leader
        self._commands = commands
        self._lock = threading.Lock()
        self._found: tuple[float, tuple[Finding, ...]] = (-FRESH, ())
        self._terms: tuple[KeyTerm, ...] = ()
        self._lost: tuple[float, Mapping[str, str]] = (-ASK_CUSTODY, {})
        self._logged: dict[tuple[str, str], tuple[int, int, float]] = {}
        self._trouble: dict[str, str] = {}
        self._records_read: tuple[float, tuple[KeyGroupRecord, ...] | None] = (-WATCH, None)

    def findings(self, now: float) -> tuple[Finding, ...]:
        """All warnings at the time `now` (epoch seconds).

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        with self._lock:
            found = self._found
            if 0 <= now - found[0] < FRESH:
                return found[1]
            records = self._read(now)
            with self._store.read() as transaction:
                facts = facts_of(transaction, records, self._lost[1], now)
            self._found = (now, findings(msgspec.structs.replace(facts, commands=self._commands), now))
            self._terms = tuple(key_terms(facts))
            return self._found[1]

    def terms(self, now: float) -> tuple[KeyTerm, ...]:
        """When the keys' time is over.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        self.findings(now)
        return self._terms

    def _read(self, now: float) -> tuple[KeyGroupRecord, ...] | None:
        """The rotation records: current if they are files, otherwise at most a minute old."""
        if self._records is None:
            return None
        if self._records.uri.startswith("file:") or not 0 <= now - self._records_read[0] < WATCH:
            self._records_read = (now, self._read_all(self._records))
        return self._records_read[1]

    def _read_all(self, records: Records) -> tuple[KeyGroupRecord, ...] | None:
        found = []
        try:
            names = records.names()
        except (KeyfrontError, OSError) as error:
            self._log_once("", f"the rotation records cannot be read: {error}")
            return None
        for name in names:
            try:
                record = records.read(name)
                if record is not None:
                    found.append(parse_record(record.data))
                self._trouble.pop(name, None)
            except (CustodyError, OSError) as error:
                self._log_once(name, f"the rotation record {name} cannot be read: {error}")
        self._trouble.pop("", None)
        return tuple(found)

    def _log_once(self, name: str, message: str) -> None:
        if self._trouble.get(name) != message:
            log.error("%s", message)
            self._trouble[name] = message

    def check(self, now: float) -> None:
        """Log warnings that are new or have become more severe, and once a day those that persist. Findings below the
        severity WARNING are not logged.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        if not 0 <= now - self._lost[0] < ASK_CUSTODY:
            with self._lock:
                records = self._read(now)
            self._lost = (now, lost_keys(records or (), self._environment))
        found = self.findings(now)
        logged, self._logged = self._logged, {}
        for each in found:
            if each.severity < Severity.WARNING:
                continue
            name = (each.code, each.subject)
            severity, day, at = logged.get(name, (0, -1, -AGAIN))
            if (each.severity, each.day) == (severity, day) and 0 <= now - at < AGAIN:
                self._logged[name] = (severity, day, at)
                continue
            self._logged[name] = (int(each.severity), each.day, now)
            if self._is_leader():
                log.warning(
                    "%s (%s): %s. %s", each.severity.name.lower(), each.code, each.sentence, each.advice
                )


def facts_of(
    transaction: Transaction,
    records: tuple[KeyGroupRecord, ...] | None,
    lost: Mapping[str, str],
    now: float,
) -> Facts:
    """The state of all keys: from the store, and from the rotation records."""
    groups = transaction.get_many(KEY_GROUP.name, transaction.versions(KEY_GROUP.name))
    keys = transaction.get_many(PUBLIC_KEY.name, transaction.versions(PUBLIC_KEY.name))
    within: dict[str, list[str]] = {}
    for group in groups:
        for id_ in group.config["Items"]:
            within.setdefault(id_, []).append(group.config["Name"])
    return Facts(
        keys=tuple(
            KnownKey(key.id, key.config["Name"], key.created, tuple(within.get(key.id, ()))) for key in keys
        ),
        groups=tuple(
            KnownGroup(
                group.id,
                group.config["Name"],
                tuple(group.config["Items"]),
                tuple(transaction.referrers(KEY_GROUP.name, group.id, DISTRIBUTION.name)),
            )
            for group in groups
        ),
        records=records,
        lost={
            uri: why
            for uri, why in lost.items()
            if any(
                entry.uri == uri and entry.stage is not Stage.RETIRED
                for r in records or ()
                for entry in r.entries
            )
        },
        uses=uses(transaction, now),
    )


class KeyMetrics(Collector):
    """Metrics of keys. All control planes on one store report the same."""

    def __init__(self, store: Store, watch: KeyWatch) -> None:
        self._store = store
        self._watch = watch

    def describe(self) -> Iterable[Metric]:
        return [*use_families(KeyUses(0.0, 0.0)), warning_family(()), term_family(())]

    def collect(self) -> Iterable[Metric]:
        now = time.time()
        try:
            with self._store.read() as transaction:
                found = uses(transaction, now)
            warnings, terms = self._watch.findings(now), self._watch.terms(now)
            return [*use_families(found), warning_family(warnings), term_family(terms)]
        except ApiError:  # logged already
            return ()


def use_families(found: KeyUses) -> list[Metric]:
    """Metric families of the use of keys."""
    key = ["key_pair_id"]
    requests = CounterMetricFamily(
        "keyfront_key_requests",
        "Requests allowed by signatures of a key, by all edges, since the store began to count.",
        labels=["key_pair_id", "hash_algorithm"],
    )
    share = GaugeMetricFamily(
        "keyfront_key_share",
        "Share of a key in the requests that signatures allowed within a day, 0 to 1.",
        labels=key,
    )
    seen = GaugeMetricFamily(
        "keyfront_key_last_seen_timestamp_seconds",
        "When edges last accepted a key's signature, epoch seconds.",
        labels=key,
    )
    end = GaugeMetricFamily(
        "keyfront_key_signatures_end_timestamp_seconds",
        "When the last accepted signature of a key expires, epoch seconds.",
        labels=key,
    )
    for use in found.items:
        for name, counted in use.hashes.items():
            requests.add_metric([use.key_pair_id, name], counted.requests)
        share.add_metric([use.key_pair_id], use.share)
        seen.add_metric([use.key_pair_id], use.last_seen)
        end.add_metric([use.key_pair_id], use.signatures_end)
    return [requests, share, seen, end]


def term_family(found: Iterable[KeyTerm]) -> Metric:
    """The metric family of the keys' terms."""
    family = GaugeMetricFamily(
        "keyfront_key_expiry_timestamp_seconds",
        "When the term of a signing key ends, or until when a draining key is trusted at least.",
        labels=["key_pair_id", "name", "stage"],
    )
    terms = {(each.key_pair_id, each.name, each.stage): each.ends for each in found}
    for labels, ends in terms.items():
        family.add_metric(labels, ends)
    return family


def warning_family(found: Iterable[Finding]) -> Metric:
    """The metric family of warnings."""
    family = GaugeMetricFamily(
        "keyfront_key_warning",
        "1 for each warning about keys (docs/reference/warnings.md).",
        labels=["code", "severity", "kind", "subject", "name"],
    )
    # A key in two groups may yield the same warning twice, but a sample must be unique.
    for labels in dict.fromkeys(
        (each.code, each.severity.name.lower(), each.kind, each.subject, each.name) for each in found
    ):
        family.add_metric(labels, 1)
    return family
