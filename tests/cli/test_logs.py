"""`keyfront logs`: live, by SQL, from a folder and from a bucket."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keyfront.cli.main import COMMANDS, failure_text, keyfront
from keyfront.extras import EXTRAS
from keyfront.monitoring.log_query import QUESTIONS
from tests.monitoring.harness import HEADER, LINE, encoded, record, refused, write
from tests.printed import commands_in
from tests.rows import rows
from tests.seaweedfs import ONE, WRITER, Weed, unable

duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(
        tmp_path / "data" / "logs" / "access.jsonl",
        encoded(
            record(request_id="R1", query="w=1"),
            refused("expired", request_id="R2", client_ip="198.51.100.7", path="/films/2.mp4", repeats=3),
            record(
                request_id="R3", status=502, verdict="", key_pair_id="", result="Error", distribution="E2"
            ),
            record(request_id="R4", client_ip="2001:db8::1", key_pair_id="K2", path="/\x1b[31m"),
        ),
    )
    return tmp_path / "data"


def run(command: str, status: int = 0) -> Result:
    done = CliRunner().invoke(keyfront, shlex.split(command))
    assert done.exit_code == status, (command, done.output, done.exception)
    return done


@rows(
    "options, found",
    [
        ("", "R1 R2 R3 R4"),
        ("-n 2", "R3 R4"),
        ("-n 0", ""),
        ("--status 403", "R2"),
        ("--status 5xx --status 403", "R2 R3"),
        ("--verdict allowed", "R1 R4"),
        ("--verdict none --verdict refused", "R2 R3"),
        ("--reason expired", "R2"),
        ("--key K2", "R4"),
        ("--distribution E2", "R3"),
        ("--path '/films/?.mp4' --verdict allowed", "R1"),
        ("--address 198.51.100.0/24", "R2"),
        ("--address 2001:db8::/32 --address 192.0.2.7", "R1 R3 R4"),
        ("--status 2xx --key K1", "R1"),
    ],
)
def test_tail_filters(options: str, found: str, data: Path) -> None:
    shown = run(f"logs tail --no-follow --json --data {data} {options}").stdout.splitlines()
    assert [json.loads(line)["request_id"] for line in shown] == found.split()


def test_tail_prints_for_people(data: Path) -> None:
    with (data / "logs" / "access.jsonl").open("ab") as file:
        file.write(b'{"torn\n')
    done = run(f"logs tail --no-follow --data {data}")
    first, second, third, fourth = done.stdout.splitlines()
    assert first == (
        "14:13:20.000 200 Hit            0.5 ms 192.0.2.7       GET https://media.example.com/films/1.mp4?w=1 "
        "[K1 by url]"
    )
    assert second.endswith("GET https://media.example.com/films/2.mp4 expired K1 and 3 more")
    assert " 502 Error " in third
    assert "\x1b" not in fourth, "a viewer does not control the terminal"
    assert done.stderr.startswith("keyfront: 1 line in ")
    colored = CliRunner().invoke(keyfront, ["logs", "tail", "--no-follow", "--data", str(data)], color=True)
    assert "\x1b[31m" in colored.stdout.splitlines()[1]
    assert "\x1b[31m[" not in colored.stdout.splitlines()[3]


def test_tail_follows_across_a_rotation(data: Path) -> None:
    log = data / "logs" / "access.jsonl"
    command = [sys.executable, "-m", "keyfront", "logs", "tail", "--json", "-n", "1", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None

        def shows() -> str:
            assert process.stdout is not None
            return str(json.loads(process.stdout.readline())["request_id"])

        assert shows() == "R4"
        with log.open("ab") as file:
            file.write(encoded(record(request_id="R5")))
        assert shows() == "R5"
        log.rename(data / "logs" / "access-1.jsonl")
        log.write_bytes(encoded(record(request_id="R6")))
        assert shows() == "R6"
        process.terminate()


def test_query_prints_a_table_json_and_csv(data: Path) -> None:
    sql = shlex.quote(
        "SELECT status, count(*) AS n, max(timestamp) AS last FROM requests GROUP BY 1 ORDER BY 1"
    )
    table = run(f"logs query {sql} --data {data}").stdout.splitlines()
    assert table == [
        "status  n  last",
        "200     2  2026-09-21 14:13:20",
        "403     1  2026-09-21 14:13:20",
        "502     1  2026-09-21 14:13:20",
    ]
    found = json.loads(run(f"logs query {sql} --json --data {data}").stdout)
    assert found[0] == {"status": 200, "n": 2, "last": "2026-09-21T14:13:20Z"}
    assert list(csv.reader(io.StringIO(run(f"logs query {sql} --csv --data {data}").stdout)))[2][:2] == [
        "403",
        "1",
    ]


@rows("name", QUESTIONS)
def test_the_ready_questions_have_an_answer_in_each_form(name: str, data: Path) -> None:
    for form in ("", "--json", "--csv"):
        assert run(f"logs query {name} {form} --data {data}").exit_code == 0
    assert name in run("logs query --help").stdout


def test_values_that_json_does_not_have(data: Path) -> None:
    sql = "SELECT 'nan'::DOUBLE AS a, [1.5::DECIMAL(3,1), 'inf'::DOUBLE] AS b, {'c': DATE '2026-01-01'} AS d"
    (row,) = json.loads(run(f"logs query {shlex.quote(sql)} --json --data {data}").stdout)
    assert row == {"a": None, "b": [1.5, None], "d": {"c": "2026-01-01"}}
    assert json.loads(run(f"logs query 'SELECT 1 AS a WHERE false' --json --data {data}").stdout) == []


def test_what_could_not_be_read_is_reported(data: Path, tmp_path: Path) -> None:
    write(data / "logs" / "access-1.jsonl", b"garbage\n" + encoded(record()) + b'{"time":1')
    whole = gzip.compress(encoded(*[record(request_id=str(number)) for number in range(9_000)]))
    write(tmp_path / "x" / "cut.jsonl", whole[:-20])
    write(tmp_path / "x" / "notes.txt", "not a log")
    done = run(f"logs query 'SELECT count(*) AS n FROM requests' --data {data}")
    assert done.stdout.split() == ["n", "5"]
    assert done.stderr == (
        "keyfront: 2 lines could not be read (torn, or not a record): 2 in access-1.jsonl\n"
    )
    done = run(f"logs query by-key --json --from {tmp_path / 'x'}")
    assert json.loads(done.stdout)[0]["allowed"] > 8_000
    assert done.stderr.splitlines()[:2] == [
        f"keyfront: {tmp_path / 'x' / 'cut.jsonl'} ends in the middle of its compressed data; it was read up to there",
        "keyfront: 1 file left out, not a log in a known format: notes.txt",
    ]


def test_an_export_is_queried_like_the_logs(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "day.parquet"
    assert run(f"logs export {file} --data {data}").stderr == f"4 records written to {file}\n"
    assert run(f"logs query by-key --from {file}").stdout == run(f"logs query by-key --data {data}").stdout
    assert "exists" in run(f"logs export {file} --data {data}", 2).stderr


@rows(
    "command, why",
    [
        ("logs query nothing", "neither SQL nor a ready question (top-denials, by-key"),
        ("logs query 'DROP TABLE requests'", "one SELECT"),
        ("logs query by-key --from {}/nothing", "there is no file or folder"),
        ("logs query by-key --from http://x/", "s3://BUCKET/PREFIX"),
        ("logs query by-key --endpoint-url http://x/", "--endpoint-url requires --from"),
        ("logs tail --status 7", "403, or a class such as 4xx"),
        ("logs tail --status 4x3", "403, or a class such as 4xx"),
        ("logs tail --address nowhere", "not an address or a network"),
    ],
)
def test_what_is_refused(command: str, why: str, data: Path) -> None:
    done = run(f"{command} --data {data}".replace("{}", str(data)), 2)
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_printed_commands(data: Path) -> None:
    refusal = run(f"logs query 'SELECT nothing FROM requests' --data {data}", 2).stderr
    (remedy,) = commands_in(refusal)
    assert "user_agent" in run(f"{remedy.removeprefix('keyfront ')} --data {data}").stdout
    for command in commands_in(run("logs query --help").stdout.partition("\n")[2]):
        run(f"{command.removeprefix('keyfront ')} --data {data}")


def test_without_duckdb_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert EXTRAS["duckdb"] == "logs"
    done = run(f"logs query by-key --data {data}", 2)
    assert done.stderr == f"keyfront: {failure_text(ModuleNotFoundError(name='duckdb'))}\n"
    assert done.stderr.endswith("pip install 'keyfront[logs]'\n")
    assert run(f"logs tail --no-follow --data {data}").stdout, "tail does without it"
    assert "logs" in COMMANDS


@pytest.mark.skipif(bool(unable()), reason=unable() or "there is one")
def test_logs_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    def be(identity: tuple[str, str]) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", identity[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", identity[1])

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with Weed() as weed:
        be(WRITER)
        client = weed.client()
        client.create_bucket(Bucket="logs")
        for hour in (12, 14):
            for unique in ("a", "b"):
                client.put_object(
                    Bucket="logs",
                    Key=f"cdn/E1.2026-09-21-{hour}.{unique}.gz",
                    Body=gzip.compress((HEADER + LINE.replace(" 14:", f" {hour}:")).encode()),
                )
        client.put_object(Bucket="logs", Key="other/readme", Body=b"no log")

        def query(options: str, status: int = 0) -> Result:
            sql = "SELECT distribution, count(*) AS n FROM requests GROUP BY 1"
            return run(f"logs query '{sql}' --csv --endpoint-url {weed.url} --from {options}", status)

        assert query("s3://logs/cdn/").stdout.splitlines() == ["distribution,n", "E1,4"]
        assert query("s3://logs/cdn/ --since 2026-09-21T14:00:00Z").stdout.splitlines() == [
            "distribution,n",
            "E1,2",
        ]
        both = query(f"s3://logs/ --from {data / 'logs'}")
        assert sorted(both.stdout.splitlines()) == ["E1,7", "E2,1", "distribution,n"]
        assert "readme" in both.stderr
        assert "no log below" in query("s3://logs/nothing", 2).stderr
        assert "cannot be read" in query("s3://nowhere/", 2).stderr
        be(ONE)
        assert "cannot be read" in query("s3://logs/cdn/", 2).stderr
