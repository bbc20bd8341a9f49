"""The counters in a worker's report."""

from __future__ import annotations

import msgspec


class Sums(msgspec.Struct, frozen=True):
    """What one worker has counted since it started. `run`, `keys`, and `ends` are those of `key_counters.KeyCounts`."""

    requests: list[tuple[str, int, str, str, int]] = []
    keys: list[tuple[str, str, str, int]] = []
    bytes: int = 0
    taken_us: int = 0
    verify_us: int = 0
    connections: int = 0
    cache_bytes: int = 0
    cache_objects: int = 0
    evictions: int = 0
    lost_records: int = 0
    disk_bytes: int = 0
    disk_evictions: int = 0
    disk_outdated: int = 0
    run: str = ""
    ends: list[tuple[str, int, float, int]] = []
    limited: dict[str, int] = {}
    websockets: int = 0
    websocket_handshakes: int = 0
    websockets_opened: int = 0
    gauges: dict[str, int] = {}
    shared_bytes: int = 0
    shared_finds: int = 0
    shared_evictions: int = 0
