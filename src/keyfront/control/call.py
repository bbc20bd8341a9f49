"""The interface between the wire format and the rules: one call in, one result out.

`params` and `output` have botocore's shapes: members in PascalCase, structures as dicts, lists as lists, blobs as
bytes, timestamps as aware datetimes. Members from headers or the query (`IfMatch`, `Marker`, `Id`, …) are at the same
level as the payload member. A failure is an `errors.ApiError`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from keyfront.control.iam.policy import Policy


class Caller(msgspec.Struct, frozen=True):
    """The caller that signed the request, with the policies that allow or deny its calls. Without a policy, nothing is
    allowed.

    :param user_id: IAM's unique id of the user (`AIDA…`).
    """

    access_key_id: str
    arn: str
    account: str
    user_id: str = ""
    policies: tuple[Policy, ...] = ()

    @property
    def name(self) -> str:
        """The user's name, which is the end of the ARN."""
        return self.arn.partition("/")[2]


class Call(msgspec.Struct, frozen=True):
    """One authenticated, well-formed request.

    :param now: when the request arrived, epoch seconds.
    :param secure: whether it arrived over TLS.
    :param source: the AWS service that it addresses (CloudTrail's eventSource).
    """

    operation: str
    params: dict[str, Any]
    caller: Caller
    source_ip: str
    user_agent: str
    request_id: str
    now: float
    secure: bool = False
    source: str = "cloudfront.amazonaws.com"


def local_call(
    operation: str, params: dict[str, Any], *, account: str, by: str, request_id: str, now: float, source: str
) -> Call:
    """A change made on this machine, not over the API, in the form in which the audit log records it. Anyone with
    access to the data folder acts as the account's root user.

    :param by: the command or process, and the login.
    :param now: epoch seconds.
    """
    root = Caller("", f"arn:aws:iam::{account}:root", account, account)
    return Call(operation, params, root, "local", by, request_id, now, source=source)


class Result(msgspec.Struct, frozen=True):
    """A success: the operation's output in botocore's shape, `{}` if it has none."""

    output: dict[str, Any]
