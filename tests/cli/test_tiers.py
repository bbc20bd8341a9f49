"""The options that make an edge part of a tier hierarchy, as given on the command line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keyfront.cli.fleet_options import FleetOptions, FleetSettings
from keyfront.cli.up import up
from keyfront.errors import SettingsError
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.snapshot import Snapshot
from keyfront.runtime.machine import edge_name


def test_what_the_options_say(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x" * 32)
    secret.chmod(0o600)
    assert FleetOptions().settings(tmp_path) == FleetSettings()
    settings = FleetOptions(
        origin_shield=("eu-west-1=10.0.0.1:90", "us-east-1=https://[::1]:91"),
        shield="0.0.0.0:92",
        shield_secret=secret,
    ).settings(tmp_path)
    assert settings == FleetSettings(
        "",
        ("0.0.0.0", 92),
        (("eu-west-1", "10.0.0.1:90"), ("us-east-1", "https://[::1]:91")),
        str(secret),
    )


@pytest.mark.parametrize(
    ("shields", "listens", "secret", "why"),
    [
        ((), "127.0.0.1:0", False, "need --shield-secret"),
        (("eu-central-1=127.0.0.1:1",), None, False, "need --shield-secret"),
        ((), None, True, "is for --shield or --origin-shield"),
        (("127.0.0.1:1",), None, True, "is not REGION=HOST:PORT"),
        (("Frankfurt=127.0.0.1:1",), None, True, "is not REGION=HOST:PORT"),
        (("eu-central-1=127.0.0.1",), None, True, "not an edge's address"),
        (("eu-central-1=h:1", "eu-central-1=h:2"), None, True, "twice"),
        ((), "127.0.0.1", True, "HOST:PORT"),
    ],
)
def test_what_makes_no_sense(
    shields: tuple[str, ...], listens: str | None, secret: bool, why: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("x" * 32)
    options = FleetOptions(
        origin_shield=shields, shield=listens, shield_secret=tmp_path / "secret" if secret else None
    )
    with pytest.raises(SettingsError, match=why):
        options.settings(tmp_path)


def run_up(*argv: str) -> Result:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    done = CliRunner().invoke(up, argv)
    for number, handler in before:
        signal.signal(number, handler)
    return done


@pytest.mark.parametrize("option", ["--control=127.0.0.1:0", "--domain=x.test", "--region-feed=us=."])
def test_edges_alone_have_no_control_plane(option: str, tmp_path: Path) -> None:
    done = run_up("--data", str(tmp_path / "data"), "--feed", str(tmp_path), option)
    assert done.exit_code == 2
    assert "is for a control plane" in done.stderr


def test_an_edge_has_a_name_of_its_own() -> None:
    assert edge_name(80) != edge_name(81)
    assert edge_name(80).startswith("at-")


def test_regions(tmp_path: Path) -> None:
    (tmp_path / "us").mkdir()
    (tmp_path / "asia").mkdir()
    feeds = (f"us={tmp_path / 'us'}", f"asia={tmp_path / 'asia'}")
    settings = FleetOptions(region="eu", region_feed=feeds).settings(tmp_path)
    assert settings == FleetSettings(
        region="eu", region_feeds=(("us", str(tmp_path / "us")), ("asia", str(tmp_path / "asia")))
    )


@pytest.mark.parametrize(
    ("region", "feeds", "why"),
    [
        ("EU", (), "name of a region"),
        ("eu us", (), "name of a region"),
        ("eu", ("us",), "is not NAME=DIR"),
        ("eu", ("us=",), "is not NAME=DIR"),
        ("eu", ("U.S.={0}/us",), "name of a region"),
        ("eu", ("eu={0}/us",), "own edges"),
        ("", ("us={0}/us", "us={0}/asia"), "twice"),
        ("", ("us={0}/us", "asia={0}/us"), "for two regions"),
        ("", ("us={0}/us", "asia={0}/same"), "for two regions"),
        ("", ("us={0}/missing",), "there is no folder"),
        ("", ("us={0}/data",), "data folder of a control plane"),
        ("", ("us={0}/taken",), "holds a snapshot for region asia"),
    ],
)
def test_regions_that_make_no_sense(region: str, feeds: tuple[str, ...], why: str, tmp_path: Path) -> None:
    for name in ("us", "asia", "data"):
        (tmp_path / name).mkdir()
    FileFeed(tmp_path / "taken", "asia").publish(Snapshot(1, 0.0, region="asia"))
    (tmp_path / "same").symlink_to(tmp_path / "us")
    (tmp_path / "data" / "credentials").touch()
    options = FleetOptions(region=region, region_feed=tuple(text.format(tmp_path) for text in feeds))
    with pytest.raises(SettingsError, match=why):
        options.settings(tmp_path)


def test_the_own_data_folder_is_no_other_regions_feed(tmp_path: Path) -> None:
    done = run_up("--data", str(tmp_path), "--region-feed", f"us={tmp_path}")
    assert done.exit_code == 2
    assert "the data folder itself" in done.stderr
