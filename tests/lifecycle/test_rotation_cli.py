"""`keyfront rotation` as an operator and as cron run it, against a whole control plane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keyfront.cli.main import keyfront
from keyfront.custody import open_place, open_records
from keyfront.custody.key_record import load
from keyfront.lifecycle.moves import Action
from tests.control.plane import Plane, distribution_config

PASSPHRASE = {"KEYFRONT_CUSTODY_PASSPHRASE": "of this test alone"}


class Site:
    """A control plane with a key group `photos` that one distribution trusts, and the command line beside it. The
    group's key is also in custody."""

    def __init__(self, plane: Plane, folder: Path) -> None:
        self.plane = plane
        self.client = plane.client()
        self.custody = f"file:{folder}/"
        self.environment = {**plane.environment, **PASSPHRASE, "KEYFRONT_RECORDS": self.custody}
        held = open_place(self.custody, self.environment).create("mine", "ECDSA-P256", now=0.0)
        config = {"CallerReference": "mine", "Name": "mine", "EncodedKey": held.public_key.pem}
        self.key = self.client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
        group = self.client.create_key_group(KeyGroupConfig={"Name": "photos", "Items": [self.key]})
        self.group = group["KeyGroup"]["Id"]
        self.client.create_distribution(DistributionConfig=distribution_config("site", [self.group]))
        plane.obey()

    def say(self, *words: str, status: int = 0) -> Result:
        done = CliRunner().invoke(keyfront, ["rotation", *words], env=self.environment)
        assert done.exit_code == status, (done.output, done.exception)
        return done

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self.say(*words, "--json", status=status).stdout)

    def items(self) -> list[str]:
        found = self.client.get_key_group(Id=self.group)["KeyGroup"]["KeyGroupConfig"]["Items"]
        return [str(item) for item in found]

    def stages(self) -> list[str]:
        loaded = load(open_records(self.custody, self.environment), "photos")
        return [entry.stage.value for entry in loaded.record.entries] if loaded else []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Plane(tmp_path / "plane") as plane:
        yield Site(plane, tmp_path / "custody")


def test_from_the_first_key_to_a_rollback(site: Site) -> None:
    begin = ("start", "photos", "--custody", site.custody, "--every", "90d", "--settle", "0")

    dry = site.say(*begin, "--dry-run")
    assert [line.split()[2] for line in dry.stdout.splitlines()[1:6]] == [
        "create",
        "register",
        "publish",
        "confirm",
        "switch",
    ]
    assert site.stages() == []
    assert site.items() == [site.key]

    site.say(*begin)
    waits = site.say("run").stdout
    assert "is known once Deployed" in waits
    with site.plane.reporting_edge():
        assert "switch photos-" in site.say("run", "photos", "--until-idle").stdout
    assert site.stages() == ["SIGNING"]
    assert len(site.items()) == 2
    assert site.items()[0] == site.key

    site.say("rotate", "photos")
    assert "is under way" not in site.say("run").stdout
    assert "under way already" in site.say("rotate", "photos", status=2).stderr
    with site.plane.reporting_edge():
        site.say("run", "--until-idle")
    assert site.stages() == ["DRAINING", "SIGNING"]
    planned = site.json("plan", "photos")["steps"]
    assert [each["step"] for each in planned[:3]] == ["release", "remove", "retire"]

    rolled = site.say("rollback", "photos")
    assert "paused" in rolled.stdout
    assert site.json("status", status=3)[0]["keys"][0]["stage"] == "SIGNING"
    site.say("resume", "photos")
    assert site.stages() == ["SIGNING", "DRAINING"]


def test_a_key_that_is_there_is_adopted_and_an_emergency_puts_it_out(site: Site) -> None:
    begin = ("start", "photos", "--custody", site.custody, "--settle", "0s", "--adopt")
    wrong = site.say(*begin, f"{site.key}={site.custody}other", status=2)
    assert "other" in wrong.stderr
    site.say(*begin, f"{site.key}={site.custody}mine", "--every", "0 3 29 2 *")
    shown = site.json("status")[0]
    assert (shown["keys"][0]["id"], shown["keys"][0]["stage"]) == (site.key, "SIGNING")
    assert shown["terms"]["every"] == "0 3 29 2 *"
    assert shown["waits"]["until"]

    assert "--yes" in site.say("emergency", "photos", site.key, status=2).stderr
    assert "not a key of the rotation" in site.say("emergency", "photos", "K0", "--yes", status=2).stderr
    with site.plane.reporting_edge():
        output = site.say("emergency", "photos", site.key, "--yes").stdout
    taken = {action.value for action in Action}
    words = [line.split()[1] for line in output.splitlines() if line.startswith("photos:")]
    steps = [word for word in words if word in taken]  # in between it may print what it waits for
    assert steps[:7] == [
        "create",
        "register",
        "publish",
        "switch",
        "retire",
        "unregister",
        "destroy",
    ]
    assert site.key not in site.items()
    assert len(site.items()) == 1
    assert site.key not in [
        key["Id"] for key in site.client.list_public_keys()["PublicKeyList"].get("Items", [])
    ]


def test_what_makes_no_sense_changes_nothing(site: Site) -> None:
    place = ("--custody", site.custody)
    for words, why in (
        (("start", "pictures", *place), "has no key group pictures"),
        (("start", "photos", *place, "--every", "soon"), "a cron expression"),
        (("start", "photos", *place, "--every", "61 * * * *"), "is not a schedule"),
        (("start", "photos", *place, "--every", "0"), "more than 0"),
        (("start", "photos", *place, "--adopt", "K1"), "KEY_ID=URI"),
        (("start", "photos", *place, "--adopt", f"K1={site.custody}mine"), "is not in the key group"),
        (("start", "photos", "--custody", site.custody.rstrip("/")), "ends with a slash"),
        (("rotate", "photos"), "is not rotated"),
        (("stop", "photos", "--yes"), "is not rotated"),
    ):
        assert why in site.say(*words, status=2).stderr, words
    assert site.json("status") == []
    assert site.items() == [site.key]


def test_terms_change_and_a_rotation_is_forgotten(site: Site) -> None:
    site.say("start", "photos", "--custody", site.custody)
    changed = site.say("terms", "photos", "--every", "2d", "--overlap", "30d", "--application", "shop")
    assert "rotations will wait for slots" in changed.stderr
    assert site.json("terms", "photos")["every"] == "2d"
    assert site.json("terms", "photos", "--every", "never")["application"] == "shop"
    output = site.say("pause", "photos")
    assert "paused" in output.stdout
    site.say("stop", "photos", "--yes")
    assert site.json("status") == []
    assert site.items() == [site.key]
