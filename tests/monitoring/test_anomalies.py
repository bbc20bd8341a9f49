"""From when on credentials count as shared."""

from __future__ import annotations

from keyfront.monitoring.anomalies import Crossing, Evidence, SharingThresholds, crossings
from tests.rows import rows

NETWORKS, COUNTRIES = SharingThresholds().networks, SharingThresholds().countries


@rows(
    ("evidence", "thresholds", "found"),
    [
        (Evidence(NETWORKS - 1, 1, 1, 99, 99), SharingThresholds(), ()),
        (Evidence(NETWORKS, 1, 1, 1, 1), SharingThresholds(), (("networks", NETWORKS, NETWORKS),)),
        (
            Evidence(NETWORKS + 5, COUNTRIES, 1, 1, 1),
            SharingThresholds(),
            (("networks", NETWORKS + 5, NETWORKS), ("countries", COUNTRIES, COUNTRIES)),
        ),
        (Evidence(10**6, 1, 1, 1, 1), SharingThresholds(networks=0), ()),
        (Evidence(2, 1, 1, 50, 1), SharingThresholds(requests=50), (("requests", 50, 50),)),
        (Evidence(2, 1, 1, 1, 2 << 30), SharingThresholds(bytes=1 << 30), (("bytes", 2 << 30, 1 << 30),)),
        (Evidence(1, 9, 99, 10**9, 10**12), SharingThresholds(1, 1, 1, 1, 1), ()),
        (Evidence(2, 1, 1, 0, 0), SharingThresholds(0, 0, 0, 0, 0), ()),
    ],
)
def test_crossings(
    evidence: Evidence, thresholds: SharingThresholds, found: tuple[tuple[str, int, int], ...]
) -> None:
    assert crossings(evidence, thresholds) == tuple(Crossing(*each) for each in found)
