"""Unattended rotations as the stories start and observe them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from keyfront.cli.main import keyfront
from keyfront.custody.key_record import KeyGroupRecord, load
from keyfront.custody.schemes import open_records
from tests.keys import public_pem
from tests.up import Up

TERMS = ("--overlap", "2s", "--max-lifetime", "30s", "--max-staleness", "5s", "--settle", "0", "--grace", "0")


def run(up: Up, *argv: str) -> str:
    """A command against this installation that must succeed."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in up.environment.items():
            patched.setenv(name, value)
        done = CliRunner().invoke(keyfront, [*argv, "--endpoint-url", up.endpoint])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def group_of_one(up: Up, name: str) -> tuple[str, str]:
    """A key group with a public key without a known private half, since CloudFront accepts no empty group. Returns
    their ids."""
    client = up.client()
    config = {"CallerReference": name, "Name": f"{name}-none", "EncodedKey": public_pem()}
    key = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
    group = client.create_key_group(KeyGroupConfig={"Name": name, "Items": [key]})["KeyGroup"]["Id"]
    return group, key


def record(place: str, group: str = "films") -> KeyGroupRecord | None:
    found = load(open_records(place), group)
    return found.record if found is not None else None


def signing(place: str) -> str:
    """The id of the key that signs; empty if none does."""
    found = record(place)
    return found.signing.key_pair_id if found is not None and found.signing is not None else ""
