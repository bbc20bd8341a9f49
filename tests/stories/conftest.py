"""What several stories share: an application behind the edge, and a running Keyfront for stories that need no options
of their own.

A story that uses the shared Keyfront has distributions and keys of its own in it, and leaves all processes running. It
belongs to the xdist group "shared", so that one test process runs them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.application import Request, Response, served
from tests.up import Up

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
