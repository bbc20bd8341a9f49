"""`keyfront regions`, on a store and feeds as a control plane leaves them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from keyfront.cli.main import keyfront
from keyfront.control.call import Call
from keyfront.control.service import Service, ServiceSettings
from keyfront.control.store.store import Store
from keyfront.fleet.regions import open_regions, remember
from keyfront.runtime.settings import ACCOUNT
from tests.control.harness import CALLER, minimal, trusting
from tests.keys import ec_pem, rsa_pem


def installation(folder: Path) -> dict[str, str]:
    """A control plane in eu that serves us, too. Returns the ids of its resources, by name."""
    (folder / "data").mkdir()
    places = [("us", str(folder / "us"))]
    feeds = open_regions(folder / "data", "eu", places)
    remember(folder / "data", "eu", places)
    store = Store(folder / "data" / "keyfront.db")
    service = Service(store, feeds, ServiceSettings(account=ACCOUNT))
    service.start(1.0)

    def call(operation: str, **params: Any) -> dict[str, Any]:
        return service.run(Call(operation, params, CALLER, "192.0.2.7", "tests/1", "0" * 36, 2.0)).output

    def tie(kind: str, id_: str, regions: str) -> None:
        tags = {"Items": [{"Key": "keyfront:regions", "Value": regions}]}
        call("TagResource", Resource=f"arn:aws:cloudfront::{ACCOUNT}:{kind}/{id_}", Tags=tags)

    ids = {}
    for name, pem in (("one", rsa_pem()), ("two", ec_pem())):
        config = {"CallerReference": name, "Name": name, "EncodedKey": pem}
        ids[f"key {name}"] = call("CreatePublicKey", PublicKeyConfig=config)["PublicKey"]["Id"]
        group = call("CreateKeyGroup", KeyGroupConfig={"Name": name, "Items": [ids[f"key {name}"]]})
        ids[f"group {name}"] = group["KeyGroup"]["Id"]
    tie("key-group", ids["group one"], "eu")
    tie("key-group", ids["group two"], "eu us")
    for name, groups in (("films", ["group one"]), ("papers", ["group two"])):
        behavior = minimal()["DefaultCacheBehavior"] | {
            "TrustedKeyGroups": trusting(*(ids[g] for g in groups))
        }
        aliases = {
            "Aliases": {"Quantity": 1, "Items": [f"{name}.example.com"]},
            "DefaultCacheBehavior": behavior,
        }
        made = call("CreateDistribution", DistributionConfig=minimal(name) | aliases)
        ids[name] = made["Distribution"]["Id"]
    tie("distribution", ids["papers"], "us mars")
    number = feeds.number()
    feeds.own.report("edge-1", number, at=time.time())
    feeds.own.report("edge-2", number - 1, at=time.time(), refused="the checksum does not match")
    store.close()
    return ids


def run(folder: Path, *argv: str) -> str:
    done = CliRunner().invoke(keyfront, ["regions", "--data", str(folder / "data"), *argv])
    assert done.exit_code == 0, done.output
    return done.output


def test_who_has_what(tmp_path: Path) -> None:
    ids = installation(tmp_path)
    shown = json.loads(run(tmp_path, "--json"))
    by_name = {one["region"]: one for one in shown["regions"]}
    assert list(by_name) == ["eu", "mars", "us"]
    eu, mars, us = by_name.values()
    assert [edge["name"] for edge in eu["edges"]] == ["edge-1", "edge-2"]
    assert (eu["distributions"], eu["key_groups"]) == ([ids["films"]], [ids["group one"]])
    assert eu["withheld"]["distributions"] == [ids["papers"]]
    assert sorted(us["distributions"]) == sorted([ids["films"], ids["papers"]])
    assert us["public_keys"] == [ids["key two"]]
    assert us["withheld"]["public_keys"] == [ids["key one"]]
    assert mars["key_groups"] == us["edges"] == []
    assert {(one["what"], one["name"], *one["regions"]) for one in shown["tied"]} == {
        ("distribution", "papers.example.com", "mars", "us"),
        ("key group", "one", "eu"),
        ("key group", "two", "eu", "us"),
    }
    assert [line.partition(":")[0] for line in shown["warnings"]] == [
        f"edge edge-2 has applied snapshot {shown['snapshot'] - 1} and refused another",
        f"distribution {ids['films']}, behavior *",
    ]


def test_for_people(tmp_path: Path) -> None:
    installation(tmp_path)
    lines = run(tmp_path).splitlines()
    rows = [line.split() for line in lines]
    number = rows[0][1]
    assert rows[2][:6] == ["eu", "2", str(int(number) - 1), "1", "1", "1"]
    assert rows[4][:6] == ["us", "0", "-", "2", "1", "1"]
    assert any("every signature is refused there" in line for line in lines)
    assert "papers.example.com" in "".join(lines)


def test_where_nothing_is_tied(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Store(tmp_path / "data" / "keyfront.db").close()
    shown = json.loads(run(tmp_path, "--json"))
    assert [one["region"] for one in shown["regions"]] == [""]
    assert (shown["tied"], shown["warnings"]) == ([], [])
    assert run(tmp_path).splitlines()[-1].split() == ["(none)", "0", "-", "0", "0", "0", "nothing"]
