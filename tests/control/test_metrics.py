"""The control plane's own metrics, and the page that lists all metrics."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry
from scripts.metrics import PAGE, control_rows, edge_rows, page

from keyfront.control.metrics import PlaneMetrics
from keyfront.fleet.file_feed import FileFeed
from tests.control.harness import Harness


def samples(metrics: PlaneMetrics) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(metrics)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def certificate(ends: int) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "c")])
    end = datetime.datetime.fromtimestamp(ends, datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, end - datetime.timedelta(1), end)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_what_is_published_and_recorded(harness: Harness) -> None:
    trouble = [""]
    metrics = PlaneMetrics(harness.store, harness.feed, lambda: trouble[0])
    before = samples(metrics)
    harness.key("one")
    after = samples(metrics)
    published = harness.feed.published_at()
    assert published is not None
    assert after["keyfront_snapshot_number",] == published[0]
    assert after["keyfront_snapshot_published_timestamp_seconds",] == published[1]
    assert after["keyfront_audit_records_total",] == before["keyfront_audit_records_total",] + 1
    assert after["keyfront_audit_failing",] == 0
    trouble[0] = "disk full"
    assert samples(metrics)["keyfront_audit_failing",] == 1


def test_what_is_not_there_has_no_sample(harness: Harness, tmp_path: Path) -> None:
    metrics = PlaneMetrics(harness.store, FileFeed(tmp_path / "empty"), lambda: "", tmp_path / "gone.pem")
    assert {name for name, *_ in samples(metrics)} == {
        "keyfront_audit_records_total",
        "keyfront_audit_failing",
    }


def test_certificates_and_enrolled_edges(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "edges.pem").write_bytes(certificate(2_000_000_000))
    metrics = PlaneMetrics(
        harness.store, harness.feed, lambda: "", tmp_path / "edges.pem", has_enrolled_edges=True
    )
    found = samples(metrics)
    assert found["keyfront_certificate_expiry_timestamp_seconds", "edges.pem"] == 2_000_000_000
    assert not [name for name, *_ in found if name.startswith("keyfront_enrolled_edge")]


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `make docs`"


def test_names_follow_prometheus_conventions() -> None:
    rows = [*edge_rows(), *control_rows()]
    assert len({(row.name, row.labels) for row in rows}) == len(rows)
    for row in rows:
        assert row.name.startswith("keyfront_")
        assert row.name.endswith("_total") == (row.kind == "counter"), row.name
        assert not row.name.endswith(("_microseconds", "_ms", "_kb")), row.name
        if "timestamp" in row.name or row.kind in ("histogram", "summary"):
            assert row.name.endswith("_seconds"), row.name
        assert row.help.endswith("."), row.name
