"""ListRequests, GetRequest, and GetExplanation: what edges recorded, and why they grant or refuse a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from keyfront.cloudfront.requests import (
    EXPLANATION_PATH,
    PAGE,
    PATH,
    ExplainedRequest,
    Explanation,
    LoggedRequest,
    LoggedRequests,
)
from keyfront.control.call import Call
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.errors import ApiError, SettingsError, SigningError
from keyfront.monitoring.recent_requests import Place, RequestFilter, find, newest, place_of

FILTERS = ("DistributionId", "Status", "Verdict", "Reason", "KeyPairId", "Path", "Address", "Since", "Until")
VERDICTS = ("allowed", "refused", "none")
LONGEST_URL = 16_384
"""Characters in a URL, and in a Cookie header."""
_STATUS = re.compile("[0-5](?:[0-9]{2}|xx)")
_METHOD = re.compile("[A-Z]{1,20}")


class Explainer(Protocol):
    """The edge's rules, which the control plane does not import."""

    def request(self, url: str, method: str, cookie: str, client_ip: str, now: float) -> Explanation:
        """What edges do with a request now.

        :raises KeyfrontError: if it is not a URL, or nothing is published.
        """

    def record(self, record: Mapping[str, Any]) -> ExplainedRequest:
        """What an access record says."""


class RequestOperations:
    """The operations.

    :param folder: the folder of the access logs.
    """

    def __init__(self, folder: Path, explainer: Explainer) -> None:
        self._folder = folder
        self._explainer = explainer

    def operations(self) -> list[OwnOperation]:
        """All of them."""
        return [
            OwnOperation("ListRequests", "GET", PATH, self._list, (*FILTERS, "Marker")),
            OwnOperation("GetRequest", "GET", f"{PATH}/{{Id}}", self._get, ("Place",)),
            OwnOperation(
                "GetExplanation",
                "POST",
                EXPLANATION_PATH,
                self._explain,
                ("Url", "Method", "Cookie", "Address"),
                longest=LONGEST_URL,
                secret=frozenset({"Url", "Cookie"}),
            ),
        ]

    def _list(self, call: Call) -> LoggedRequests:
        given = {name: str(value) for name, value in call.params.items()}
        verdict = given.get("Verdict", "")
        if verdict and verdict not in VERDICTS:
            raise ApiError("InvalidArgument", f"Verdict must be one of {', '.join(VERDICTS)}.")
        wanted = RequestFilter(
            distribution=given.get("DistributionId", ""),
            status=_status(given.get("Status", "")),
            verdict=verdict,
            reason=given.get("Reason", ""),
            key=given.get("KeyPairId", ""),
            path=given.get("Path", ""),
            address=given.get("Address", ""),
            since=_time(given.get("Since", "")),
            until=_time(given.get("Until", "")),
        )
        with _errors():
            found = newest(self._folder, wanted, before=_place(given.get("Marker", "")), limit=PAGE)
        items = tuple(LoggedRequest(_record(line.text), str(line.place)) for line in found.lines)
        return LoggedRequests(items, str(found.following or ""))

    def _get(self, call: Call) -> ExplainedRequest:
        id_ = call.params["Id"]
        with _errors():
            line = find(self._folder, id_, place=_place(str(call.params.get("Place", ""))))
            if line is None:
                raise ApiError(
                    "NoSuchResource",
                    f"The latest records of this machine's edges have no request {id_[:100]}. `keyfront explain "
                    "--request-id` also searches older ones.",
                    404,
                )
            return self._explainer.record(_record(line))

    def _explain(self, call: Call) -> Explanation:
        given = {name: str(value) for name, value in call.params.items()}
        url, method = given.get("Url", "").strip(), given.get("Method", "GET")
        if not url:
            raise ApiError("InvalidArgument", "Url is required.")
        if not _METHOD.fullmatch(method):
            raise ApiError("InvalidArgument", "Method must be an HTTP method, such as GET.")
        with _errors():
            return self._explainer.request(
                url, method, given.get("Cookie", ""), given.get("Address", "").strip(), call.now
            )


def _record(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise ApiError("InternalFailure", "The record is damaged.", 500) from None


def _place(text: str) -> Place | None:
    found = place_of(text)
    if text and found is None:
        raise ApiError("InvalidArgument", "The marker is not one that this operation returned.")
    return found


def _status(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    if not _STATUS.fullmatch(text):
        raise ApiError("InvalidArgument", "Status must be a number such as 403, or a class such as 4xx.")
    return int(text.replace("x", "0")), int(text.replace("x", "9"))


def _time(text: str) -> float | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ApiError(
            "InvalidArgument", f"{text[:40]!r} is not a time, such as 2026-11-30T12:00:00Z."
        ) from None


class _errors:
    """Turns Keyfront's errors into those of the API."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, SigningError):
            raise ApiError("InvalidArgument", str(error)) from error
        if isinstance(error, SettingsError):
            raise ApiError("ServiceUnavailable", str(error), 503) from error
