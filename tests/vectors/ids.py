"""The ids that an answer of the control plane assigns, in the order of the answer."""

from __future__ import annotations

from typing import Any


def created(operation: str, output: dict[str, Any]) -> list[str]:
    """What a Create operation assigned: the new resource's id; a distribution's ARN is derived from it."""
    if not operation.startswith("Create"):
        return []
    return [value["Id"] for value in output.values() if isinstance(value, dict) and "Id" in value]
