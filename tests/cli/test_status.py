"""`keyfront status`: what it shows, what it warns about, and its exit status."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keyfront.cli.main import keyfront
from keyfront.control.identity.credentials import load
from keyfront.control.store import schema
from keyfront.custody.default_paths import Installation, own_custody
from keyfront.edge.logs.delivery import STATUS_FILE
from keyfront.edge.logs.delivery import Status as DeliveryStatus
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.snapshot import Snapshot
from keyfront.runtime.installation import write_installation
from tests.control.plane import Plane, distribution_config
from tests.keys import public_pem


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "KEYFRONT_")):
            monkeypatch.delenv(name)


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """As if `keyfront up` ran in the folder."""
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def status(folder: Path, code: int) -> dict[str, Any]:
    done = CliRunner().invoke(keyfront, ["status", "--data", str(folder), "--json"])
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def text(folder: Path) -> str:
    return CliRunner().invoke(keyfront, ["status", "--data", str(folder)]).stdout


@pytest.fixture
def edges(tmp_path: Path) -> tuple[Path, FileFeed]:
    """A data folder that runs edges only, and the feed that they follow, where snapshot 7 is published."""
    feed = FileFeed(tmp_path / "feed")
    feed.publish(Snapshot(7, time.time()))
    data = tmp_path / "edge"
    data.mkdir()
    version = CliRunner().invoke(keyfront, ["--version"]).stdout.split()[-1]
    found = Installation(
        feed=str(tmp_path / "feed"), edge="http://127.0.0.1:80", version=version, started=time.time()
    )
    write_installation(data, found)
    return data, feed


def change(folder: Path, **members: Any) -> None:
    found = msgspec.json.decode((folder / "installation.json").read_bytes(), type=Installation)
    write_installation(folder, msgspec.structs.replace(found, **members))


# ---- edges


def test_edges_that_apply_what_is_published(edges: tuple[Path, FileFeed]) -> None:
    data, feed = edges
    feed.report("edge-1", 7, at=time.time())
    with running(data):
        found = status(data, 0)
        shown = text(data)
    assert found["Running"] is True
    assert (found["Snapshot"], found["Warnings"]) == (7, [])
    assert [(each["Name"], each["Snapshot"]) for each in found["Edges"]] == [("edge-1", 7)]
    assert found["Feed"] == str(feed.folder)
    assert "!" not in shown
    assert "edge-1" in shown


def test_edges_that_lag_refuse_or_are_silent(edges: tuple[Path, FileFeed]) -> None:
    data, feed = edges
    with running(data):
        assert status(data, 1)["Warnings"] == ["no edge has reported in the last seconds"]
        feed.report("edge-1", 6, at=time.time(), refused="it is damaged")
        assert status(data, 1)["Warnings"] == [
            "edge edge-1 refused a snapshot: it is damaged",
            "edge edge-1 applies snapshot 6, not 7",
        ]
        assert "! edge edge-1 applies snapshot 6, not 7" in text(data)


def test_what_does_not_run(edges: tuple[Path, FileFeed]) -> None:
    data, _ = edges
    found = status(data, 3)
    assert (found["Running"], found["Warnings"]) == (False, [])
    assert "NOT RUNNING" in text(data)


def test_another_version_is_installed(edges: tuple[Path, FileFeed]) -> None:
    data, feed = edges
    feed.report("edge-1", 7, at=time.time())
    change(data, version="0.0.1")
    with running(data):
        (warning,) = status(data, 1)["Warnings"]
    assert warning.startswith("Keyfront 0.0.1 runs, and ")


# ---- certificates and disk


def certificate(folder: Path, days: float) -> None:
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "media.test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=90))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("media.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "media.key").write_bytes(pem)
    (folder / "media.key").chmod(0o600)
    (folder / "media.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize(
    ("days", "sentence"), [(60, None), (13, "the certificate media.crt expires on "), (-1, "it expired on ")]
)
def test_certificates(
    days: float, sentence: str | None, edges: tuple[Path, FileFeed], tmp_path: Path
) -> None:
    data, feed = edges
    feed.report("edge-1", 7, at=time.time())
    certificate(tmp_path / "certificates", days)
    change(data, certificates=str(tmp_path / "certificates"), tls="https://127.0.0.1:443")
    with running(data):
        found = status(data, 1 if sentence else 0)
        shown = text(data)
    assert [(each["Name"], each["Hosts"]) for each in found["Certificates"]] == [
        ("media.crt", ["media.test"])
    ]
    assert "media.test" in shown
    assert any(sentence in each for each in found["Warnings"]) if sentence else not found["Warnings"]


def test_certificates_that_are_gone(edges: tuple[Path, FileFeed], tmp_path: Path) -> None:
    data, feed = edges
    feed.report("edge-1", 7, at=time.time())
    change(data, certificates=str(tmp_path / "none"))
    with running(data):
        assert "cannot be read" in status(data, 1)["Warnings"][0]


@pytest.mark.parametrize(
    ("free", "total", "warns"),
    [
        (10 << 30, 100 << 30, False),
        (1 << 29, 100 << 30, True),
        (1 << 29, 1 << 30, False),  # half of a small disk
        (2 << 30, 1 << 40, False),  # little of a large one
        (1 << 20, 1 << 30, True),
    ],
)
def test_disk(
    free: int, total: int, warns: bool, edges: tuple[Path, FileFeed], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, feed = edges
    feed.report("edge-1", 7, at=time.time())
    (data / "cache").mkdir()
    (data / "cache" / "0").write_bytes(b"x" * 100_000)
    monkeypatch.setattr(
        os,
        "statvfs",
        lambda _: SimpleNamespace(f_bavail=free >> 12, f_frsize=4096, f_blocks=total >> 12),
    )
    with running(data):
        found = status(data, 1 if warns else 0)
    assert (found["Disk"]["free"], found["Disk"]["total"]) == (free, total)
    assert found["Disk"]["used"]["cache"] >= 100_000


# ---- a control plane


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    load(data / "credentials", "123456789012")
    version = CliRunner().invoke(keyfront, ["--version"]).stdout.split()[-1]
    with Plane(data) as made:
        found = Installation(
            made.endpoint, own_custody(data), version=version, started=time.time(), edge="http://127.0.0.1:80"
        )
        write_installation(data, found)
        config = {"CallerReference": "1", "Name": "one", "EncodedKey": public_pem()}
        key = made.client().create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
        group = made.client().create_key_group(KeyGroupConfig={"Name": "films", "Items": [key]})["KeyGroup"][
            "Id"
        ]
        made.client().create_distribution(DistributionConfig=distribution_config("site", [group]))
        made.obey()
        yield made


def test_a_control_plane_its_rotations_and_its_keys(plane: Plane) -> None:
    data = plane.folder
    with running(data):
        found = status(data, 1)
        assert found["Counts"] == {"distributions": 1, "key_groups": 1, "public_keys": 1}
        assert found["Store"] == str(data / "keyfront.db")
        assert any("films has only one key" in each for each in found["Warnings"])
        begun = CliRunner().invoke(
            keyfront, ["rotation", "start", "films", "--every", "90d", "--data", str(data)]
        )
        assert begun.exit_code == 0, begun.output
        found = status(data, 1)
        shown = text(data)
    (rotation,) = found["Rotations"]
    assert (rotation["Group"], rotation["Signing"]) == ("films", None)
    assert rotation["Next"].startswith("create ")
    assert "films" in shown
    assert any("does not belong to its rotation" in each for each in found["Warnings"])


def test_a_record_that_nobody_watches(plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = plane.folder
    argv = ["rotation", "start", "films", "--data", str(data)]
    assert CliRunner().invoke(keyfront, argv).exit_code == 0

    def warnings() -> str:
        with running(data):
            return "\n".join(status(data, 1)["Warnings"])

    assert "watches" not in warnings()
    change(data, rotation=False)
    assert "runs with --no-rotation" in warnings()
    change(data, rotation=True, records=f"file:{tmp_path}/others/")
    assert f"nothing watches the rotation of films in {own_custody(data)}" in warnings()
    monkeypatch.setenv("KEYFRONT_RECORDS", own_custody(data))
    assert "unset KEYFRONT_RECORDS" in warnings()


def test_a_control_plane_that_does_not_answer(plane: Plane) -> None:
    data = plane.folder
    change(data, control="http://127.0.0.1:9")
    with running(data):
        found = status(data, 1)
    assert any(
        "the control plane at http://127.0.0.1:9 does not answer" in each for each in found["Warnings"]
    )
    assert found["Snapshot"] is not None, "what can be read is shown"


def test_edges_that_follow_over_https(plane: Plane) -> None:
    data = plane.folder
    with plane.store.write() as transaction:
        for name, seen in (("near", time.time()), ("far", time.time() - 3600)):
            transaction.connection.execute(
                sa.insert(schema.fleet_edge).values(
                    id=f"E-{name}", name=name, region="eu", enrolled=1.0, expires=2e9
                )
            )
            transaction.connection.execute(
                sa.insert(schema.fleet_seen).values(
                    id=f"E-{name}", seen=seen, number=1, address="", software=""
                )
            )
    with running(data):
        found = status(data, 1)
    assert [each["Name"] for each in found["Edges"] if each["Region"] == "eu"] == ["near"]
    assert any("edge far is not connected; last seen: 2" in each for each in found["Warnings"])


def test_log_files_that_wait(edges: tuple[Path, FileFeed]) -> None:
    data, feed = edges
    feed.report("edge-1", 7, at=time.time())
    (data / STATUS_FILE).parent.mkdir(parents=True)
    for delivery, expected in (
        (DeliveryStatus(delivered_files=3), []),
        (
            DeliveryStatus(waiting_files=2, waiting_since=time.time() - 7200, problem="s3://b/k: no route"),
            ["2 log files wait to be delivered for 2h: s3://b/k: no route"],
        ),
        (DeliveryStatus(dropped=7), ["7 records for standard logs were dropped"]),
    ):
        (data / STATUS_FILE).write_bytes(msgspec.json.encode(delivery))
        with running(data):
            found = status(data, 1 if expected else 0)["Warnings"]
        assert [one for one in found if "log" in one] == found
        assert len(found) == len(expected)
        for one, words in zip(found, expected, strict=True):
            assert words in one
