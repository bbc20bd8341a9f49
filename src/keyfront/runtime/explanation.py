"""The edge's rules for the control plane: what edges do with a request by the published snapshot."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from keyfront.cloudfront.requests import ExplainedRequest, Explanation
from keyfront.errors import SettingsError
from keyfront.fleet.file_feed import FileFeed

if TYPE_CHECKING:
    from keyfront.edge.geoip import CountryTable
    from keyfront.edge.rules.routing import Routing

MASKED = "[masked]"
_CREDENTIALS = frozenset({"signature", "policy", "cloudfront-signature", "cloudfront-policy"})
"""Parameters and cookies whose values are masked, in lower case, as in the standard log."""
_SHORTEST = 8
"""Characters. A shorter value is no signature, and might be part of any word."""


class SnapshotExplainer:
    """Explains requests; see `control.own_operations.requests.Explainer`. Safe to call from several threads. The rules
    are loaded for the first request.

    :param folder: of the feed.
    """

    def __init__(self, folder: Path, region: str = "") -> None:
        self._feed = FileFeed(folder, region)
        self._lock = threading.Lock()
        self._routing: Routing | None = None
        self._mark: object = None
        self._countries: CountryTable | None = None

    def request(self, url: str, method: str, cookie: str, client_ip: str, now: float) -> Explanation:
        """What edges do with a request.

        :raises SigningError: if it is not an http or https URL.
        :raises SettingsError: if nothing is published.
        """
        from keyfront.edge.explain import Asked, explain_request

        with self._lock:
            routing = self._current()
            outcome = explain_request(routing, Asked(url, method, cookie, client_ip), now, self._country)
        credentials = tuple(_credentials(url, cookie))
        report = _masked(msgspec.to_builtins(outcome), credentials)
        return Explanation(report, f"snapshot {routing.number}")

    def record(self, record: Mapping[str, Any]) -> ExplainedRequest:
        """What an access record says."""
        from keyfront.edge.explain import was_refused
        from keyfront.edge.rules.reasons import REASONS

        name, status = str(record.get("reason", "")), record.get("status", 0)
        refused = was_refused(str(record.get("verdict", "")), name, status)
        reason = REASONS.get(name)
        meaning = ("", "") if reason is None else (reason.cause, reason.cure)
        return ExplainedRequest(dict(record), not refused, *meaning)

    def _current(self) -> Routing:
        from keyfront.edge.rules.routing import Routing

        mark = self._feed.mark()
        if self._routing is None or self._mark != mark:
            snapshot = self._feed.published() or self._feed.servable()
            if snapshot is None:
                raise SettingsError("Nothing is published yet: create a distribution first.")
            self._routing, self._mark = Routing(snapshot, self._routing), mark
        return self._routing

    def _country(self, address: str) -> str:
        from keyfront.edge.geoip import CountryTable

        if self._countries is None:
            self._countries = CountryTable()
        return self._countries.country(address) if address else ""


def _credentials(url: str, cookie: str) -> Iterator[str]:
    """The values in a request that must not be shown."""
    _, _, query = url.partition("?")
    pairs = [pair.partition("=") for pair in query.partition("#")[0].split("&")]
    pairs += [pair.strip().partition("=") for pair in cookie.split(";")]
    for name, _, value in pairs:
        if name.lower() in _CREDENTIALS and len(value) >= _SHORTEST:
            yield value
            yield from (decoded for _, decoded in parse_qsl(f"x={value}") if len(decoded) >= _SHORTEST)


def _masked(value: Any, credentials: tuple[str, ...]) -> Any:
    """`value` without these texts, wherever they are."""
    if isinstance(value, str):
        for each in credentials:
            value = value.replace(each, MASKED)
        return value
    if isinstance(value, dict):
        return {name: _masked(member, credentials) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(member, credentials) for member in value]
    return value
