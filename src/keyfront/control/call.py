"""What passes between the wire and the rules: one call in, one result out.

`params` and `output` have botocore's own shapes (a member's name in PascalCase, structures as dicts, lists as
lists, blobs as bytes, timestamps as aware datetimes); members that travel as headers or in the query
(`IfMatch`, `Marker`, `Id`, …) stand beside the payload member. A failure is an `errors.ApiError`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from keyfront.control.iam.policy import Policy


class Caller(msgspec.Struct, frozen=True):
    """Who signed the request, and what may be done with that signature: nothing without a policy that allows it.
    `user_id` is IAM's unique id of the user (`AIDA…`)."""

    access_key_id: str
    arn: str
    account: str
    user_id: str = ""
    policies: tuple[Policy, ...] = ()

    @property
    def name(self) -> str:
        """The user's name, the end of the ARN."""
        return self.arn.partition("/")[2]


class Call(msgspec.Struct, frozen=True):
    """One authenticated, well-formed request. `now` is epoch seconds, taken once when the request arrived; `secure`
    says that it came over TLS, `source` which of AWS's services it was meant for (CloudTrail's eventSource)."""

    operation: str
    params: dict[str, Any]
    caller: Caller
    source_ip: str
    user_agent: str
    request_id: str
    now: float
    secure: bool = False
    source: str = "cloudfront.amazonaws.com"


class Result(msgspec.Struct, frozen=True):
    """A success: the operation's output in botocore's output shape, `{}` where it has none."""

    output: dict[str, Any]
