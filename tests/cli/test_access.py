"""`keyfront access` and `keyfront audit` as an operator uses them, on an installation that is not running."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.configloader
import click
import pytest
from click.testing import CliRunner, Result

from keyfront.cli.access import access
from keyfront.cli.audit import audit
from keyfront.cli.main import keyfront
from keyfront.control.iam import conditions
from keyfront.control.iam.roles import ROLES
from keyfront.control.identity.credentials import load
from keyfront.control.store.store import Store
from tests.control.harness import Harness


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder of a Keyfront that was started once."""
    load(tmp_path / "credentials", "000000000000")
    Store(tmp_path / "keyfront.db").close()
    return tmp_path


def run(folder: Path, *argv: str, given: str | None = None) -> Result:
    done = CliRunner().invoke(keyfront, [*argv, "--data", str(folder)], input=given)
    assert "fault in Keyfront" not in done.stderr, done.stderr
    return done


def output_of(folder: Path, *argv: str, given: str | None = None) -> str:
    """The standard output of a command that must succeed."""
    done = run(folder, *argv, given=given)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(folder: Path, *argv: str, given: str | None = None) -> str:
    done = run(folder, *argv, given=given)
    assert done.exit_code != 0
    return done.output


# ---- access


def test_a_key_comes_as_a_profile_and_is_shown_once(folder: Path) -> None:
    printed = output_of(folder, "access", "user", "create", "ci", "--role", "key-manager", "--key")
    (folder / "profile").write_text(printed)
    profile = botocore.configloader.raw_config_parse(str(folder / "profile"))["ci"]
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", profile["aws_access_key_id"])
    assert re.fullmatch(r"[A-Za-z0-9+/]{40}", profile["aws_secret_access_key"])
    listed = output_of(folder, "access", "key", "list")
    assert profile["aws_access_key_id"] in listed
    everything = (
        listed + output_of(folder, "access", "user", "list", "--json") + output_of(folder, "audit", "export")
    )
    assert profile["aws_secret_access_key"] not in everything


def test_users_and_keys(folder: Path) -> None:
    output_of(folder, "access", "user", "create", "ci", "--role", "auditor")
    old = json.loads(output_of(folder, "access", "key", "create", "ci", "--json"))
    new = json.loads(output_of(folder, "access", "key", "rotate", "ci", "--json"))
    assert f"keyfront access key revoke {old['AccessKeyId']}" not in new.values()
    why = refused(folder, "access", "key", "rotate", "ci")
    assert old["AccessKeyId"] in why
    assert new["AccessKeyId"] in why
    output_of(folder, "access", "key", "disable", old["AccessKeyId"])
    lines = output_of(folder, "access", "key", "list", "ci").splitlines()
    assert lines[0].split() == ["access", "key", "user", "status", "created", "last", "used"]
    assert {line.split()[0]: line.split()[2] for line in lines[1:]} == {
        old["AccessKeyId"]: "disabled",
        new["AccessKeyId"]: "active",
    }
    output_of(folder, "access", "key", "enable", old["AccessKeyId"])
    output_of(folder, "access", "key", "revoke", old["AccessKeyId"])
    assert "NoSuchEntity" in refused(folder, "access", "key", "revoke", old["AccessKeyId"])
    (user,) = json.loads(output_of(folder, "access", "user", "list", "--json"))
    assert (user["UserName"], user["Policies"]) == ("ci", ["auditor"])
    assert [key["AccessKeyId"] for key in user["AccessKeys"]] == [new["AccessKeyId"]]
    assert user["AccessKeys"][0]["LastUsedDate"] is None
    assert "DeleteConflict" in refused(folder, "access", "user", "delete", "ci")
    output_of(folder, "access", "user", "delete", "ci", "--with-keys")
    assert output_of(folder, "access", "user", "list") == ""
    assert "EntityAlreadyExists" in refused(folder, "access", "user", "create", "default")


DENY = {"Effect": "Deny", "Action": "cloudfront:DeleteKeyGroup", "Resource": "*"}


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def test_policies(folder: Path) -> None:
    (folder / "p.json").write_text(document(DENY))
    output_of(folder, "access", "user", "create", "ci", "--role", "key-manager")
    output_of(folder, "access", "policy", "put", "careful", str(folder / "p.json"))
    output_of(folder, "access", "policy", "attach", "careful", "ci")
    assert json.loads(output_of(folder, "access", "policy", "show", "careful"))["Statement"] == [DENY]
    assert (
        json.loads(output_of(folder, "access", "policy", "show", "auditor"))["Statement"][0]["Effect"]
        == "Allow"
    )
    listed = output_of(folder, "access", "policy", "list").splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["admin", "key-manager", "auditor", "edge", "careful"]
    assert [line.split()[-1] for line in listed[1:]][1::3] == ["ci", "ci"]
    kinds = {
        one["PolicyName"]: one for one in json.loads(output_of(folder, "access", "policy", "list", "--json"))
    }
    assert kinds["careful"] == {"PolicyName": "careful", "Kind": "policy", "Users": ["ci"]}
    assert "DeleteConflict" in refused(folder, "access", "policy", "delete", "careful")
    output_of(folder, "access", "policy", "detach", "careful", "ci")
    output_of(folder, "access", "policy", "delete", "careful")
    assert "NoSuchEntity" in refused(folder, "access", "policy", "show", "careful")
    spoilt = document(DENY | {"Action": "cloudfront:DeletKeyGroup"})
    why = refused(folder, "access", "policy", "put", "careful", "-", given=spoilt)
    assert "MalformedPolicyDocument" in why
    assert "Statement[0].Action: CloudFront has no action 'cloudfront:DeletKeyGroup'" in why
    done = run(folder, "access", "policy", "put", "shared", "-", given=document(DENY | {"Action": "s3:*"}))
    assert done.exit_code == 0
    assert "note: Statement[0].Action: s3:* belongs to another service" in done.stderr
    (folder / "p.json").write_bytes(b"\xff\xfe{}")
    assert "is not text" in refused(folder, "access", "policy", "put", "careful", str(folder / "p.json"))


def test_simulate(folder: Path) -> None:
    arn = "arn:aws:cloudfront::000000000000:distribution/E1"
    tagged = {"Effect": "Allow", "Action": "cloudfront:*Distribution", "Resource": arn}
    tagged["Condition"] = {
        "StringEquals": {"aws:ResourceTag/Env": "dev"},
        "IpAddress": {"aws:SourceIp": "192.0.2.0/24"},
    }  # type: ignore[assignment]
    output_of(folder, "access", "user", "create", "ci", "--role", "auditor")
    output_of(folder, "access", "policy", "put", "dev", "-", given=document(tagged))
    output_of(folder, "access", "policy", "attach", "dev", "ci")
    ask = ("access", "simulate", "ci")
    assert output_of(folder, *ask, "GetKeyGroup") == "allowed by auditor (Statement[0])\n"
    circumstances = ("--source-ip", "192.0.2.7", "--resource-tag", "Env=dev")
    assert output_of(folder, *ask, "cloudfront:updatedistribution", arn, *circumstances).startswith(
        "allowed by dev"
    )
    for argv in (
        ("UpdateDistribution",),
        ("UpdateDistribution", arn),
        ("UpdateDistribution", arn, *circumstances[:2]),
        ("UpdateDistribution", arn[:-1] + "2", *circumstances),
    ):
        done = run(folder, *ask, *argv)
        assert (done.exit_code, done.stdout) == (1, "denied: no policy allows it\n")
    output_of(folder, "access", "policy", "put", "dev", "-", given=document(DENY))
    done = run(folder, *ask, "DeleteKeyGroup")
    assert (done.exit_code, done.stdout) == (1, "denied by dev (Statement[0])\n")
    assert "has an action" in refused(folder, *ask, "s3:GetObject")
    assert "KEY=VALUE" in refused(folder, *ask, "GetKeyGroup", "--resource-tag", "Env")
    assert "NoSuchEntity" in refused(folder, "access", "simulate", "nobody", "GetKeyGroup")


@pytest.mark.parametrize("argv", [("access", "user", "list"), ("audit", "list"), ("audit", "verify")])
def test_where_there_is_no_keyfront(tmp_path: Path, argv: tuple[str, ...]) -> None:
    assert "start it once" in refused(tmp_path / "nothing", *argv)
    assert not (tmp_path / "nothing").exists()


# ---- audit


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Harness]:
    """A harness with a log of six records, at NOW + 1 to NOW + 6."""
    harness = Harness(tmp_path)
    key = harness.key("one")
    group = harness.group(key)
    harness.call("GetKeyGroup", Id=group)
    harness.refused("GetKeyGroup", Id="nothing")
    harness.refused("DeletePublicKey", Id=key)
    made = harness.distribution("site")
    harness.call("TagResource", Resource=made["ARN"], Tags={"Items": [{"Key": "a", "Value": "b"}]})
    yield harness
    harness.close()


def listed(folder: Path, *argv: str) -> list[str]:
    """The events that `keyfront audit list` prints."""
    return [line.split()[4] for line in output_of(folder, "audit", "list", *argv).splitlines()]


def test_what_is_searched_for(busy: Harness) -> None:
    folder = busy.folder
    everything = [
        "CreatePublicKey",
        "CreateKeyGroup",
        "GetKeyGroup",
        "GetKeyGroup",
        "DeletePublicKey",
        "CreateDistribution",
        "TagResource",
    ]
    records = [json.loads(line) for line in output_of(folder, "audit", "list", "--json").splitlines()]
    assert [record["eventName"] for record in records] == everything
    site = next(iter(record["responseElements"]["distribution"]["id"] for record in records[5:6]))
    cases: dict[tuple[str, ...], list[str]] = {
        (): everything,
        ("-n", "2"): everything[-2:],
        ("--errors",): ["GetKeyGroup", "DeletePublicKey"],
        ("--writes",): [name for name in everything if name != "GetKeyGroup"],
        ("--event", "getkeygroup"): ["GetKeyGroup", "GetKeyGroup"],
        ("--event", "GetKeyGroup", "--errors"): ["GetKeyGroup"],
        ("--user", "ada"): everything,
        ("--user", "AKIAEXAMPLE", "-n", "1"): ["TagResource"],
        ("--user", "bob"): [],
        ("--resource", "nothing"): ["GetKeyGroup"],
        ("--resource", site): ["CreateDistribution", "TagResource"],
        ("--resource", f"arn:aws:cloudfront::123456789012:distribution/{site}"): [
            "CreateDistribution",
            "TagResource",
        ],
        ("--since", "2023-11-14T22:13:25Z"): everything[4:],
        ("--until", "2023-11-14T22:13:22Z"): everything[:1],
        ("--since", "1700000002", "--until", "1700000004"): everything[1:3],
        ("--since", "1h"): [],
    }
    for argv, names in cases.items():
        assert listed(folder, *argv) == names, argv
    lines = output_of(folder, "audit", "list").splitlines()
    assert re.fullmatch(r"1 2023-11-14T22:13:21Z ada 192\.0\.2\.7 CreatePublicKey K[A-Z0-9]{13} ok", lines[0])
    assert "GetKeyGroup nothing NoSuchResource: " in lines[3]


def test_a_long_log_is_read_to_its_end(busy: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    from keyfront.control.audit import search as trail

    for page in (1, 2, 3, 7, 8):
        monkeypatch.setattr(trail, "PAGE", page)
        assert len(listed(busy.folder)) == 7
        assert len(output_of(busy.folder, "audit", "export").splitlines()) == 7
        assert run(busy.folder, "audit", "verify").exit_code == 0


def test_what_others_chose_does_not_move_the_cursor(busy: Harness) -> None:
    busy.refused("GetKeyGroup", Id="\x1b[2J\x1b[1;1Hgone\u202e\n2 fake")
    (line,) = output_of(busy.folder, "audit", "list", "-n", "1").splitlines()
    assert line.isprintable()


def change(folder: Path, *statements: str) -> None:
    """Change the database as someone with access to the file can."""
    with sqlite3.connect(folder / "keyfront.db") as connection:
        for name in ("audit_no_update", "audit_no_delete"):
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def anchor(folder: Path) -> str:
    return output_of(folder, "audit", "verify").strip()


BREAKS = {
    "a record changed": (
        "UPDATE audit SET record = replace(CAST(record AS TEXT), 'ada', 'bob') WHERE number = 3",
        "record 3 was altered",
    ),
    "a digest changed": ("UPDATE audit SET digest = zeroblob(32) WHERE number = 2", "record 2 was altered"),
    "one taken away": ("DELETE FROM audit WHERE number = 4", "record 4 is missing: record 5 follows"),
    "the first taken away": ("DELETE FROM audit WHERE number = 1", "record 1 is missing: record 2 follows"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_first_break_is_named(busy: Harness, name: str) -> None:
    statement, message = BREAKS[name]
    expected = anchor(busy.folder)
    change(busy.folder, statement)
    for argv in ((), ("--expect", expected)):
        done = run(busy.folder, "audit", "verify", *argv)
        assert done.exit_code == 1
        assert message in done.stderr
        assert done.stdout == ""


def test_a_record_that_cannot_be_read_any_more(busy: Harness) -> None:
    change(busy.folder, "UPDATE audit SET record = x'7b' WHERE number = 3")
    change(busy.folder, "UPDATE audit SET record = 'text' WHERE number = 4")
    change(busy.folder, "UPDATE audit SET record = '[]' WHERE number = 5")
    change(busy.folder, "UPDATE audit SET record = '{\"userIdentity\": 1}' WHERE number = 6")
    lines = output_of(busy.folder, "audit", "list").splitlines()
    assert [line for line in lines if "cannot be read" in line] == lines[2:6]
    assert len(output_of(busy.folder, "audit", "export").splitlines()) == 7
    assert "record 3 was altered" in run(busy.folder, "audit", "verify").stderr


def test_an_anchor_shows_what_was_taken_from_the_end(busy: Harness) -> None:
    before = anchor(busy.folder)
    number, digest = before.split(":")
    assert number == "7"
    busy.key("another")
    later = anchor(busy.folder)
    for expected in (before, digest, digest.upper(), later, f"0:{'0' * 64}"):
        assert output_of(busy.folder, "audit", "verify", "--expect", expected).strip() == later
    for wrong in (f"6:{digest}", f"8:{digest}", "f" * 64):
        assert run(busy.folder, "audit", "verify", "--expect", wrong).exit_code == 1
    for nonsense in ("7", "7:abc", "x:" + digest, digest + "0", "-1:" + digest):
        done = run(busy.folder, "audit", "verify", "--expect", nonsense)
        assert "is not an anchor" in done.stderr
    change(busy.folder, "DELETE FROM audit WHERE number > 7")
    assert run(busy.folder, "audit", "verify").exit_code == 0  # the chain alone cannot show it
    assert run(busy.folder, "audit", "verify", "--expect", before).exit_code == 0
    done = run(busy.folder, "audit", "verify", "--expect", later)
    assert done.exit_code == 1
    assert "records were removed, or the log was rewritten" in done.stderr
    change(busy.folder, "DELETE FROM audit")
    assert run(busy.folder, "audit", "verify").exit_code == 0
    assert run(busy.folder, "audit", "verify", "--expect", before).exit_code == 1


def test_exports(busy: Harness, tmp_path: Path) -> None:
    folder = busy.folder
    lines = output_of(folder, "audit", "export").splitlines()
    for name in ("log.jsonl", "log.jsonl.gz"):
        output_of(folder, "audit", "export", "-o", str(tmp_path / name))
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "log.jsonl").read_text().splitlines() == lines
    assert gzip.decompress((tmp_path / "log.jsonl.gz").read_bytes()) == (tmp_path / "log.jsonl").read_bytes()
    output_of(folder, "audit", "export", "--format", "cloudtrail", "-o", str(tmp_path / "trail.json.gz"))
    trail = json.loads(gzip.decompress((tmp_path / "trail.json.gz").read_bytes()))
    assert trail == {"Records": [json.loads(line) for line in lines]}
    none = output_of(folder, "audit", "export", "--format", "cloudtrail", "--user", "bob")
    assert json.loads(none) == {"Records": []}
    assert len(output_of(folder, "audit", "export", "--errors").splitlines()) == 2
    assert "cannot be written" in refused(folder, "audit", "export", "-o", str(tmp_path / "no" / "log"))
    assert not list(tmp_path.glob(".log*"))


def test_an_exported_log_can_be_verified_by_anybody(busy: Harness, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    output_of(busy.folder, "audit", "export", "-o", str(path))
    digest = bytes(32)
    for line in path.read_bytes().splitlines():
        digest = hashlib.sha256(digest + line).digest()
    expected = anchor(busy.folder)
    assert expected == f"7:{digest.hex()}"
    verify = ("audit", "verify", "--file", str(path))
    assert "give the anchor" in refused(tmp_path / "nowhere", *verify)
    assert output_of(tmp_path / "nowhere", *verify, "--expect", expected).strip() == expected
    path.write_bytes(path.read_bytes().replace(b'"ada"', b'"eve"', 1))
    assert run(tmp_path / "nowhere", *verify, "--expect", expected).exit_code == 1


# ---- the documentation's examples

DOCS = Path(__file__).parents[2] / "docs"


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize("group", [access, audit], ids=lambda group: str(group.name))
def test_every_command_and_option_is_in_the_reference(group: click.Group) -> None:
    text = (DOCS / "reference" / "cli.md").read_text()
    section = text[text.index(f"## `keyfront {group.name}`") :]
    section = section[: section.find("\n## ", 1)] if "\n## " in section[1:] else section
    for path, command in commands(group, ()):
        assert f"`{' '.join(path)}" in section, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert any(f"{option}" in section for option in parameter.opts), (path, parameter.opts)


def test_the_guides_policy_does_what_the_guide_says(folder: Path) -> None:
    guide = (DOCS / "guide" / "access.md").read_text()
    document = guide.partition("```json\n")[2].partition("```")[0]
    output_of(folder, "access", "policy", "put", "films", "-", given=document)
    output_of(folder, "access", "user", "create", "ada")
    output_of(folder, "access", "policy", "attach", "films", "ada")
    arn = "arn:aws:cloudfront::000000000000:distribution/E1"
    ask = ("access", "simulate", "ada", "UpdateDistribution", arn, "--source-ip", "192.0.2.7")
    assert output_of(folder, *ask, "--resource-tag", "Team=films") == "allowed by films (OwnDistributions)\n"
    assert run(folder, *ask, "--resource-tag", "Team=books").exit_code == 1
    done = run(folder, "access", "simulate", "ada", "DeleteDistribution", arn, "--source-ip", "192.0.2.7")
    assert done.stdout == "denied by films (NeverDelete)\n"
    for key in conditions.KEYS:
        assert f"`{key}`" in guide.lower()
    for role in ROLES:
        assert f"| `{role}` |" in guide
