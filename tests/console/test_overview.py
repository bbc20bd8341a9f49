"""The first page: what edges count and apply, and the charts."""

from __future__ import annotations

import time

from keyfront.cloudfront.installation_status import PATH as STATUS
from keyfront.cloudfront.installation_status import InstallationStatus, Traffic
from keyfront.cloudfront.traffic import PATH, TrafficHistory
from keyfront.console.pages.chart import columns
from keyfront.console.pages.overview import hit_ratio
from keyfront.console.pages.timeline import WIDTH, Life, timeline
from keyfront.control.alarms import minutes
from keyfront.fleet.edge_counters import Series, Sums
from keyfront.monitoring.metric_series import counts_of
from tests.console.harness import ConsolePlane

SERIES: list[Series] = [
    ("requests", ("E1", "200", "Hit", ""), (90,)),
    ("requests", ("E1", "200", "Miss", ""), (10,)),
    ("requests", ("E1", "403", "Error", "expired"), (1234,)),
    ("denials", ("E1", "expired", "K1", "group"), (1234,)),
    ("signatures_accepted", ("K1", "group", "SHA256", "E1"), (77,)),
    ("response_bytes", ("E1",), (5_600_000,)),
]


async def test_what_edges_count_and_apply(plane: ConsolePlane) -> None:
    plane.feed.report("edge-7", 0, at=time.time(), counters=Sums(series=SERIES))
    browser = plane.browser()
    page = await browser.follow(await browser.log_in(plane.owner))
    for text in ("1,334", "90%", "<dd>77</dd>", "<dd>1,234</dd>", "5.6 MB", "expired", "edge-7"):
        assert text in page.text, text
    assert "edge edge-7 applies snapshot" in page.text or "Nothing: all edges" in page.text


async def test_certificates_that_end_soon_need_attention(plane: ConsolePlane) -> None:
    now = time.time()
    ends = {"over": now - 60, "soon": now + 86_400, "fine": now + 90 * 86_400}
    for edge in ("edge-8", "edge-9"):
        series: list[Series] = [
            ("certificate_expiry_timestamp_seconds", (name,), (int(end * 1e6),)) for name, end in ends.items()
        ]
        plane.feed.report(edge, 0, at=now, counters=Sums(series=series))
    found = await plane.client().own("GET", STATUS, InstallationStatus)
    about = [each for each in found.attention if "certificate" in each.sentence]
    assert [(each.severity, each.sentence.split()[2]) for each in about] == [
        ("CRITICAL", "over"),
        ("WARNING", "soon"),
    ]


async def test_the_last_hours_as_bars_and_as_a_table(plane: ConsolePlane) -> None:
    now = time.time()
    with plane.store.write() as transaction:
        minutes.add(transaction, {"run": {}}, {}, minutes.minute_of(now - 3600))
        minutes.add(transaction, {"run": counts_of(SERIES)}, {}, minutes.minute_of(now))
    client = plane.client()
    found = await client.own("GET", PATH, TrafficHistory, {"Hours": "3"})
    assert (found.period, len(found.points)) == (180, 60)
    assert sum(each.requests for each in found.points) == 1334
    assert sum(each.denials for each in found.points) == 1234
    assert sum(each.hits for each in found.points) == 90
    browser = plane.browser()
    await browser.log_in(plane.owner)
    page = await browser.get("/console/?hours=24")
    assert "Requests: 1,334" in page.text
    assert "<strong>Last 24 hours</strong>" in page.text
    assert '<svg class="columns-chart bad"' in page.text


def test_the_hit_ratio_counts_what_could_come_from_the_cache() -> None:
    assert hit_ratio(Traffic(results={"Hit": 6, "RefreshHit": 2, "Miss": 2, "Error": 90})) == 0.8
    assert hit_ratio(Traffic(results={"Error": 5})) is None


def test_bars_stay_within_their_chart() -> None:
    chart = columns([0, 60, 120], [0, 1, 1000])
    assert [(each.x, each.y, each.height) for each in chart.columns] == [(200, 118.5, 1.5), (400, 0, 120)]
    assert (chart.total, chart.highest, chart.rows) == (1001, 1000, (("00:01", 1), ("00:02", 1000)))
    assert columns([], []).columns == ()


def test_a_timeline_reaches_from_the_first_key_to_the_last_link() -> None:
    chart = timeline([Life("old", 0, 5000, 9000, True), Life("new", 1000, 10_000, 0, False)], 4000)
    assert chart is not None
    assert [(each.x, each.width, each.kind) for each in chart.bars] == [
        (0, 500, "drain"),
        (100, 900, "life"),
    ]
    assert chart.now == 400
    unknown = timeline([Life("unknown end", 0, 0, 0, False)], 100)
    assert unknown is not None
    assert unknown.bars[0].width == WIDTH
    assert timeline([], 0) is None
