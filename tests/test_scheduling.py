"""The tests of a file run in one process, and so do those of all files that share a server."""

from __future__ import annotations

import pytest

from tests.scheduling import work_unit

_ran: list[str] = []
"""The tests of this file that ran in this process."""


@pytest.mark.parametrize("number", range(4))
def test_a_file_runs_in_one_process(number: int, request: pytest.FixtureRequest) -> None:
    selected = [item.nodeid for item in request.session.items if item.path == request.path]
    assert _ran == selected[: len(_ran)]
    assert request.node.nodeid == selected[len(_ran)]
    _ran.append(request.node.nodeid)


def test_files_that_share_a_server_are_one_unit() -> None:
    assert work_unit("tests/stories/test_health.py") == work_unit("tests/stories/test_policies.py")
    assert work_unit("tests/stories/test_health.py") != work_unit("tests/stories/test_reload.py")
    custody = {work_unit(f"tests/custody/test_{name}.py") for name in ("aws", "contract", "file", "vault")}
    assert len(custody) == 1
    assert work_unit("tests/custody/test_rules.py") not in custody
    assert work_unit("tests/model/test_compile.py") != work_unit("tests/model/test_pattern.py")
