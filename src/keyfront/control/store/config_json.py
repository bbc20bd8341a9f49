"""Configs as JSON.

JSON has neither bytes nor times, and some configs of the API hold them. They are stored as {"$bytes": base64} and
{"$time": ISO 8601}; no member of the API begins with a dollar sign.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

import msgspec


def dumps(value: Any) -> bytes:
    """Encode a config.

    :raises TypeError: if it holds a value of a type that no config of the API has.
    """
    return msgspec.json.encode(_packed(value))


def loads(data: bytes) -> Any:
    """The config that `dumps` encoded."""
    value = msgspec.json.decode(data)
    return _unpacked(value) if b'"$' in data else value


def _packed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _packed(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(member) for member in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a config cannot hold a value of type {type(value).__name__}")


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        if value.keys() == {"$time"}:
            return datetime.fromisoformat(value["$time"])
        return {key: _unpacked(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_unpacked(member) for member in value]
    return value
