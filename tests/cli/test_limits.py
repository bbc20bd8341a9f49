"""The options for limits: their syntax, their effect on a worker, and that each is documented with its default."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

import keyfront.cli.up as up_module
from keyfront.cli.limit_options import OPTIONS, EdgeLimits
from keyfront.cli.sizes import SizeType
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.worker_settings import WorkerSettings
from keyfront.runtime.reload import UpSettings

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def worker_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str) -> WorkerSettings:
    """The settings that a worker would get, without starting one."""
    found: list[WorkerSettings] = []

    async def start(settings: UpSettings, *_: object) -> None:
        found.append(settings.worker)

    monkeypatch.setattr(up_module, "run_up", start)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    done = CliRunner().invoke(up_module.up, ["--data", str(tmp_path / "data"), *options])
    assert done.exit_code == 0, done.output
    # As serialized for the worker's process.
    return msgspec.json.decode(msgspec.json.encode(found[0]), type=WorkerSettings)


def part_of(settings: WorkerSettings, part: str) -> Any:
    return settings.limits if part == "times" else getattr(settings.edge, part)


@pytest.mark.parametrize("option", OPTIONS, ids=[option.name for option in OPTIONS])
def test_an_option_reaches_the_worker(option: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = worker_settings(monkeypatch, tmp_path, f"--{option.name}", "7")
    assert getattr(part_of(settings, option.part), option.member) == 7
    untouched = [each for each in OPTIONS if each is not option]
    default = WorkerSettings("", "", "", 0)
    for each in untouched:
        assert getattr(part_of(settings, each.part), each.member) == getattr(
            part_of(default, each.part), each.member
        )


@pytest.mark.parametrize("option", OPTIONS, ids=[option.name for option in OPTIONS])
def test_the_default_is_the_one_that_is_told(option: Any) -> None:
    settings = WorkerSettings("", "", "", 0)
    default = getattr(part_of(settings, option.part), option.member)
    assert option.kind.convert(option.default, None, None) == default
    assert re.search(
        rf"^\| `--{option.name} {option.metavar}` \| {option.default} \|", REFERENCE.read_text(), re.M
    )


def test_every_limit_has_an_option() -> None:
    """Except for those of WebSockets, which are documented elsewhere."""
    covered = {(option.part, option.member) for option in OPTIONS}
    members = {("times", name) for name in Limits.__struct_fields__ if not name.startswith("websocket")}
    for part in ("viewers", "uploads", "origins"):
        members |= {(part, name) for name in getattr(EdgeSettings(), part).__struct_fields__}
    assert members == covered
    assert {"times", "viewers", "uploads", "origins"} == set(EdgeLimits.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("100", 100), ("64K", 65536), ("1m", 1 << 20), ("2G", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert SizeType().convert(text, None, None) == size


@pytest.mark.parametrize(
    "option",
    [
        "--head-timeout=0",
        "--head-timeout=-1",
        "--head-timeout=soon",
        "--idle-timeout=nan",
        "--idle-timeout=1e9",
        "--max-connections=-1",
        "--max-connections=many",
        "--upload-buffer=1P",
        "--upload-buffer=-1",
        "--origin-pause=0",
        "--websockets=-1",
        "--websocket-idle=0",
        "--websocket-idle=nan",
    ],
)
def test_what_makes_no_sense(option: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(up_module.up, ["--data", str(tmp_path / "data"), option])
    assert done.exit_code == 2
    assert option.partition("=")[0] in done.output
    assert not (tmp_path / "data").exists()
