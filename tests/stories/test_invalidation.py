"""Invalidation, as an operator and viewers see it: every worker at once.

`tests/stories/test_awscli.py` and `tests/control/test_app_clients.py` create invalidations with other clients."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from threading import Event, Thread

import pytest

from tests.application import Request, Response, served
from tests.up import PATIENCE, Answer, Up, seconds

MANY = 16
"""Connections enough for the kernel to give some to each worker."""


class App:
    """Serves the current edition. A request for `/slow…` gets the edition that was current when it arrived, once it is
    released."""

    def __init__(self) -> None:
        self.edition = b"1"
        self.arrived = Event()
        self.released = Event()
        self.port = 0

    def respond(self, request: Request) -> Response:
        body = self.edition
        if request.path.startswith("/slow"):
            self.arrived.set()
            self.released.wait(PATIENCE)
        headers = {"Cache-Control": "max-age=3600"}
        if request.path.startswith("/tagged/"):
            headers["Cache-Tag"] = f"all, {request.path.removeprefix('/tagged/')}"
        return Response(body, headers)


@pytest.fixture
def app() -> Iterator[App]:
    made = App()
    with served(made.respond) as made.port:
        yield made


class Site:
    """A distribution in front of the application."""

    def __init__(self, up: Up, app: App) -> None:
        self.up = up
        self.client = up.client()
        made = up.create_distribution(app.port)
        self.id: str = made["Id"]
        self.host: str = made["DomainName"]

    def get(self, target: str) -> Answer:
        return self.up.get(self.host, target)

    def everywhere(self, target: str) -> list[Answer]:
        """The responses that many viewers get, at each worker."""
        return [self.get(target) for _ in range(MANY)]

    def bodies(self, target: str) -> set[bytes]:
        """The bodies that many viewers get, at each worker."""
        return {answer.body for answer in self.everywhere(target)}

    def warm(self, *targets: str) -> None:
        """Have every worker store them."""
        for target in targets:
            self.up.until(lambda: all(a.x_cache == "Hit" for a in self.everywhere(target)))  # noqa: B023

    def is_on_disk(self, target: str) -> bool:
        """Whether the disk cache holds a response for `target`."""
        key = f"{self.id}{target}".encode()
        return any(key in file.read_bytes() for file in (self.up.data / "cache").glob("??/*"))

    def writes_to_disk(self) -> bool:
        """Whether each worker writes new responses to the disk cache. Workers pause for seconds after a failure, such
        as the full disk of `test_health.py`, and do not write what arrives meanwhile."""
        fresh = [f"/{time.time_ns()}" for _ in range(MANY)]
        for target in fresh:
            self.get(target)
        time.sleep(0.1)
        return all(self.is_on_disk(target) for target in fresh)

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

    def complete(self, id_: str) -> None:
        """Wait until the invalidation is completed."""
        self.up.until(lambda: self.status(id_) == "Completed")


def test_it_reaches_every_worker_within_a_second_and_removes_nothing_else(app: App, shared_up: Up) -> None:
    site = Site(shared_up, app)
    site.warm("/a/1", "/a/2", "/b")
    for edition in (b"2", b"3", b"4"):
        app.edition = edition
        began = time.monotonic()
        id_ = site.invalidate("/a/*")
        site.complete(id_)
        assert time.monotonic() - began < seconds(1)
        # Completed is a promise: from now on, no old response at all.
        for target in ("/a/1", "/a/2"):
            assert site.bodies(target) == {edition}
        assert {(a.body, a.x_cache) for a in site.everywhere("/b")} == {(b"1", "Hit")}
    listed = site.client.list_invalidations(DistributionId=site.id)["InvalidationList"]["Items"]
    assert [item["Status"] for item in listed] == ["Completed"] * 3
    assert listed[0]["Id"] == id_


def test_a_response_that_was_under_way_is_not_stored(app: App, shared_up: Up) -> None:
    site = Site(shared_up, app)
    answers: list[Answer] = []
    waiting = [Thread(target=lambda: answers.append(site.get("/slow"))) for _ in range(MANY)]
    for thread in waiting:
        thread.start()
    assert app.arrived.wait(PATIENCE)
    app.edition = b"2"
    site.complete(site.invalidate("/slow"))
    app.released.set()
    for thread in waiting:
        thread.join()
    # On a busy machine, a request that started too late already gets the new edition.
    assert b"1" in {answer.body for answer in answers} <= {b"1", b"2"}
    assert site.bodies("/slow") == {b"2"}
    assert site.get("/slow").x_cache == "Hit"


def test_a_restart_and_a_killed_worker_bring_nothing_back(app: App, shared_up: Up) -> None:
    """By path and by cache tag, in memory and on disk."""
    up, site = shared_up, Site(shared_up, app)
    found = site.client.get_distribution_config(Id=site.id)
    config = found["DistributionConfig"] | {"CacheTagConfig": {"HeaderName": "Cache-Tag"}}
    site.client.update_distribution(Id=site.id, IfMatch=found["ETag"], DistributionConfig=config)
    up.deployed(site.id)
    stored = site.client.get_distribution_config(Id=site.id)["DistributionConfig"]
    assert stored["CacheTagConfig"] == {"HeaderName": "Cache-Tag"}
    up.until(site.writes_to_disk)
    site.warm("/a", "/tagged/red", "/tagged/blue", "/b")
    up.until(lambda: site.is_on_disk("/tagged/blue"))
    app.edition = b"2"
    site.complete(site.invalidate("/a", "#RED"))
    assert site.bodies("/tagged/red") == {b"2"}
    assert site.bodies("/tagged/blue") == {b"1"}

    up.kill()
    up.start()
    site.client = up.client()
    assert site.bodies("/a") == {b"2"}
    app.edition = b"3"
    assert site.bodies("/tagged/blue") == {b"1"}  # from the disk cache
    id_ = site.invalidate("/a", "#all", "/none")
    site.complete(id_)
    for target in ("/a", "/tagged/blue", "/tagged/red"):
        assert site.bodies(target) == {b"3"}
    assert site.bodies("/b") == {b"1"}

    os.kill(up.worker_pids()[0], signal.SIGKILL)
    assert site.status(id_) == "Completed"
    up.until(lambda: len(up.worker_pids()) == 2)
    up.until(lambda: site.bodies("/a") == {b"3"})


def test_a_large_invalidation(app: App, shared_up: Up) -> None:
    site = Site(shared_up, app)
    batch = {"CallerReference": "1", "Paths": {"Quantity": 2, "Items": ["/a"]}}
    with pytest.raises(site.client.exceptions.InconsistentQuantities):
        site.client.create_invalidation(DistributionId=site.id, InvalidationBatch=batch)
    with pytest.raises(site.client.exceptions.BatchTooLarge):
        site.invalidate(*(f"/{number}" for number in range(3001)))
    with pytest.raises(site.client.exceptions.TooManyInvalidationsInProgress):
        site.invalidate(*(f"/{number}*" for number in range(16)))
    began = time.monotonic()
    site.complete(site.invalidate(*(f"/{number:04}/{'x' * 200}" for number in range(3000))))
    assert time.monotonic() - began < seconds(2)
