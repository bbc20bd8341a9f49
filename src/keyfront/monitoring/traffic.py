"""Totals of the traffic that edges count: requests by status class and result, refused signatures by reason. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from keyfront.fleet.edge_counters import DENIALS, REQUESTS, RESPONSE_BYTES, SIGNATURES, Sums


class Totals(msgspec.Struct, frozen=True):
    """Counts since each of the edges started. The keys of `statuses` are classes such as `2xx`, those of `results`
    CloudFront's x-edge-result-type, those of `denials` reasons."""

    requests: int
    bytes_sent: int
    signed: int
    statuses: Mapping[str, int]
    results: Mapping[str, int]
    denials: Mapping[str, int]


def totals(reports: Iterable[Mapping[str, object]]) -> Totals:
    """Add up the counters of reports, each a plain mapping. A report of another version is skipped."""
    statuses: Counter[str] = Counter()
    results: Counter[str] = Counter()
    denials: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for raw in reports:
        try:
            counted = msgspec.convert(raw, Sums, strict=False)
        except msgspec.ValidationError:
            continue
        for name, labels, cells in counted.series:
            if not cells:
                continue
            number = cells[0]
            if name == REQUESTS.name and len(labels) == len(REQUESTS.labels):
                sums["requests"] += number
                statuses[_class_of(labels[1])] += number
                results[labels[2]] += number
            elif name == DENIALS.name and len(labels) == len(DENIALS.labels):
                denials[labels[1]] += number
            elif name == SIGNATURES.name:
                sums["signed"] += number
            elif name == RESPONSE_BYTES.name:
                sums["bytes"] += number
    return Totals(
        sums["requests"],
        sums["bytes"],
        sums["signed"],
        dict(sorted(statuses.items())),
        dict(results.most_common()),
        dict(denials.most_common()),
    )


def _class_of(status: str) -> str:
    return f"{status[0]}xx" if len(status) == 3 and status.isdigit() else "other"
