"""`keyfront key list` and `key warnings` as an operator uses them, also where nothing reports what edges see."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keyfront.cli.main import keyfront
from keyfront.custody.key_record import DAY, Entry, KeyGroupRecord, RotationPolicy, Stage, save
from keyfront.custody.schemes import open_place, open_records
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.key_counters import KeyCounts
from tests.control.plane import Plane, distribution_config
from tests.keys import public_pem


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    with Plane(tmp_path / "data") as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("KEYFRONT_RECORDS", raising=False)
        yield made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KEYFRONT_CUSTODY_PASSPHRASE", "correct horse battery staple")
    return f"file:{tmp_path}/custody/"


def run(*argv: str) -> Result:
    done = CliRunner().invoke(keyfront, ["key", *argv])
    assert "fault in Keyfront" not in done.stderr, done.stderr
    return done


def rows(text: str) -> dict[str, dict[str, str]]:
    """A table indexed by its first column."""
    lines = text.splitlines()
    heads = list(re.finditer(r"\S+(?: \S+)*", lines[0]))
    starts = [head.start() for head in heads]
    found = {}
    for line in lines[1:]:
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        found[cells[0]] = dict(zip((head[0] for head in heads), cells, strict=True))
    return found


def create(plane: Plane, name: str, pem: str = "") -> str:
    config = {"CallerReference": name, "Name": name, "EncodedKey": pem or public_pem()}
    return str(plane.client().create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"])


def films(plane: Plane, place: str, **terms: Any) -> tuple[str, str, str]:
    """A group under rotation whose first key drains, a foreign key in it, and a distribution: their ids."""
    custody, now = open_place(place), time.time()
    entries, ids = [], []
    for number in (1, 2):
        held = custody.create(f"films-{number}", "ECDSA-P256", now=now)
        ids.append(create(plane, f"films-{number}", held.public_key.pem))
        times: dict[str, Any] = {
            "created": now - 40 * DAY,
            "published": now - 40 * DAY,
            "signing": now - 40 * DAY,
        }
        if number == 1:
            times |= {"draining": now - 10 * DAY, "drain_until": now + 20 * DAY}
        stage = Stage.DRAINING if number == 1 else Stage.SIGNING
        entries.append(Entry(f"{place}films-{number}", stage, key_pair_id=ids[-1], **times))
    client = plane.client()
    items = [*ids, create(plane, "by-hand")]
    group = client.create_key_group(KeyGroupConfig={"Name": "films", "Items": items})["KeyGroup"]["Id"]
    made = client.create_distribution(DistributionConfig=distribution_config("one", [group]))
    members: dict[str, Any] = {"every": 90 * DAY, "application": "player"} | terms
    known = RotationPolicy(place, **members)
    save(open_records(place), KeyGroupRecord("films", group, known, tuple(entries)), None, now=now)
    return ids[0], ids[1], made["Distribution"]["Id"]


def test_all_that_is_known_of_keys(plane: Plane, place: str) -> None:
    draining, signing, distribution = films(plane, place)
    alone = create(plane, "alone")
    now = int(time.time())
    counts = KeyCounts(
        "a",
        [(draining, "SHA1", distribution, 1), (signing, "SHA256", distribution, 3)],
        [(signing, now + 100, 100.0, now + 100), (draining, now + 50, 50.0, now + 50)],
    )
    FileFeed(plane.folder).report("edge-1", 0, at=time.time(), counters=counts)
    done = run("list", "--records", place)
    assert done.exit_code == 0
    table = rows(done.stdout)
    assert list(table)[:2] == [draining, signing]
    assert {name: table[signing][name] for name in ("name", "stage", "age", "groups", "distributions")} == {
        "name": "films-2",
        "stage": "SIGNING",
        "age": "40d",
        "groups": "films",
        "distributions": distribution,
    }
    assert {name: table[signing][name] for name in ("custody", "share", "hash", "application")} == {
        "custody": f"{place}films-2",
        "share": "75.0%",
        "hash": "SHA256",
        "application": "player",
    }
    assert table[signing]["last seen"].endswith("ago")
    assert (table[draining]["stage"], table[draining]["share"]) == ("DRAINING", "25.0%")
    assert (table[alone]["stage"], table[alone]["groups"], table[alone]["last seen"]) == ("-", "-", "never")
    listed = json.loads(run("list", "--records", place, "--json").stdout)
    assert listed["UseKnown"] is True
    by_id = {each["Id"]: each for each in listed["Keys"]}
    assert len(by_id) == 4
    assert by_id[draining]["Ends"] == iso(now + 20 * DAY, by_id[draining]["Ends"])
    assert by_id[signing]["Ends"] == iso(now + 50 * DAY, by_id[signing]["Ends"])
    assert by_id[signing]["Requests"] == 3
    assert by_id[signing]["SeenAt"] == [distribution]
    assert by_id[alone]["LastSeen"] is None
    assert by_id[alone]["Requests"] == 0


def iso(expected: float, shown: str) -> str:
    """`told`, after a check that it is within 30 seconds of `expected`."""
    from datetime import datetime

    assert datetime.fromisoformat(shown).timestamp() == pytest.approx(expected, abs=30)
    return shown


def test_where_nobody_tells_what_edges_see(plane: Plane, place: str) -> None:
    """A caller without permission, as at a CloudFront that does not have this operation."""
    from keyfront.control.identity.sealing import sealer
    from keyfront.control.identity.users import UserAdmin
    from tests.control.plane import ACCOUNT

    _, signing, _ = films(plane, place)
    register = UserAdmin(
        plane.store, ACCOUNT, lambda: sealer(plane.folder, {}, make=True), by="tests", clock=time.time
    )
    register.create_user("reader", ["edge"])
    key, secret, *_ = register.create_key("reader")
    file = plane.folder / "reader"
    file.write_text(f"[default]\naws_access_key_id = {key.id}\naws_secret_access_key = {secret}\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        ends = time.monotonic() + 10
        while (done := run("list", "--records", place)).exit_code and time.monotonic() < ends:
            pass  # the control plane learns of the user within half a second
        listed = json.loads(run("list", "--records", place, "--json").stdout)
    assert done.exit_code == 0
    assert "keyfront:GetKeyUse" in done.stderr
    assert (rows(done.stdout)[signing]["last seen"], rows(done.stdout)[signing]["share"]) == ("?", "?")
    assert listed["UseKnown"] is False
    assert {each["Share"] for each in listed["Keys"]} == {None}


def test_warnings_and_their_exit_status(plane: Plane, place: str) -> None:
    films(plane, place)
    done = run("warnings", "--records", place)
    assert done.exit_code == 1
    (first, advice) = done.stdout.splitlines()
    assert first.startswith("warning key-unknown-to-custody: films trusts by-hand (K")
    assert advice.startswith("    remove it from the group")
    assert run("warnings", "--records", place, "--at-least", "critical").exit_code == 0
    (only,) = json.loads(run("warnings", "--records", place, "--json").stdout)
    assert (only["Code"], only["Severity"], only["Kind"]) == ("key-unknown-to-custody", "warning", "key")


def test_a_key_that_custody_has_lost(plane: Plane, place: str) -> None:
    films(plane, place)
    open_place(place).delete("films-2", grace=30 * DAY, now=time.time())
    found = json.loads(run("warnings", "--records", place, "--at-least", "critical", "--json").stdout)
    assert [(each["Code"], each["Name"]) for each in found] == [("key-lost", "films-2")]
    assert "SIGNING (lost)" in run("list", "--records", place).stdout


def test_the_age_of_keys_that_nothing_rotates(plane: Plane, tmp_path: Path) -> None:
    ids = [create(plane, name) for name in ("a", "b")]
    plane.client().create_key_group(KeyGroupConfig={"Name": "g", "Items": ids})
    assert run("warnings").exit_code == 0
    done = run("warnings", "--age", "12h")
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()[::2]] == ["warning key-ends"] * 2


def test_records_that_cannot_be_read(plane: Plane, tmp_path: Path) -> None:
    create(plane, "a")
    records = open_records(f"file:{tmp_path}/records/")
    records.write("films", b"{}", None)
    done = run("list", "--records", f"file:{tmp_path}/records/")
    assert done.exit_code == 0
    assert "films" in done.stderr
    done = run("list", "--records", "nowhere:x/")
    assert done.exit_code == 2
    assert "not a custody URI" in done.stderr


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, plane: Plane) -> None:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        done = run("list", "--endpoint-url", f"http://127.0.0.1:{held.getsockname()[1]}")
    assert done.exit_code == 2
    assert "Could not connect" in done.stderr
