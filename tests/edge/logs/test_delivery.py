"""Delivery of standard logs: what is delivered where, and that a crash at any step loses and doubles nothing."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from keyfront.edge.logs import delivery
from keyfront.edge.logs.delivery import DeliveryError, Outbox, has_work, read_status
from keyfront.edge.logs.delivery_settings import (
    LEGACY_LOG,
    Delivery,
    DeliverySettings,
    read_deliveries,
)
from keyfront.edge.logs.spool import CURRENT, FOLDER, Spool, SpoolSettings
from keyfront.edge.types.record import LogRecord
from keyfront.errors import SettingsError
from tests.edge.logs.test_standard_format import record
from tests.faults import failing_disks
from tests.rows import rows

HOUR = 3600.0
NOW = 1_700_000_000.0


class Shelf:
    """A destination in memory. `broken` is why it refuses everything."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.puts: Counter[tuple[str, str]] = Counter()
        self.broken = ""

    def put(self, bucket: str, key: str, data: bytes) -> None:
        if self.broken:
            raise DeliveryError(self.broken)
        assert self.files.setdefault((bucket, key), data) == data  # never another content under the same name
        self.puts[bucket, key] += 1

    def ids(self) -> list[str]:
        """The IDs of the requests in all files."""
        lines = [line for data in self.files.values() for line in gzip.decompress(data).decode().splitlines()]
        return sorted(line.split("\t")[14] for line in lines if not line.startswith("#"))


def settings(folder: Path, **members: object) -> DeliverySettings:
    return msgspec.structs.replace(DeliverySettings(str(folder), "KFR50-P1", ""), **members)


def logged(number: int, at: float = NOW, **members: object) -> LogRecord:
    return record(time=at, request_id=f"id{number:04}", bucket="logs.s3.amazonaws.com", **members)


def spool(folder: Path, *records: LogRecord) -> None:
    writer = Spool(folder, SpoolSettings())
    for one in records:
        writer.add(msgspec.json.encode(one).decode() + "\n")
    writer.close()


def cycle(folder: Path, shelf: Shelf, *, now: float = NOW, **members: object) -> Outbox:
    """What the process does at each interval."""
    made = settings(folder, **members)
    outbox = Outbox(made)
    outbox.collect(now)
    outbox.render()
    outbox.deliver({one.name: shelf for one in (LEGACY_LOG, *made.deliveries)}, now)
    return outbox


def test_one_file_per_distribution_and_hour(tmp_path: Path) -> None:
    shelf = Shelf()
    spool(
        tmp_path,
        logged(1, distribution="E1"),
        logged(2, distribution="E2", prefix="cdn"),
        logged(3, distribution="E2", prefix="cdn"),
        logged(4, NOW + HOUR, distribution="E2", prefix="cdn"),
        logged(5, distribution="E3", prefix="a/b/"),
        msgspec.structs.replace(logged(6), bucket=""),  # its distribution has no standard log
    )
    cycle(tmp_path, shelf)
    names = sorted(key.rpartition(".gz")[0].rpartition(".")[0] for _, key in shelf.files)
    assert names == [
        "E1.2023-11-14-22",
        "a/b/E3.2023-11-14-22",
        "cdn/E2.2023-11-14-22",
        "cdn/E2.2023-11-14-23",
    ]
    assert {bucket for bucket, _ in shelf.files} == {"logs.s3.amazonaws.com"}
    assert shelf.ids() == [f"id000{n}" for n in range(1, 6)]
    assert not has_work(tmp_path)


def test_a_crash_at_any_step(tmp_path: Path) -> None:
    """After it, another process finishes the work: each record is in one file, under one name."""
    struck = 0
    for turn, disk in enumerate(failing_disks(("broken once", "full from then on"))):
        folder, shelf = tmp_path / str(turn), Shelf()
        spool(folder, *[logged(n, NOW + n * HOUR) for n in range(2)])
        with disk:
            try:
                cycle(folder, shelf)
            except OSError:
                pass
        struck += disk.struck
        spool(folder, logged(2), logged(3))
        cycle(folder, shelf, now=NOW + 1)
        assert shelf.ids() == [f"id{n:04}" for n in range(4)], disk.where
        assert not has_work(folder)
        status = read_status(folder)
        assert status is not None
        assert status.delivered_records == 4
        assert status.problem == ""
    assert struck > 50


def test_what_cannot_be_delivered_waits(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.broken = "no route to the bucket"
    for number in range(3):
        spool(tmp_path, logged(number, NOW + number))
        outbox = cycle(tmp_path, shelf, now=NOW + number)
    status = outbox.status
    assert (status.waiting_files, status.problem, status.delivered_records) == (3, shelf.broken, 0)
    assert status.waiting_since == pytest.approx(NOW + 0.25)
    assert status == read_status(tmp_path)
    shelf.broken = ""
    status = cycle(tmp_path, shelf).status
    assert (status.waiting_files, status.problem, status.delivered_records) == (0, "", 3)
    assert shelf.ids() == ["id0000", "id0001", "id0002"]


def test_one_destination_fails_and_the_other_goes_on(tmp_path: Path) -> None:
    legacy, other = Shelf(), Shelf()
    legacy.broken = "it is full"
    second = Delivery("second", "folder")
    spool(tmp_path, logged(1))
    outbox = Outbox(settings(tmp_path, deliveries=(second,)))
    outbox.collect(NOW)
    outbox.render()
    for _ in range(2):
        outbox.deliver({LEGACY_LOG.name: legacy, "second": other}, NOW)
    assert (legacy.ids(), other.ids()) == ([], ["id0001"])
    assert sum(other.puts.values()) == 1
    legacy.broken = ""
    outbox.deliver({LEGACY_LOG.name: legacy, "second": other}, NOW)
    assert legacy.ids() == other.ids()
    assert not has_work(tmp_path)


def test_the_oldest_are_dropped_when_too_much_waits(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.broken = "down"
    for number in range(10):
        spool(tmp_path, logged(number, NOW + number))
        status = cycle(tmp_path, shelf, now=NOW + number, most=1500).status
        assert status.waiting_bytes <= 1500
    assert status.dropped == 10 - status.waiting_files
    assert 1 < status.waiting_files < 9
    shelf.broken = ""
    cycle(tmp_path, shelf)
    assert shelf.ids() == [f"id{n:04}" for n in range(status.dropped, 10)]


def test_unreadable_lines_are_counted(tmp_path: Path) -> None:
    shelf = Shelf()
    spool(tmp_path, logged(1))
    current = tmp_path / FOLDER / CURRENT
    whole = current.read_bytes()
    current.write_bytes(b'{"time":"no"}\n\xff\xfe\n' + whole + b"\x00\x00\n" + whole[:40])  # a torn write
    assert cycle(tmp_path, shelf).status.unreadable == 4
    assert shelf.ids() == ["id0001"]


def test_a_long_segment_is_rendered_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PART", 4096)
    shelf = Shelf()
    spool(tmp_path, *[logged(n) for n in range(100)])
    cycle(tmp_path, shelf)
    assert len(shelf.files) > 5
    assert shelf.ids() == [f"id{n:04}" for n in range(100)]


def test_no_two_machines_use_the_same_names(tmp_path: Path) -> None:
    shelf = Shelf()
    for machine in ("a", "b"):
        spool(tmp_path / machine, logged(1))
        cycle(tmp_path / machine, shelf)
    assert len(shelf.files) == 2


def test_signatures_are_masked_on_request(tmp_path: Path) -> None:
    for mask in (False, True):
        shelf = Shelf()
        spool(tmp_path / str(mask), logged(1, raw_query="Signature=secret&Key-Pair-Id=K"))
        cycle(tmp_path / str(mask), shelf, mask=mask)
        (data,) = shelf.files.values()
        assert (b"secret" in gzip.decompress(data)) is not mask


def test_parquet(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    shelf = Shelf()
    fields = ("cs(User-Agent)", "sc-status", "cs-uri-query", "timestamp(ms)")
    lake = Delivery("lake", "folder", format="parquet", fields=fields)
    spool(
        tmp_path,
        logged(1, user_agent='a "b" \xe9\t\\', raw_query="x=1"),
        logged(2, user_agent="", status=0, distribution="E1"),
    )
    cycle(tmp_path, shelf, deliveries=(lake,))
    files = [data for (_, key), data in shelf.files.items() if key.endswith(".parquet")]
    assert len(files) == 1
    (tmp_path / "log.parquet").write_bytes(files[0])
    found = duckdb.connect().execute(f"SELECT * FROM '{tmp_path / 'log.parquet'}'")
    assert tuple(each[0] for each in found.description) == fields
    assert found.fetchall() == [
        ('a "b" \xe9\t\\', "200", "x=1", "1700000000250"),
        (None, "000", None, "1700000000250"),
    ]


def test_other_users_cannot_read_what_waits(tmp_path: Path) -> None:
    spool(tmp_path, logged(1))
    shelf = Shelf()
    shelf.broken = "down"
    cycle(tmp_path, shelf)
    spool(tmp_path, logged(2))
    folder = tmp_path / FOLDER
    assert folder.stat().st_mode & 0o077 == 0
    for one in folder.rglob("*"):
        if one.is_file() and one.name != "status.json":
            assert one.stat().st_mode & 0o077 == 0, one


def test_without_a_folder_there_is_no_work(tmp_path: Path) -> None:
    assert not has_work(tmp_path)
    assert read_status(tmp_path) is None


PATHS = {
    "none": (Delivery("a"), "E1x.gz"),
    "partitioned": (
        Delivery("a", path="{DistributionId}/{yyyy}/{MM}/{dd}/{HH}"),
        "Ee1/2023/11/14/22/E1x.gz",
    ),
    "for Hive": (
        Delivery("a", path="/logs/{distributionid}/{yyyy}/{MM}/{dd}/{HH}/", hive=True),
        "logs/distributionid=ee1/year=2023/month=11/day=14/hour=22/E1x.gz",
    ),
    "as Amazon's": (
        Delivery("a", path="AWSLogs/{accountid}/CloudFront", account="123456789012", format="json"),
        "AWSLogs/123456789012/CloudFront/E1x.gz",
    ),
    "Parquet": (Delivery("a", format="parquet"), "E1x.parquet"),
}


@rows("case", PATHS)
def test_paths(case: str) -> None:
    one, expected = PATHS[case]
    assert one.key("ignored", "Ee1", int(NOW // 3600), "E1x") == expected


def test_reads_deliveries(tmp_path: Path) -> None:
    path = tmp_path / "deliveries.toml"
    path.write_text(
        '[[delivery]]\nname = "lake"\nto = "s3://lake/cdn"\nendpoint = "http://127.0.0.1:8333"\n'
        'distributions = ["E1"]\nformat = "json"\nfields = ["timestamp(ms)", "kf-verdict"]\nhive = true\n'
        'path = "{yyyy}/{MM}"\n[[delivery]]\nname = "csv"\nto = "out"\nformat = "plain"\nseparator = ","\n'
    )
    first, second = read_deliveries(path)
    assert (first.to, first.fields, first.hive) == ("s3://lake/cdn", ("timestamp(ms)", "kf-verdict"), True)
    assert (second.separator, len(second.fields)) == (",", 33)
    assert first.takes(logged(1, distribution="E1"))
    assert not first.takes(logged(1, distribution="E2"))
    assert second.takes(msgspec.structs.replace(logged(1), bucket=""))


REFUSED = {
    "not TOML": ("[[delivery", "Expected"),
    "nothing": ("", "has no [[delivery]]"),
    "another table": ("[deliveries]\n", "deliveries"),
    "no name": ('[[delivery]]\nto = "a"\n', "name"),
    "no destination": ('[[delivery]]\nname = "a"\n', "to"),
    "an unknown member": (
        '[[delivery]]\nname = "a"\nto = "a"\nfrom = "b"\n',
        "from is not known; use name, to,",
    ),
    "an unknown field": (
        '[[delivery]]\nname = "a"\nto = "a"\nfields = ["date", "tme"]\n',
        "'tme' is not a field; there are date, time,",
    ),
    "a field twice": ('[[delivery]]\nname = "a"\nto = "a"\nfields = ["date", "date"]\n', "each once"),
    "an unknown format": ('[[delivery]]\nname = "a"\nto = "a"\nformat = "csv"\n', "csv"),
    "a letter": ('[[delivery]]\nname = "a"\nto = "a"\nseparator = "x"\n', "a tab, a space, or one of"),
    "an unknown variable": ('[[delivery]]\nname = "a"\nto = "a"\npath = "{year}"\n', "{yyyy}"),
    "a way out": ('[[delivery]]\nname = "a"\nto = "a"\npath = "../x"\n', "path"),
    "a name twice": (
        '[[delivery]]\nname = "a"\nto = "a"\n[[delivery]]\nname = "a"\nto = "b"\n',
        "delivery 2: the name 'a' is taken",
    ),
    "the name of the standard log": ('[[delivery]]\nname = "standard log"\nto = "a"\n', "is taken"),
}


@rows("case", REFUSED)
def test_refuses_deliveries(case: str, tmp_path: Path) -> None:
    text, message = REFUSED[case]
    path = tmp_path / "deliveries.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_deliveries(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
