"""`keyfront edge join`: which options go together, and what an enrolled edge follows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from keyfront import extras
from keyfront.cli.main import keyfront
from keyfront.fleet.remote.authority import Token
from keyfront.fleet.remote.enrollment import Edge, EdgeFiles
from tests.rows import rows

TOKEN = str(Token(bytes(16), bytes(32)))
HTTPS = ("--control", "https://127.0.0.1:9")
NATS = ("--nats", "nats://127.0.0.1:9")


def join(data: Path, *options: str) -> str:
    """What it prints."""
    done = CliRunner().invoke(keyfront, ["edge", "join", "--data", str(data), *options])
    return f"{done.exit_code}: {done.output}"


@rows(
    "options, message",
    [
        ((), "2: keyfront: give either --control, to follow over HTTPS, or --nats"),
        ((*HTTPS, *NATS), "give either --control, to follow over HTTPS, or --nats"),
        ((*NATS, "--proxy", "http://p:1"), "--proxy and --ca are for --control; NATS has --nats-ca"),
        ((*HTTPS, "--nats-domain", "hub"), "--nats-domain requires --nats"),
        ((*NATS, "--nats-domain", "a.b"), "--nats-domain 'a.b' is not the name of a JetStream domain"),
        (("--nats", "nats://me:s3cret@x"), "must not contain a password"),
        (NATS, "this machine is not enrolled: give --token"),
        ((*NATS, "--token", TOKEN), "no control plane can be reached: nats://127.0.0.1:9: "),
    ],
)
def test_options_that_do_not_do(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    printed = join(tmp_path, *options)
    assert message in printed, printed
    assert "Traceback" not in printed


def test_an_enrolled_edge_changes_what_it_follows(tmp_path: Path) -> None:
    files = EdgeFiles(tmp_path)
    (tmp_path / "identity").mkdir()
    files.save(Edge("paris", "eu", ("https://a:1",), "", "pem", "00"))
    (tmp_path / "creds").write_text("me:s3cret\n")
    printed = join(tmp_path, *NATS, "--nats-creds", str(tmp_path / "creds"), "--nats-bucket", "ours")
    assert printed == "0: this edge follows the bucket ours at nats://127.0.0.1:9 when it starts again\n"
    edge = files.edge()
    assert (edge.name, edge.region, edge.controls) == ("paris", "eu", ())
    assert edge.nats is not None
    assert edge.nats.credentials == str(tmp_path / "creds")
    assert b"s3cret" not in (tmp_path / "identity" / "edge.json").read_bytes()
    assert join(tmp_path, *HTTPS).endswith("this edge follows https://127.0.0.1:9 when it starts again\n")
    assert files.edge() == msgspec.structs.replace(edge, controls=("https://127.0.0.1:9",), nats=None)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "nats" else object())
    assert "pip install 'keyfront[nats]'" in join(tmp_path, *NATS)
