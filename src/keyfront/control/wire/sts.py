"""STS's GetCallerIdentity in AWS's query protocol, which many tools call first to find their identity.

As at AWS, it needs no permission. It is STS's only operation here; there are no roles to assume and no session tokens.
Pure: request in, response out.
"""

from __future__ import annotations

from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from keyfront.control.call import Caller
from keyfront.control.wire.codec import Answer
from keyfront.errors import ApiError

SERVICE = "sts"
SOURCE = "sts.amazonaws.com"
OPERATION = "GetCallerIdentity"
VERSION = "2011-06-15"
_NAMESPACE = f"https://sts.amazonaws.com/doc/{VERSION}/"
_HEADERS = (("Content-Type", "text/xml"),)


def is_query_call(method: str, path: str, query: str, body: bytes) -> bool:
    """True for a request in the query protocol. CloudFront's API has no operation at `/` and no parameter Action."""
    return path == "/" and method in {"GET", "POST"} and ("Action=" in query or b"Action=" in body)


def check(query: str, body: bytes) -> None:
    """Refuse everything but a well-formed GetCallerIdentity, with its parameters in the query or in the form `body`.

    :raises ApiError: MissingAction, InvalidAction, or ValidationError.
    """
    try:
        pairs = [
            *parse_qsl(query, keep_blank_values=True, max_num_fields=100),
            *parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100),
        ]
    except ValueError:
        raise ApiError("ValidationError", "The parameters cannot be read.", 400) from None
    given = {name: value for name, value in pairs if not name.startswith("X-Amz-")}
    if "Action" not in given:
        raise ApiError("MissingAction", "The request must contain the parameter Action.", 400)
    action, version = given["Action"][:80], given.get("Version", "")[:80]
    if action != OPERATION or version != VERSION:
        raise ApiError(
            "InvalidAction", f"Could not find operation {action} for version {version or 'NO_VERSION'}", 400
        )


def write(caller: Caller, request_id: str) -> Answer:
    """The response: the caller's ARN, user id, and account."""
    text = (
        f'<GetCallerIdentityResponse xmlns="{_NAMESPACE}">\n  <GetCallerIdentityResult>\n'
        f"    <Arn>{escape(caller.arn)}</Arn>\n    <UserId>{escape(caller.user_id)}</UserId>\n"
        f"    <Account>{escape(caller.account)}</Account>\n  </GetCallerIdentityResult>\n"
        f"  <ResponseMetadata>\n    <RequestId>{request_id}</RequestId>\n  </ResponseMetadata>\n"
        "</GetCallerIdentityResponse>\n"
    )
    return Answer(200, _HEADERS, text.encode())


def write_error(error: ApiError, request_id: str) -> Answer:
    """An error in the query protocol's XML."""
    kind = "Receiver" if error.status >= 500 else "Sender"
    text = (
        f'<ErrorResponse xmlns="{_NAMESPACE}">\n  <Error>\n    <Type>{kind}</Type>\n'
        f"    <Code>{escape(error.code)}</Code>\n    <Message>{escape(error.message)}</Message>\n  </Error>\n"
        f"  <RequestId>{request_id}</RequestId>\n</ErrorResponse>\n"
    )
    return Answer(error.status, _HEADERS, text.encode())
