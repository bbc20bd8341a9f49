"""Queries over logs: what each kind of log becomes, what is counted as unreadable, and what a query cannot reach."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb", reason="DuckDB is not installed")

import duckdb
import msgspec

from keyfront.edge.logs import standard_format
from keyfront.edge.logs.parquet_format import parquet
from keyfront.edge.types.record import LogRecord, Record
from keyfront.errors import SettingsError
from keyfront.monitoring import log_schema
from keyfront.monitoring.log_files import access_logs, log_files
from keyfront.monitoring.log_query import QUESTIONS, LogQuery, LogQueryError, Window
from tests.imports import ROOT
from tests.monitoring.harness import FIELDS, HEADER, LINE, NOON, encoded, record, refused, write
from tests.rows import rows

WRITTEN = {
    "client_ip", "method", "host", "path", "protocol_version", "status", "result", "distribution", "user_agent",
    "edge_location", "content_type", "forwarded_for", "time_taken_us", "verdict", "reason", "key_pair_id",
    "key_group", "signed_by", "country", "behavior",
}  # fmt: skip
"""Columns that Keyfront's own standard logs can have as they are in the record."""


def answer(sql: str, *files: Path, window: Window | None = None) -> list[tuple[Any, ...]]:
    with LogQuery(files, window) as query:
        result = query.ask(sql) if sql in QUESTIONS else query.run(sql)
        return list(result.rows)


def test_the_schema_has_every_field_of_an_access_record() -> None:
    """A new field of `Record` needs a row in `log_schema.COLUMNS`, and one in docs/guide/logs.md."""
    recorded = [
        name for name in log_schema.NAMES if name not in (*log_schema.DERIVED, *log_schema.STANDARD_ONLY)
    ]
    assert recorded == list(Record.__struct_fields__)
    required = {name for name in recorded if name not in log_schema.OPTIONAL}
    defaults = Record.__struct_fields__[-len(Record.__struct_defaults__) :]
    assert required == set(recorded) - set(defaults)


def test_the_guide_has_every_column_and_question() -> None:
    page = (ROOT / "docs" / "guide" / "logs.md").read_text()
    for column in log_schema.COLUMNS:
        fields = ", ".join(f"`{field}`" for field in column.fields)
        assert f"| `{column.name}` | {column.kind} | {column.meaning} | {fields} |\n" in page
    for name, question in QUESTIONS.items():
        assert f"| `{name}` | {question.meaning} |\n" in page


def test_an_access_record_comes_back_whole(tmp_path: Path) -> None:
    written = record(
        path='/ü/"\\\n', referer="https://é", bytes=2**40, remembered=True, country="DE", verify_us=7
    )
    file = write(tmp_path / "access.jsonl", encoded(written, record(request_id="R2")))
    (whole, plain) = answer("SELECT * FROM requests ORDER BY request_id", file)
    row = dict(zip(log_schema.NAMES, whole, strict=True))
    assert {name: row[name] for name in Record.__struct_fields__} == {
        name: getattr(written, name) for name in Record.__struct_fields__
    }
    assert str(row["timestamp"]) == "2026-09-21 14:13:20"
    assert row["file"] == str(file)
    # What a record leaves out has its default, and what it never has is unknown.
    row = dict(zip(log_schema.NAMES, plain, strict=True))
    assert (row["reason"], row["remembered"], row["repeats"], row["edge_location"]) == ("", False, 0, None)


def test_a_standard_log_has_the_same_columns(tmp_path: Path) -> None:
    file = write(tmp_path / "logs" / "E2QWRUHEXAMPLE.2026-09-21-14.a1b2.gz", HEADER + LINE)
    (row,) = answer("FROM requests", file)
    found = dict(zip(log_schema.NAMES, row, strict=True))
    assert {name: value for name, value in found.items() if value is not None} == {
        "timestamp": found["timestamp"],
        "time": NOON + 1,
        "request_id": "REQ1==",
        "client_ip": "192.0.2.7",
        "client_port": 50123,
        "method": "GET",
        "scheme": "https",
        "host": "media.example.com",
        "path": "/a%20b.jpg",
        "query": "w=1&Signature=abc~",
        "protocol_version": "2.0",
        "status": 200,
        "bytes": 1234,
        "time_taken_us": 5000,
        "result": "Hit",
        "detail": "Hit",
        "distribution": "E2QWRUHEXAMPLE",
        "request_bytes": 321,
        "first_byte_us": 4000,
        "user_agent": "Mozilla/5.0 (X11)",
        "referer": "",
        "ssl_protocol": "TLSv1.3",
        "ssl_cipher": "TLS_AES_128_GCM_SHA256",
        "edge_location": "FRA56-P1",
        "content_type": "image/jpeg",
        "forwarded_for": "",
        "file": str(file),
    }


def test_standard_logs_with_chosen_fields_as_text_json_and_parquet(tmp_path: Path) -> None:
    """The second version: any fields in any order, Keyfront's own among them."""
    text = write(
        tmp_path / "text.gz",
        "#Version: 1.0\n#Fields: sc-status timestamp(ms) kf-reason cs-uri-stem time-taken\n"
        "403,1790000001500,expired,/text,0.25\n",
    )
    members = {"sc-status": "403", "date": "2026-09-21", "time": "14:13:21", "cs-uri-stem": "/json"}
    json_file = write(tmp_path / "json.gz", json.dumps(members) + "\n")
    whole = write(
        tmp_path / "whole.gz", '{"timestamp": "1790000002", "sc-status": "200", "cs-uri-stem": "/whole"}\n'
    )
    table = tmp_path / "year=2026" / "log.parquet"
    table.parent.mkdir()
    duckdb.connect().execute(
        "COPY (SELECT '2026-09-21' AS date, '14:13:21' AS time, 403 AS sc_status, '/parquet' AS cs_uri_stem, "
        f"'agent' AS cs_User_Agent_) TO '{table}' (FORMAT parquet)"
    )
    found = answer(
        "SELECT path, status, time, reason, time_taken_us, user_agent FROM requests ORDER BY path",
        text, json_file, table, whole,
    )  # fmt: skip
    assert found == [
        ("/json", 403, NOON + 1, None, None, None),
        ("/parquet", 403, NOON + 1, None, None, "agent"),
        ("/text", 403, NOON + 1.5, "expired", 250_000, None),
        ("/whole", 200, NOON + 2, None, None, None),
    ]


def test_keyfronts_own_standard_logs(tmp_path: Path) -> None:
    """Every format that an edge delivers, with every field that it knows, gives what the record said."""
    said = LogRecord(
        **msgspec.structs.asdict(
            refused(
                "expired",
                path="/a%20b'|.jpg",
                time_taken_us=5000,
                user_agent="Me/1.0 (a; b, c|d)",
                country="DE",
                behavior="/*",
            )
        ),
        raw_query="w=1&Signature=~",
        content_type="image/jpeg",
        forwarded_for="10.0.0.1, 10.0.0.2",
    )
    fields = tuple(standard_format.FIELDS)
    head = standard_format.w3c_head(fields)
    files = [
        write(tmp_path / "a.gz", head + standard_format.separated([said], fields, "FRA56-P1", "\t")),
        write(tmp_path / "b.gz", head + standard_format.separated([said], fields, "FRA56-P1", ",")),
        write(tmp_path / "c.gz", standard_format.json_lines([said], fields, "FRA56-P1")),
        write(tmp_path / "d.parquet", parquet([said], fields, "FRA56-P1")),
        write(
            tmp_path / "E1.2026-09-21-14.d.gz",
            standard_format.w3c_head(standard_format.LEGACY)
            + standard_format.separated([said], standard_format.LEGACY, "FRA56-P1", "\t"),
        ),
    ]
    names = [name for name in log_schema.NAMES if name in WRITTEN]
    legacy, *others = answer(f"SELECT {', '.join(names)} FROM requests ORDER BY file", *files)
    whole = [getattr(said, name, "FRA56-P1") for name in names]
    assert [list(row) for row in others] == [whole] * 4
    own = ("behavior", "country", "verdict", "reason", "signed_by", "key_pair_id", "key_group")
    assert list(legacy) == [None if name in own else cell for name, cell in zip(names, whole, strict=True)]


def test_torn_and_foreign_lines_are_counted_and_never_fatal(tmp_path: Path) -> None:
    good = encoded(record())
    spoiled = [
        good[: len(good) // 2],
        good[10:-1],
        b"[1, 2]",
        b'{"foo": 1}',
        b"not JSON",
        b'{"time":"noon","request_id":"R","method":"GET","status":200}',
        b'{"time":1,"request_id":"\xff\xfe","method":"GET","status":200}',
        b"\0" * 5000,
        b"[" * 100_000,
        b"x" * 3_000_000,
    ]
    live = write(tmp_path / "access.jsonl", good + b"\n".join([*spoiled, b""]) + b"\n" + good + good[:30])
    rotated = write(tmp_path / "access-1.jsonl.gz", good[40:] + good)
    cells = LINE.split("\t")
    standard = write(
        tmp_path / "E1.2026-09-21-14.x.gz",
        HEADER.encode()
        + LINE.encode()
        + "\t".join(cells[:5]).encode()
        + b"\n"
        + "\t".join(["x", *cells]).encode()
        + "\t".join(["never", *cells[1:]]).encode()
        + HEADER.encode()
        + LINE.replace("Mozilla", "Mozilla%FF").encode(),
    )
    with LogQuery([live, rotated, standard]) as query:
        assert list(query.run("SELECT count(*) FROM requests").rows) == [(5,)]
        assert query.unreadable == {str(live): len(spoiled) + 1, str(rotated): 1, str(standard): 3}


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    """A compressed file that ends early is read up to there; whether a file is compressed does not depend on its name;
    what is no log is left out, and named."""
    whole = gzip.compress(encoded(*[record(request_id=str(number)) for number in range(20_000)]))
    cut = write(tmp_path / "cut.jsonl", whole[: len(whole) // 2])
    named = tmp_path / "named.gz"
    named.write_bytes(encoded(record()))
    wild = write(tmp_path / "wild[a]*?.jsonl", encoded(record()))
    empty = write(tmp_path / "empty.jsonl", b"")
    foreign = write(tmp_path / "foreign.gz", b"\0\1\2" * 100)
    table = tmp_path / "table.parquet"
    duckdb.connect().execute(f"COPY (SELECT 1 AS a) TO '{table}' (FORMAT parquet)")
    with LogQuery([cut, named, wild, empty, foreign, table]) as query:
        ((count, files),) = query.run("SELECT count(*), count(DISTINCT file) FROM requests").rows
        assert 5_000 < count < 15_000
        assert files == 3
        assert query.truncated == [cut]
        assert set(query.unreadable) <= {str(cut)}, "the last line may be torn"
        assert query.unknown == [foreign, table]


def test_a_file_that_is_rotated_while_it_is_read(tmp_path: Path) -> None:
    kept = write(tmp_path / "access.jsonl", encoded(record()))
    gone = write(tmp_path / "access-1.jsonl", encoded(record()))
    with LogQuery([gone, kept]) as query:
        gone.unlink()
        assert list(query.run("SELECT count(*) FROM requests").rows) == [(1,)]


@rows(
    "sql",
    [
        "SELECT count(*) FROM requests",
        "SELECT status, COUNT(*) FROM requests GROUP BY ALL",
        "WITH a AS (SELECT Status AS s, path FROM requests) SELECT s, count(*) FROM a GROUP BY s",
        "SELECT \"status\" FROM requests WHERE reason = '' ORDER BY request_id",
        "SELECT a.path FROM requests a JOIN requests b USING (request_id)",
        "FROM requests",
        "SELECT r FROM requests r",
        "SELECT COLUMNS('.*_us') FROM requests",
        "SELECT count(*) FROM requests a NATURAL JOIN requests b",
        "SUMMARIZE requests",
        "DESCRIBE requests",
        "SELECT 1",
    ],
)
def test_every_form_of_a_select_has_its_columns(sql: str, tmp_path: Path) -> None:
    assert answer(sql, write(tmp_path / "access.jsonl", encoded(record(), record(request_id="R2"))))


@rows(
    "sql, why",
    [
        ("DELETE FROM requests", "one SELECT"),
        ("COPY requests TO '{}/out.csv'", "one SELECT"),
        ("ATTACH '{}/out.db'", "one SELECT"),
        ("SET threads = 1", "one SELECT"),
        ("INSTALL httpfs", "one SELECT"),
        ("SELECT 1; SELECT 2", "not 2 statements"),
        ("SELEC 1", "not valid SQL"),
        ("", "one SELECT"),
        ("SELECT nothing FROM requests", "DESCRIBE requests"),
        ("SELECT 1 / 'x'", "Could not convert"),
        ("FROM '{}/secret.csv'", "{}/secret.csv"),
        ("FROM '{}/access.jsonl'", "{}/access.jsonl"),
        ("FROM read_text('{}/secret.csv')", "disabled"),
        ("FROM read_csv('http://127.0.0.1:9/x')", "disabled"),
        ("FROM glob('{}/*')", "disabled"),
        ("FROM sniff_csv('{}/secret.csv')", "disabled"),
        ("SELECT getenv('HOME')", "does not exist"),
    ],
)
def test_a_query_reaches_nothing_else(sql: str, why: str, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.csv", "secret\n")
    file = write(tmp_path / "access.jsonl", encoded(record()))
    with pytest.raises(LogQueryError) as raised:
        answer(sql.replace("{}", str(tmp_path)), file)
    assert why.replace("{}", str(tmp_path)) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == [file, secret]


def test_only_named_parquet_files_can_be_reached(tmp_path: Path) -> None:
    with LogQuery([write(tmp_path / "access.jsonl", encoded(record()))]) as query:
        assert query.export(tmp_path / "named.parquet") == 1
    (tmp_path / "other.parquet").write_bytes((tmp_path / "named.parquet").read_bytes())
    assert answer("SELECT path FROM requests", tmp_path / "named.parquet") == [("/films/1.mp4",)]
    with pytest.raises(LogQueryError, match="disabled"):
        answer(f"FROM '{tmp_path}/other.parquet'", tmp_path / "named.parquet")


def test_an_export_answers_like_the_logs_that_it_was_made_of(tmp_path: Path) -> None:
    names = ", ".join(name for name in log_schema.NAMES if name != "file")
    files = [
        write(tmp_path / "access.jsonl", encoded(refused("expired", time=NOON + 5), record())),
        write(tmp_path / "E1.2026-09-21-14.x.gz", HEADER + LINE),
    ]
    with LogQuery(files) as query:
        assert query.export(tmp_path / "all.parquet") == 3
    sql = f"SELECT {names} FROM requests ORDER BY time"
    assert answer(sql, *files) == answer(sql, tmp_path / "all.parquet")
    with LogQuery(files) as query, pytest.raises(SettingsError, match="exists; name a new file"):
        query.export(tmp_path / "all.parquet")
    assert [each.name for each in tmp_path.glob(".*")] == []


@rows("since, until, found", [(None, None, 3), (1.0, None, 2), (None, 1.0, 1), (1.0, 2.0, 1), (9.0, None, 0)])
def test_a_window_of_time(since: float | None, until: float | None, found: int, tmp_path: Path) -> None:
    file = write(tmp_path / "access.jsonl", encoded(*[record(time=float(number)) for number in range(3)]))
    assert answer("SELECT count(*) FROM requests", file, window=Window(since, until)) == [(found,)]
    assert len(answer("SELECT path FROM requests", file, window=Window(since, until))) == found


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """Denials, keys, a link that five networks share, and origins of which one is slow."""
    records = [
        *[refused("expired", client_ip=f"198.51.100.{number}") for number in range(3)],
        refused("unknown_key", repeats=7, key_pair_id="KX", key_group=""),
        *[record(client_ip=f"10.{number % 5}.0.{number}", path="/shared") for number in range(10)],
        *[record(client_ip=f"2001:db8:{number}::1", path="/six") for number in range(2)],
        *[record(client_ip=f"10.9.9.{number}", path="/own", key_pair_id="K2") for number in range(4)],
        record(verdict="", key_pair_id="", signed_by="", path="/public"),
        *[
            record(result="Miss", detail="Miss", behavior="/slow/*", first_byte_us=n * 100_000)
            for n in range(1, 11)
        ],
        record(
            result="Error", detail="OriginConnectError", behavior="/broken/*", status=502, first_byte_us=5_000
        ),
    ]
    return write(tmp_path / "access.jsonl", encoded(*records))


def test_the_ready_questions(day: Path) -> None:
    denials = answer("top-denials", day)
    assert [(row[0], row[2], row[3]) for row in denials] == [("unknown_key", 8, 1), ("expired", 3, 3)]
    keys = {row[0]: (row[1], row[2], row[3], row[4]) for row in answer("by-key", day)}
    assert keys == {"K1": ("films", 23, 3, 23_000), "K2": ("films", 4, 0, 4_000), "KX": ("", 0, 8, 0)}
    shared = [(row[0], row[2], row[5]) for row in answer("shared-links", day)]
    assert shared == [("media.example.com/shared", 5, 10), ("media.example.com/six", 2, 2)]
    slow = answer("slow-origins", day)
    assert slow == [
        ("E1", "/slow/*", 10, 0, 550.0, 955.0, 991.0, 1000.0),
        ("E1", "/broken/*", 1, 1, 5.0, 5.0, 5.0, 5.0),
    ]


@rows("name", QUESTIONS)
def test_the_ready_questions_about_a_standard_log(name: str, tmp_path: Path) -> None:
    """It does not record signatures; what can be said, is said."""
    lines = LINE.replace("\t200\t", "\t403\t") + LINE.replace("\tHit\t", "\tMiss\t")
    found = answer(name, write(tmp_path / "E1.2026-09-21-14.x.gz", HEADER + lines))
    assert len(found) == {"top-denials": 1, "slow-origins": 1}.get(name, 0)


def test_the_logs_of_a_data_folder(tmp_path: Path) -> None:
    for name in (
        "access.jsonl", "access-20260921.jsonl", "access-20260920.jsonl.gz", "access.jsonl-20260919-1.gz",
        "access-20260921.jsonl.gz", "access.jsonl.1", "other.jsonl", "accessory.jsonl",
    ):  # fmt: skip
        write(tmp_path / name, encoded(record()))
    found = [path.name for path in access_logs(tmp_path)]
    assert found[-1] == "access.jsonl"
    assert set(found) == {
        "access.jsonl", "access-20260921.jsonl", "access-20260920.jsonl.gz", "access.jsonl-20260919-1.gz",
        "access.jsonl.1",
    }, "a file that is being compressed is read once"  # fmt: skip
    assert access_logs(tmp_path / "nothing") == []


def test_files_and_folders_by_name(tmp_path: Path) -> None:
    inner = write(tmp_path / "year=2026" / "a.gz", HEADER)
    assert log_files(tmp_path) == [inner]
    assert log_files(inner) == [inner]
    (tmp_path / "none").mkdir()
    for path in (tmp_path / "nothing", tmp_path / "none"):
        with pytest.raises(SettingsError, match=str(path)):
            log_files(path)


def test_field_names_in_any_spelling() -> None:
    for field in FIELDS.split():
        spelled = log_schema.normalized(field).replace("cs_user_agent", "cs_User_Agent_")
        assert log_schema.normalized(spelled) == log_schema.normalized(field)
    assert log_schema.by_normalized_name(["kf-key-pair-id"]) == {"key_pair_id": "kf-key-pair-id"}
