"""The client of the CloudFront API, Amazon's or Keyfront's: endpoint, credentials, retries, lists, errors.

It depends on no resource type and no rule. Rotations (`lifecycle/cloudfront.py`) and declared set-ups
(`declared/account.py`) build on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from keyfront.botocore_session import new_session
from keyfront.cloudfront.refusal import Refused


class CloudFrontClient:
    """One account through one endpoint. botocore retries a call after a transient failure, three times at most.

    :param endpoint_url: empty for the environment's or Amazon's.
    :param profile: a profile of the AWS configuration; empty for the environment's.
    :param credentials: access key ID and secret, instead of any that botocore would find.
    :param user_agent: what the client adds to its User-Agent header.
    :param on_response: called with the parsed form of each response, success or error.
    :param service: another service of the same account, by botocore's name.
    :param region: empty for the configured one, or us-east-1.
    :raises Refused: if botocore cannot create a client from these arguments.
    """

    def __init__(
        self,
        endpoint_url: str = "",
        profile: str = "",
        *,
        credentials: tuple[str, str] | None = None,
        user_agent: str,
        on_response: Callable[[Mapping[str, Any]], None] = lambda _: None,
        service: str = "cloudfront",
        region: str = "",
    ) -> None:
        self._on_response = on_response
        try:
            self.session = new_session(profile, credentials)
            self.client: Any = self.session.create_client(
                service,
                endpoint_url=endpoint_url or None,
                region_name=region or self.session.get_config_variable("region") or "us-east-1",
                config=Config(
                    user_agent_extra=user_agent,
                    retries={"mode": "standard", "total_max_attempts": 4},
                    connect_timeout=10,
                    read_timeout=30,
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise Refused(str(error)) from error

    @property
    def endpoint(self) -> str:
        """The URL that it calls."""
        return str(self.client.meta.endpoint_url)

    def call(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call `operation`, and return its output in botocore's form.

        :raises Refused: if it fails, with the API's own code and message.
        """
        try:
            answer = dict(getattr(self.client, xform_name(operation))(**params))
        except ClientError as error:
            self._on_response(error.response)
            details = error.response.get("Error", {})
            code, message = str(details.get("Code", "")), str(details.get("Message", ""))
            raise Refused(f"{operation}: {code}: {message}", code) from error
        except BotoCoreError as error:
            raise Refused(f"{operation}: {error}") from error
        self._on_response(answer)
        return answer

    def pages(self, operation: str, member: str) -> Iterator[dict[str, Any]]:
        """Yield all items that a list operation returns, page by page. `member` is the output member that holds them.

        :raises Refused: as `call` does.
        """
        marker: dict[str, str] = {}
        while True:
            page = self.call(operation, **marker)[member]
            yield from page.get("Items") or ()
            following = page.get("NextMarker")
            if not following or marker.get("Marker") == following:
                return
            marker = {"Marker": following}
