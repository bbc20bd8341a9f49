"""Configs as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from keyfront.control.store.config_json import dumps, loads
from tests.rows import rows


@rows(
    "value",
    [
        {},
        {"a": [1, 2.5, "x", None, True, {"b": []}]},
        {"blob": b"\x00\xff", "deep": [{"when": datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)}]},
        {"text": '"$bytes"'},
    ],
)
def test_what_configs_hold_is_kept(value: Any) -> None:
    assert loads(dumps(value)) == value


def test_what_no_config_holds_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        dumps({"a": object()})
