"""What several stories share: an application behind the edge, and a running Keyfront for stories that need no options
of their own.

A story that uses the shared Keyfront has distributions and keys of its own in it, and leaves all processes running. One
test process runs the files of all of them (`tests/scheduling.py`)."""

from __future__ import annotations

import http.client
import os
import shutil
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.application import Request, Response, served
from tests.up import PATIENCE, Up

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE = b"hello " * 1000


@pytest.fixture(scope="session")
def page_origin() -> Iterator[int]:
    """The port of an application that answers every request with the cacheable PAGE."""

    def respond(_request: Request) -> Response:
        return Response(PAGE, {"Cache-Control": "max-age=3600"})

    with served(respond) as port:
        yield port


@pytest.fixture(scope="session")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A Keyfront with two workers in which no process is killed because it is stuck."""
    with Up(tmp_path_factory.mktemp("shared") / "data", options=("--stuck-after", "0")) as up:
        yield up
        assert up.stop() == 0


CHROMIUM = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome"))
    ),
    None,
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium. It occupies the thread's event loop, so it ends with each module."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright  # a heavy import, needed by few tests

    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        with playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox) as browser:
            yield browser


class Viewers:
    """Threads that send requests continuously, each on its own connection, and count the outcomes.

    :param pause: seconds between two requests of a thread.
    """

    def __init__(self, up: Up, host: str, count: int = 4, *, pause: float = 0.0) -> None:
        self._up = up
        self._host = host
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._view, daemon=True) for _ in range(count)]
        self.answered = 0
        self.refused = 0
        """Connections that no process accepted."""
        self.lost = 0
        """Connections that were accepted, and then closed or left without an answer."""
        self.wrong: list[object] = []

    def _view(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                answer = self._up.get(self._host, "/a")
            except ConnectionRefusedError:
                self.refused += 1
            except (OSError, http.client.HTTPException):
                self.lost += 1
            else:
                if answer.status != 200 or answer.body != PAGE:
                    self.wrong.append(answer)
                self.answered += 1

    def __enter__(self) -> Viewers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def wait_for_answers(self, more: int = 50) -> None:
        """Wait until that many more requests are answered."""
        seen = self.answered
        Up.until(lambda: self.answered >= seen + more)
