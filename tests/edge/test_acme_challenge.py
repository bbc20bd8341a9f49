"""Answers to HTTP-01 challenges from a web root."""

from __future__ import annotations

import os
from pathlib import Path

from keyfront.edge.serving.acme_challenge import LONGEST, PREFIX, AcmeChallenges
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.types.messages import Request
from keyfront.model.snapshot import Behavior
from tests.origin import ScriptedOrigin
from tests.rows import rows
from tests.sites import site
from tests.viewer import EdgeHarness


def written(webroot: Path) -> Path:
    """The folder of challenges, with one of each kind."""
    folder = webroot / ".well-known" / "acme-challenge"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token-1_A").write_bytes(b"token-1_A.thumbprint")
    (folder / "large").write_bytes(b"x" * (LONGEST + 1))
    (folder / "with.dot").write_bytes(b"x")
    (webroot / "outside").write_bytes(b"secret")
    for name, make in (
        ("link", lambda path: path.symlink_to(webroot / "outside")),
        ("pipe", os.mkfifo),
        ("folder", lambda path: path.mkdir()),
    ):
        if not os.path.lexists(folder / name):
            make(folder / name)
    return folder


@rows(
    ("method", "target", "text"),
    [
        ("GET", PREFIX + "token-1_A", b"token-1_A.thumbprint"),
        ("HEAD", PREFIX + "token-1_A", b"token-1_A.thumbprint"),
        ("POST", PREFIX + "token-1_A", None),
        ("GET", PREFIX + "token-1_A?x", None),
        ("GET", PREFIX, None),
        ("GET", PREFIX + "absent", None),
        ("GET", PREFIX + "../../outside", None),
        ("GET", PREFIX + "%2e%2e/outside", None),
        ("GET", PREFIX + "with.dot", None),
        ("GET", PREFIX + "large", None),
        ("GET", PREFIX + "link", None),
        ("GET", PREFIX + "pipe", None),
        ("GET", PREFIX + "folder", None),
        ("GET", "/x" + PREFIX + "token-1_A", None),
        ("GET", PREFIX + "a" * 257, None),
    ],
)
def test_only_a_file_with_a_tokens_name_is_an_answer(
    tmp_path: Path, method: str, target: str, text: bytes | None
) -> None:
    written(tmp_path)
    assert AcmeChallenges(str(tmp_path)).answer(Request(method, target, "d.test", [])) == text


def test_without_a_web_root_there_are_no_challenges() -> None:
    assert AcmeChallenges("").answer(Request("GET", PREFIX + "token", "d.test", [])) is None


async def test_any_host_gets_the_answer_and_other_requests_go_on(
    origin: ScriptedOrigin, tmp_path: Path
) -> None:
    """Also where viewers are redirected to https."""
    written(tmp_path)
    behavior = Behavior("*", "scripted", viewer_protocol_policy="redirect-to-https")
    settings = EdgeSettings(memory=1 << 22, acme_webroot=str(tmp_path))
    async with (
        EdgeHarness(site(origin.origin(), behavior), settings=settings) as harness,
        await harness.viewer() as viewer,
    ):
        for host in ("new.example.org", "d.test"):
            for _ in range(2):
                seen = await viewer.ask(PREFIX + "token-1_A", host)
                assert (seen.status, seen.body) == (200, b"token-1_A.thumbprint")
                assert seen.header("cache-control") == "no-store"
        assert (await viewer.ask(PREFIX + "other", "d.test")).status == 301
        assert (await viewer.ask(PREFIX + "other", "new.example.org")).status == 403
    harness.edge.log.flush()
    assert (harness.records[0]["path"], harness.records[0]["status"]) == (PREFIX + "token-1_A", 200)
