"""GetTraffic: what edges counted in the last hours."""

from __future__ import annotations

from keyfront.cloudfront.traffic import PATH, TrafficHistory, TrafficPoint
from keyfront.control.alarms import minutes
from keyfront.control.call import Call
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.control.store.store import Store
from keyfront.errors import ApiError
from keyfront.monitoring.metric_series import WHOLE

POINTS = 60
"""Points in an answer."""
MOST_HOURS = 24


def get_traffic(store: Store) -> OwnOperation:
    """The operation."""

    def run(call: Call) -> TrafficHistory:
        hours = _hours(call.params.get("Hours", "3"))
        period = hours * 3600 // POINTS
        end = int(call.now // period + 1) * period
        begin = end - POINTS * period
        subject = str(call.params.get("DistributionId", WHOLE))
        with store.read() as transaction:
            found = minutes.read(transaction, subject, begin, end)
        sums = [[0] * 5 for _ in range(POINTS)]
        for at, minute in found.items():
            counts, slot = minute.counts, sums[(at - begin) // period]
            for place, name in enumerate(("requests", "cacheable", "hits", "denials", "5xx")):
                slot[place] += counts.of(name)
        points = tuple(TrafficPoint(begin + at * period, *each) for at, each in enumerate(sums))
        return TrafficHistory(period, points)

    return OwnOperation("GetTraffic", "GET", PATH, run, ("Hours", "DistributionId"))


def _hours(text: object) -> int:
    """:raises ApiError: InvalidArgument."""
    if isinstance(text, str) and text.isascii() and text.isdecimal() and 1 <= int(text[:4]) <= MOST_HOURS:
        return int(text)
    raise ApiError("InvalidArgument", f"Hours must be a number from 1 to {MOST_HOURS}.")
