"""The control plane with its console that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.console.harness import ConsolePlane


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsolePlane]:
    made = ConsolePlane(tmp_path_factory.mktemp("console"))
    yield made
    made.close()
