"""What passes between the wire and the rules: one call in, one result out.

`params` and `output` have botocore's own shapes (a member's name in PascalCase, structures as dicts, lists as
lists, blobs as bytes, timestamps as aware datetimes); members that travel as headers or in the query
(`IfMatch`, `Marker`, `Id`, …) stand beside the payload member. A failure is an `errors.ApiError`.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """Who signed the request."""

    access_key_id: str
    arn: str
    account: str


class Call(msgspec.Struct, frozen=True):
    """One authenticated, well-formed request. `now` is epoch seconds, taken once when the request arrived."""

    operation: str
    params: dict[str, Any]
    caller: Caller
    source_ip: str
    user_agent: str
    request_id: str
    now: float


class Result(msgspec.Struct, frozen=True):
    """A success: the operation's output in botocore's output shape, `{}` where it has none."""

    output: dict[str, Any]
