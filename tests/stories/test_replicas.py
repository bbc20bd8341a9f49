"""Two machines and one PostgreSQL: each has its own control plane and edges, and either can take over for the
other."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from keyfront import load_signer, sign_url
from keyfront.cli.main import keyfront
from tests.postgres import PostgresServer, unable
from tests.stories.rotations import TERMS, group_of_one, run, signing
from tests.up import Up, distribution_config

KEYS = Path(__file__).resolve().parent.parent / "vectors" / "keys"
SECRET = "sEcret-of-the-database"
UNUSED = 1024
"""An origin's port on which nobody listens: what an edge lets through ends in 502."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if why := unable():
        pytest.skip(why)
    with PostgresServer() as running:
        yield running


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where both machines find the keys to be rotated."""
    return f"file:{tmp_path_factory.mktemp('records')}/"


@pytest.fixture(scope="module")
def machines(
    server: PostgresServer, records: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Up]]:
    url = server.database().replace("keyfront@", f"keyfront:{SECRET}@")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KEYFRONT_STORE", url)
        patched.setenv("KEYFRONT_ACCESS_KEY", base64.b64encode(os.urandom(32)).decode())
        options = ("--cache-disk", "0", "--records", records)
        made = [
            Up(tmp_path_factory.mktemp(f"machine-{number}"), workers=1, options=options) for number in (1, 2)
        ]
        with made[0], made[1]:
            yield made


def create(up: Up, reference: str, groups: list[str]) -> dict[str, Any]:
    config = distribution_config(reference, UNUSED, groups)
    found: dict[str, Any] = up.client().create_distribution(DistributionConfig=config)["Distribution"]
    return found


def test_what_one_control_plane_changes_the_edges_of_both_obey(machines: list[Up]) -> None:
    one, other = machines
    client = one.client()
    pem = (KEYS / "rsa.pub").read_text()
    keys = [
        client.create_public_key(PublicKeyConfig={"CallerReference": name, "Name": name, "EncodedKey": pem})[
            "PublicKey"
        ]["Id"]
        for name in ("one", "two")
    ]
    group = other.client().create_key_group(KeyGroupConfig={"Name": "g", "Items": keys[:1]})["KeyGroup"]["Id"]
    made = create(one, "first", [group])
    for up in machines:
        up.deployed(made["Id"])
    host = made["DomainName"]
    link = sign_url(f"http://{host}/a", load_signer(keys[0], KEYS / "rsa.pem"), expires=4_000_000_000)
    target = link.removeprefix(f"http://{host}")
    assert [up.get(host, target).status for up in machines] == [
        502,
        502,
    ]  # allowed through to an origin that does not exist
    assert [up.get(host, "/a").status for up in machines] == [403, 403]

    found = other.client().get_key_group(Id=group)
    other.client().update_key_group(
        Id=group, IfMatch=found["ETag"], KeyGroupConfig={"Name": "g", "Items": keys[1:]}
    )
    for up in machines:
        up.until(lambda up=up: up.get(host, target).status == 403)  # type: ignore[misc]
        up.deployed(made["Id"])


def test_of_two_who_change_the_same_at_two_machines_one_wins(machines: list[Up]) -> None:
    id_ = create(machines[0], "raced", [])["Id"]
    for _ in range(3):
        found = machines[1].client().get_distribution_config(Id=id_)
        outcomes: list[str] = []
        ready = threading.Barrier(2)

        def update(up: Up, found: Any = found, ready: Any = ready, outcomes: list[str] = outcomes) -> None:
            config = found["DistributionConfig"] | {"Comment": up.data.name}
            client = up.client()
            ready.wait()
            try:
                client.update_distribution(Id=id_, IfMatch=found["ETag"], DistributionConfig=config)
            except ClientError as error:
                outcomes.append(f"{error.response['Error']['Code']} {_status(error)}")
            else:
                outcomes.append("won")

        threads = [threading.Thread(target=update, args=(up,)) for up in machines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["PreconditionFailed 412", "won"]


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def test_who_may_call_one_may_call_the_other(machines: list[Up]) -> None:
    def said(*argv: str) -> str:
        done = CliRunner().invoke(keyfront, [*argv, "--data", str(machines[0].data)])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    said("access", "user", "create", "ci", "--role", "auditor")
    key = json.loads(said("access", "key", "create", "ci", "--json"))
    clients = [
        boto3.client(
            "cloudfront",
            endpoint_url=up.endpoint,
            region_name="us-east-1",
            aws_access_key_id=key["AccessKeyId"],
            aws_secret_access_key=key["SecretAccessKey"],
        )
        for up in machines
    ]

    def may(client: Any) -> bool:
        try:
            client.list_key_groups()
        except ClientError:
            return False
        return True

    for client in clients:
        Up.until(lambda client=client: may(client))  # type: ignore[misc]
    said("access", "key", "revoke", key["AccessKeyId"])
    for client in clients:
        Up.until(lambda client=client: not may(client))  # type: ignore[misc]
    said("audit", "verify")  # the records of both, in one chain


def test_the_password_is_nobodys_business(machines: list[Up]) -> None:
    for up in machines:
        assert SECRET not in "".join(up.log)
        for pid in [up.pid, *up.children()]:
            assert SECRET not in Path(f"/proc/{pid}/cmdline").read_text()
        for pid in up.worker_pids():
            assert SECRET not in Path(f"/proc/{pid}/environ").read_text()
        for path in up.data.rglob("*"):
            assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_a_store_that_is_away_stops_changes_and_no_viewer(machines: list[Up], server: PostgresServer) -> None:
    one, other = machines
    host = create(one, "kept", [])["DomainName"]
    for up in machines:
        up.until(lambda up=up: up.get(host, "/a").status == 502)  # type: ignore[misc]
    server.stop()
    for up in machines:
        with pytest.raises(ClientError) as caught:
            up.client().list_distributions()
        assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
        assert _status(caught.value) == 503
        assert up.health()[0] == 503
        assert up.get(host, "/a").status == 502
    os.kill(one.worker_pids()[0], 9)  # and a worker that starts meanwhile serves the last accepted snapshot
    one.until(lambda: len(one.worker_pids()) == 1 and served(one, host))
    server.start()
    for up in machines:
        up.until(lambda up=up: up.health()[0] == 200)  # type: ignore[misc]
    made = create(other, "after", [])
    for up in machines:
        up.deployed(made["Id"])


def test_when_the_leader_dies_the_other_continues_its_rotations(machines: list[Up], records: str) -> None:
    """This ends both machines."""
    one, other = machines
    group_of_one(one, "films")
    start = ("rotation", "start", "films", "--custody", records, "--records", records)
    run(one, *start, "--every", "2s", *TERMS)
    one.until(lambda: bool(signing(records)))

    def leads(up: Up) -> bool:
        return any("rotation of films" in line for line in up.log)

    one.until(lambda: leads(one) or leads(other))
    assert leads(one) != leads(other), "only one of them leads"
    leader, follower = (one, other) if leads(one) else (other, one)
    leader.kill()
    follower.until(lambda: leads(follower))
    before = signing(records)
    follower.until(lambda: signing(records) not in ("", before))
    assert follower.stop() == 0


def served(up: Up, host: str) -> bool:
    try:
        return up.get(host, "/a").status == 502
    except OSError:
        return False
