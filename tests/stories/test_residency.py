"""Data residency on two machines: one has the control plane and the edges in eu, the other only edges, in us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyfront import load_signer, sign_url
from tests.application import Response, served
from tests.up import Up, distribution_config

KEYS = Path(__file__).resolve().parent.parent / "vectors" / "keys"
SECRET = "sEcret-of-the-origin-in-eu"
PATIENCE = 30.0
"""Seconds: a second is promised, on a machine that has nothing else to do."""


@pytest.fixture
def app() -> Iterator[int]:
    """An origin that knows neither keys nor regions."""
    with served(lambda request: Response(request.target.encode())) as port:
        yield port


def files(*folders: Path) -> bytes:
    """The content of all files in these folders."""
    return b"".join(path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file())


def tie(client: Any, arn: str, regions: str) -> None:
    client.tag_resource(Resource=arn, Tags={"Items": [{"Key": "keyfront:regions", "Value": regions}]})


def lines_of(pem: str) -> list[bytes]:
    return [line.encode() for line in pem.splitlines() if line and not line.startswith("-")]


def test_what_is_tied_to_one_region_never_reaches_the_other(tmp_path: Path, app: int) -> None:
    shared = tmp_path / "shared-with-us"
    shared.mkdir(mode=0o700)
    options = ("--cache-disk", "0")
    eu = Up(tmp_path / "eu", workers=1, options=(*options, "--region", "eu", "--region-feed", f"us={shared}"))
    us = Up(tmp_path / "us", workers=1, options=(*options, "--region", "us"), feed=shared)
    with eu, us:
        client = eu.client()
        account = "000000000000"
        pems = {"eu": (KEYS / "rsa.pub").read_text(), "us": (KEYS / "ec.pub").read_text()}
        keys: dict[str, str] = {}
        groups: dict[str, str] = {}
        links: dict[str, str] = {}
        for name, pem in pems.items():
            given = {"CallerReference": name, "Name": name, "EncodedKey": pem}
            keys[name] = client.create_public_key(PublicKeyConfig=given)["PublicKey"]["Id"]
            made = client.create_key_group(KeyGroupConfig={"Name": f"films-{name}", "Items": [keys[name]]})
            groups[name] = made["KeyGroup"]["Id"]
            tie(client, f"arn:aws:cloudfront::{account}:key-group/{groups[name]}", name)

        # One distribution for all regions, whose viewers in each region have separate keys, and one for eu only.
        films = client.create_distribution(
            DistributionConfig=distribution_config("films", app, list(groups.values()))
        )["Distribution"]
        config = distribution_config("papers", app, [])
        config["Origins"]["Items"][0]["CustomHeaders"] = {
            "Quantity": 1,
            "Items": [{"HeaderName": "X-Secret", "HeaderValue": SECRET}],
        }
        papers = client.create_distribution_with_tags(
            DistributionConfigWithTags={
                "DistributionConfig": config,
                "Tags": {"Items": [{"Key": "keyfront:regions", "Value": "eu"}]},
            }
        )["Distribution"]
        for one in (films, papers):
            eu.deployed(one["Id"], PATIENCE)  # once the edges of both regions report it

        def never(*texts: str) -> None:
            everything = files(us.data, shared)
            assert lines_of(pems["us"])[0] in everything
            for text in (SECRET, papers["Id"], "films-eu", *lines_of(pems["eu"]), *texts):
                assert (text if isinstance(text, bytes) else text.encode()) not in everything

        never(keys["eu"])

        host = films["DomainName"]
        for name, key in (("eu", "rsa.pem"), ("us", "ec.pem")):
            signer = load_signer(keys[name], KEYS / key)
            link = sign_url(f"http://{host}/{name}", signer, expires=4_000_000_000)
            links[name] = link.removeprefix(f"http://{host}")

        def served() -> dict[tuple[str, str], int]:
            """How each link is answered, and where."""
            return {
                (name, up.data.name): up.get(host, links[name]).status for name in links for up in (eu, us)
            }

        at_home = {("eu", "eu"): 200, ("eu", "us"): 403, ("us", "eu"): 403, ("us", "us"): 200}
        eu.until(lambda: served() == at_home, PATIENCE)
        assert [up.get(host, "/eu").status for up in (eu, us)] == [403, 403]
        assert eu.get(papers["DomainName"], "/a").status == 200
        for host_ in ("no-such-name.example.com", papers["DomainName"]):
            assert us.get(host_, "/a").status == 403
        us.until(lambda: [r.get("reason") for r in us.records()][-2:] == ["no_distribution"] * 2, PATIENCE)

        never()

        # Both groups swap regions.
        tie(client, f"arn:aws:cloudfront::{account}:key-group/{groups['eu']}", "us")
        tie(client, f"arn:aws:cloudfront::{account}:key-group/{groups['us']}", "eu")
        moved = {("eu", "eu"): 403, ("eu", "us"): 200, ("us", "eu"): 200, ("us", "us"): 403}
        eu.until(lambda: served() == moved, PATIENCE)
        eu.deployed(films["Id"], PATIENCE)
        assert lines_of(pems["eu"])[1] not in (eu.data / "snapshot").read_bytes()
        assert lines_of(pems["us"])[1] not in files(shared)

        # The edge in us restarts while nothing is published, and begins with the snapshot for us.
        eu.stop()
        us.stop()
        with Up(us.data, workers=1, options=(*options, "--region", "us"), feed=shared) as again:
            assert again.get(host, links["eu"]).status == 200
            assert again.get(papers["DomainName"], "/a").status == 403
        # As an edge of another region, it takes none of it.
        with Up(us.data, workers=1, options=(*options, "--region", "asia"), feed=shared) as wrong:
            assert wrong.get(host, links["eu"]).status == 403
            wrong.until(lambda: any("is not for this edge" in line for line in wrong.log), PATIENCE)
