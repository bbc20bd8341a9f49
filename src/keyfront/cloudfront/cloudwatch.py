"""The client of CloudWatch's API for alarms and metrics, Keyfront's or Amazon's. Keyfront serves it at the same address
as CloudFront's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from keyfront.cloudfront.session import CloudFrontClient

REGION: Final = "us-east-1"
"""Where Amazon has the metrics of CloudFront, and the alarms on them."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_CLOUDWATCH", "AWS_ENDPOINT_URL_CLOUDFRONT", "AWS_ENDPOINT_URL")


class CloudWatchClient(CloudFrontClient):
    """One account's alarms; see `CloudFrontClient`.

    :param endpoint_url: empty for the environment's, where the address of CloudFront counts as well, or Amazon's.
    """

    def __init__(
        self,
        endpoint_url: str = "",
        profile: str = "",
        *,
        credentials: tuple[str, str] | None = None,
        user_agent: str,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._given: dict[str, Any] = {
            "profile": profile,
            "credentials": credentials,
            "user_agent": user_agent,
        }
        named = next((environment[name] for name in _ENDPOINTS if environment.get(name)), "")
        super().__init__(
            endpoint_url or named,
            profile,
            credentials=credentials,
            user_agent=user_agent,
            service="cloudwatch",
            region=REGION,
        )

    def items(self, operation: str, member: str, **params: Any) -> Iterator[dict[str, Any]]:
        """All items that an operation returns in `member`, page by page.

        :raises Refused: as `call` does.
        """
        token: dict[str, str] = {}
        while True:
            answer = self.call(operation, **params, **token)
            yield from answer.get(member) or ()
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def account(self) -> str:
        """The 12-digit number of the account.

        :raises Refused: as `call` does.
        """
        # Amazon's STS has an address of its own; Keyfront answers for it.
        amazon = ".amazonaws.com" in self.endpoint
        client = CloudFrontClient(
            "" if amazon else self.endpoint, **self._given, service="sts", region=REGION
        )
        return str(client.call("GetCallerIdentity")["Account"])
