"""GetStatus: what the edges apply and count, and what needs attention."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec

from keyfront.cloudfront.installation_status import (
    PATH,
    Attention,
    EdgeStatus,
    InstallationStatus,
    Traffic,
)
from keyfront.control.call import Call
from keyfront.control.keys.watch import KeyWatch
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.fleet.edge_counters import CERTIFICATE_EXPIRY, Sums
from keyfront.fleet.feed import Report
from keyfront.fleet.regions import Regions
from keyfront.lifecycle.findings import Severity
from keyfront.monitoring.traffic import totals

CERTIFICATE_DAYS = 14
"""Days before its end from which a certificate is a warning, as for `keyfront status`."""


def get_status(
    feeds: Regions,
    watch: KeyWatch,
    trouble: Callable[[], Iterable[str]],
    ringing: Callable[[], Iterable[tuple[str, str]]],
) -> OwnOperation:
    """The operation.

    :param trouble: returns what is wrong with the control plane itself, a sentence each.
    :param ringing: returns the alarms that ring: name and reason.
    """

    def run(call: Call) -> InstallationStatus:
        reports = feeds.full_reports(time.time())
        published = feeds.own.published_at()
        number = published[0] if published else None
        counted = totals(report.counters for report in reports)
        return InstallationStatus(
            time=call.now,
            version=version("keyfront"),
            snapshot=number,
            published=published[1] if published else 0.0,
            edges=tuple(
                EdgeStatus(each.name, each.region, each.number, each.at, each.refused) for each in reports
            ),
            traffic=Traffic(
                counted.requests,
                counted.bytes_sent,
                counted.signed,
                counted.statuses,
                counted.results,
                counted.denials,
            ),
            attention=(
                *(Attention("CRITICAL", one) for one in trouble()),
                *_of_edges(reports, number),
                *_of_certificates(reports, call.now),
                *(
                    Attention("WARNING", f"the alarm {name} rings: {reason}", kind="alarm", subject=name)
                    for name, reason in ringing()
                ),
                *(
                    Attention(each.severity.name, each.sentence, each.advice, each.kind, each.subject)
                    for each in watch.findings(call.now)
                    if each.severity >= Severity.WARNING
                ),
            ),
        )

    return OwnOperation("GetStatus", "GET", PATH, run)


def _of_edges(reports: list[Report], published: int | None) -> Iterable[Attention]:
    """What `keyfront status` says about edges."""
    if not reports:
        yield Attention("CRITICAL", "no edge has reported in the last seconds", kind="edge")
    for report in reports:
        if report.refused:
            yield Attention(
                "CRITICAL",
                f"edge {report.name} refused a snapshot: {report.refused}",
                kind="edge",
                subject=report.name,
            )
        if published is not None and report.number != published:
            sentence = f"edge {report.name} applies snapshot {report.number or 'none'}, not {published}"
            yield Attention("WARNING", sentence, kind="edge", subject=report.name)


def _of_certificates(reports: list[Report], now: float) -> Iterable[Attention]:
    """Certificates for viewers that expire soon or have expired, each once, however many workers have it."""
    ends: dict[str, float] = {}
    for report in reports:
        try:
            series = msgspec.convert(report.counters, Sums, strict=False).series
        except msgspec.ValidationError:
            continue
        for name, labels, cells in series:
            if name == CERTIFICATE_EXPIRY.name and len(labels) == len(cells) == 1:
                end = cells[0] / CERTIFICATE_EXPIRY.scale
                ends[labels[0]] = min(end, ends.get(labels[0], end))
    for name, end in sorted(ends.items()):
        date = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if end < now:
            yield Attention("CRITICAL", f"the certificate {name} expired on {date}")
        elif end < now + CERTIFICATE_DAYS * 86_400:
            yield Attention("WARNING", f"the certificate {name} expires on {date}")
