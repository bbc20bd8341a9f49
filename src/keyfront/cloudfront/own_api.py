"""A signed call of one of Keyfront's own operations, next to CloudFront's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from keyfront.errors import AccountError

if TYPE_CHECKING:
    from botocore.session import Session

_LONGEST_ANSWER: Final = 16 << 20
_AMAZON: Final = (".amazonaws.com", ".amazonaws.com.cn")


class Answer(NamedTuple):
    """A response."""

    status: int
    body: bytes


def get(session: Session, endpoint_url: str, path: str, what: str) -> Answer | None:
    """The response to a GET, or None if the API is Amazon's, which has no such operations.

    :param session: a botocore session, for credentials and region.
    :param endpoint_url: empty for the environment's, or Amazon's.
    :param what: what is asked for, in messages: a noun with its article.
    :raises AccountError: if the control plane cannot be reached, or its response is too long.
    """
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError, HTTPClientError
    from botocore.httpsession import URLLib3Session

    where = endpoint_url or session.get_config_variable("endpoint_url") or ""
    host = urlsplit(where).hostname or ""
    if not host or f".{host}".endswith(_AMAZON):
        return None
    try:
        credentials = session.get_credentials()
        if credentials is None:
            raise AccountError(f"{what} cannot be queried: there are no credentials")
        request = AWSRequest("GET", where.rstrip("/") + path, headers={"Accept": "application/json"})
        region = session.get_config_variable("region") or "us-east-1"
        SigV4Auth(credentials.get_frozen_credentials(), "cloudfront", region).add_auth(request)
        response = URLLib3Session(timeout=(5, 20)).send(request.prepare())
        answer = Answer(response.status_code, response.content)
    except (BotoCoreError, HTTPClientError, ValueError) as error:
        raise AccountError(f"{what} cannot be queried: {error}") from error
    if len(answer.body) > _LONGEST_ANSWER:
        raise AccountError(f"{what}: the answer is too long")
    return answer


def refusal(answer: Answer, what: str, action: str) -> AccountError | None:
    """What a Keyfront's refusal says; None if the response is not in Keyfront's form.

    :param action: the IAM action that the call requires.
    """
    try:
        body = msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        body = None
    error: Any = body.get("Error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("Code"), str):
        return None
    needed = f" (it needs the permission {action})" if answer.status == 403 else ""
    return AccountError(f"{what}: {error['Code']}: {error.get('Message', '')}{needed}")
