"""When a load balancer should send viewers elsewhere."""

from __future__ import annotations

from keyfront.edge.rules.health import HealthState, unhealthy
from tests.rows import rows

NOW = 1000.0


@rows(
    ("state", "max_age", "reason"),
    [
        (HealthState(stopping=False, snapshot=1, confirmed_at=NOW), 60, ""),
        (HealthState(stopping=False, snapshot=1, confirmed_at=NOW - 60), 60, ""),
        (HealthState(stopping=False, snapshot=1, confirmed_at=NOW - 61), 60, "snapshot_too_old"),
        (HealthState(stopping=False, snapshot=1, confirmed_at=NOW + 61), 60, ""),  # the clock was set back
        (HealthState(stopping=False, snapshot=1, confirmed_at=0.0), 60, "snapshot_too_old"),
        (HealthState(stopping=False, snapshot=1, confirmed_at=0.0), 0, ""),
        (HealthState(stopping=False, snapshot=0, confirmed_at=NOW), 0, "no_snapshot"),
        (HealthState(stopping=True, snapshot=0, confirmed_at=0.0), 60, "stopping"),
        (HealthState(stopping=True, snapshot=1, confirmed_at=NOW), 0, "stopping"),
    ],
)
def test_the_first_reason_counts(state: HealthState, max_age: float, reason: str) -> None:
    assert unhealthy(state, max_age, NOW) == reason
