"""Invalidation, as an operator and viewers see it: every worker at once, through each client of the API.

All stories share one Keyfront; each uses its own distribution.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.up import PATIENCE, Answer, Up, distribution_config, seconds

pytestmark = pytest.mark.xdist_group("invalidation")

NODE = Path(__file__).resolve().parent.parent / "node"
AWS = shutil.which("aws", path=str(Path(sys.executable).parent))
NPM = shutil.which("node") and (NODE / "node_modules" / "@aws-sdk" / "client-cloudfront").exists()

MANY = 24
"""Connections enough for the kernel to give some to each worker."""


class App(BaseHTTPRequestHandler):
    """Serves the current edition. A request for `/slow…` keeps the edition that it began with until it is
    released."""

    protocol_version = "HTTP/1.1"
    edition = b"1"
    asked = Event()
    released = Event()

    def do_GET(self) -> None:
        body = App.edition
        if self.path.startswith("/slow"):
            App.asked.set()
            App.released.wait(PATIENCE)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=3600")
        if self.path.startswith("/tagged/"):
            self.send_header("Cache-Tag", f"all, {self.path.removeprefix('/tagged/')}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def app() -> Iterator[int]:
    App.edition = b"1"
    App.asked.clear()
    App.released.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("invalidation") / "data", workers=2) as running:
        yield running
        assert running.stop() == 0


class Site:
    """A distribution."""

    def __init__(self, up: Up, origin: int) -> None:
        self.up = up
        self.client = up.client()
        config = distribution_config(str(time.time_ns()), origin, [])
        made = self.client.create_distribution(DistributionConfig=config)
        self.id: str = made["Distribution"]["Id"]
        self.host: str = made["Distribution"]["DomainName"]
        up.deployed(self.id)

    def get(self, target: str) -> Answer:
        return self.up.get(self.host, target)

    def everywhere(self, target: str) -> list[Answer]:
        """The responses that many viewers get, at each worker."""
        return [self.get(target) for _ in range(MANY)]

    def warm(self, *targets: str) -> None:
        """Have every worker store them."""
        for target in targets:
            self.up.until(lambda: all(a.x_cache == "Hit" for a in self.everywhere(target)))  # noqa: B023

    def invalidate(self, *paths: str, reference: str | None = None) -> str:
        batch = {
            "CallerReference": reference or str(time.time_ns()),
            "Paths": {"Quantity": len(paths), "Items": list(paths)},
        }
        made = self.client.create_invalidation(DistributionId=self.id, InvalidationBatch=batch)
        id_: str = made["Invalidation"]["Id"]
        return id_

    def status(self, id_: str) -> str:
        found: str = self.client.get_invalidation(DistributionId=self.id, Id=id_)["Invalidation"]["Status"]
        return found

    def completed(self, id_: str) -> None:
        self.up.until(lambda: self.status(id_) == "Completed")


def test_every_worker_within_a_second_and_nothing_else(app: int, up: Up) -> None:
    site = Site(up, app)
    site.warm("/a/1", "/a/2", "/b")
    for edition in (b"2", b"3", b"4"):
        App.edition = edition
        began = time.monotonic()
        id_ = site.invalidate("/a/*")
        site.completed(id_)
        assert time.monotonic() - began < seconds(1)
        # Completed is a promise: from now on, no old response at all.
        for target in ("/a/1", "/a/2"):
            assert {answer.body for answer in site.everywhere(target)} == {edition}
        assert {(a.body, a.x_cache) for a in site.everywhere("/b")} == {(b"1", "Hit")}
    listed = site.client.list_invalidations(DistributionId=site.id)["InvalidationList"]["Items"]
    assert [item["Status"] for item in listed] == ["Completed"] * 3
    assert listed[0]["Id"] == id_


def test_what_was_on_its_way_is_not_stored(app: int, up: Up) -> None:
    site = Site(up, app)
    answers: list[Answer] = []
    waiting = [Thread(target=lambda: answers.append(site.get("/slow"))) for _ in range(MANY)]
    for thread in waiting:
        thread.start()
    assert App.asked.wait(PATIENCE)
    App.edition = b"2"
    site.completed(site.invalidate("/slow"))
    App.released.set()
    for thread in waiting:
        thread.join()
    # On a busy machine, a request that started too late already gets the new edition.
    assert b"1" in {answer.body for answer in answers} <= {b"1", b"2"}
    assert {answer.body for answer in site.everywhere("/slow")} == {b"2"}
    assert site.get("/slow").x_cache == "Hit"


def test_a_worker_that_dies_and_a_restart_bring_nothing_back(app: int, up: Up) -> None:
    site = Site(up, app)
    site.warm("/a", "/b")
    App.edition = b"2"
    site.completed(site.invalidate("/a"))
    up.kill()
    up.start()
    assert {answer.body for answer in site.everywhere("/a")} == {b"2"}
    site.client = up.client()
    App.edition = b"3"
    id_ = site.invalidate("/a")
    site.completed(id_)
    assert {answer.body for answer in site.everywhere("/a")} == {b"3"}
    os.kill(up.worker_pids()[0], signal.SIGKILL)
    assert site.status(id_) == "Completed"
    up.until(lambda: len(up.worker_pids()) == 2)
    up.until(lambda: all(answer.body == b"3" for answer in site.everywhere("/a")))


# -- other clients ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(AWS is None, reason="the AWS CLI is not installed beside this Python")
def test_the_aws_cli(app: int, up: Up) -> None:
    site = Site(up, app)
    site.warm("/a", "/b")

    def aws(command: str, *options: str, fails: bool = False) -> Any:
        argv = [str(AWS), "--endpoint-url", up.endpoint, "--output", "json", "cloudfront"]
        argv += [*command.split(), "--distribution-id", site.id, *options]
        done = subprocess.run(
            argv, env=up.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else json.loads(done.stdout or "null")

    App.edition = b"2"
    made = aws("create-invalidation", "--paths", "/a*", "/c%20d")
    id_ = made["Invalidation"]["Id"]
    assert made["Location"].endswith(f"/2020-05-31/distribution/{site.id}/invalidation/{id_}")
    assert made["Invalidation"]["InvalidationBatch"]["CallerReference"].startswith("cli-")
    site.completed(id_)  # the waiter would poll again only after 20 seconds
    assert aws("wait invalidation-completed", "--id", id_) is None
    assert aws("get-invalidation", "--id", id_)["Invalidation"]["Status"] == "Completed"
    assert {answer.body for answer in site.everywhere("/a")} == {b"2"}
    assert {answer.body for answer in site.everywhere("/b")} == {b"1"}
    for number in range(3):
        site.invalidate(f"/{number}")
    listed = aws("list-invalidations", "--page-size", "1")["InvalidationList"]["Items"]
    assert len(listed) == 4
    assert listed[-1]["Id"] == id_
    said = aws("create-invalidation", "--paths", "a", fails=True)
    assert "(InvalidArgument)" in said
    assert "Your request contains one or more invalid invalidation paths." in said
    assert "(NoSuchInvalidation)" in aws("get-invalidation", "--id", "INONE12345678", fails=True)


@pytest.mark.skipif(
    not NPM, reason="node or @aws-sdk/client-cloudfront is not installed (npm ci in tests/node)"
)
def test_the_sdk_for_javascript(app: int, up: Up) -> None:
    site = Site(up, app)
    site.warm("/a")

    def call(operation: str, **params: Any) -> Any:
        done = subprocess.run(
            ["node", "call.mjs", operation, json.dumps({"DistributionId": site.id, **params})],
            cwd=NODE,
            env={**up.environment, "AWS_ENDPOINT_URL": up.endpoint},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    App.edition = b"2"
    batch = {"CallerReference": "js", "Paths": {"Quantity": 1, "Items": ["/a"]}}
    made = call("CreateInvalidation", InvalidationBatch=batch)["Invalidation"]
    assert made["InvalidationBatch"] == batch
    again = call("CreateInvalidation", InvalidationBatch=batch)["Invalidation"]
    assert again == made | {"Status": "Completed"}
    assert call("GetInvalidation", Id=made["Id"])["Invalidation"] == again
    assert call("ListInvalidations")["InvalidationList"]["Items"][0]["Id"] == made["Id"]
    assert {answer.body for answer in site.everywhere("/a")} == {b"2"}


def test_cache_tags_at_every_worker_on_disk_and_after_a_restart(app: int, up: Up) -> None:
    site = Site(up, app)
    got = site.client.get_distribution_config(Id=site.id)
    config = got["DistributionConfig"] | {"CacheTagConfig": {"HeaderName": "Cache-Tag"}}
    site.client.update_distribution(Id=site.id, IfMatch=got["ETag"], DistributionConfig=config)
    up.deployed(site.id)
    kept = site.client.get_distribution_config(Id=site.id)["DistributionConfig"]
    assert kept["CacheTagConfig"] == {"HeaderName": "Cache-Tag"}
    site.warm("/tagged/red", "/tagged/blue", "/b")
    App.edition = b"2"
    site.completed(site.invalidate("#RED"))
    assert {answer.body for answer in site.everywhere("/tagged/red")} == {b"2"}
    assert {answer.body for answer in site.everywhere("/tagged/blue")} == {b"1"}
    up.kill()  # the process that starts next judges the disk cache anew
    App.edition = b"3"
    up.start()
    site.client = up.client()
    assert {answer.body for answer in site.everywhere("/tagged/blue")} == {b"1"}
    site.completed(site.invalidate("#all", "/none"))
    assert {answer.body for answer in site.everywhere("/tagged/blue")} == {b"3"}
    assert {answer.body for answer in site.everywhere("/tagged/red")} == {b"3"}
    assert {answer.body for answer in site.everywhere("/b")} == {b"1"}


def test_a_quantity_that_does_not_fit_is_refused(app: int, up: Up) -> None:
    site = Site(up, app)
    batch = {"CallerReference": "1", "Paths": {"Quantity": 2, "Items": ["/a"]}}
    with pytest.raises(site.client.exceptions.InconsistentQuantities):
        site.client.create_invalidation(DistributionId=site.id, InvalidationBatch=batch)
    with pytest.raises(site.client.exceptions.BatchTooLarge):
        site.invalidate(*(f"/{number}" for number in range(3001)))
    with pytest.raises(site.client.exceptions.TooManyInvalidationsInProgress):
        site.invalidate(*(f"/{number}*" for number in range(16)))
    began = time.monotonic()
    site.completed(site.invalidate(*(f"/{number:04}/{'x' * 200}" for number in range(3000))))
    assert time.monotonic() - began < seconds(2)
