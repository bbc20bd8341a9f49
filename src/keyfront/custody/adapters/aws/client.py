"""The client that the AWS adapters share: one service in one region, and how its errors map to custody errors.

Credentials come from botocore's usual chain (environment, profile, container, instance). botocore itself retries when a
service throttles or fails. An error that remains becomes `CustodyUnavailable` if it may be temporary, and `Refused`,
with the service's own error code, if it reflects a decision such as a denied permission.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as NoConnection,
)

from keyfront.botocore_session import new_session
from keyfront.custody.contract import checked_labels
from keyfront.errors import CustodyError, CustodyUnavailable

OPTIONS = ("region", "profile", "endpoint")
"""Options that all AWS adapters accept."""

OURS = "keyfront:"
"""Prefix of Keyfront's own tags. All other tags are labels."""

_MAY_PASS = {
    "DependencyTimeoutException",
    "InternalFailure",
    "InternalServerError",
    "InternalServiceError",
    "KMSInternalException",
    "KeyUnavailableException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TooManyUpdates",
}
"""Error codes that may be temporary, so a retry may help. (KMS and Secrets Manager also report an exhausted quota as
LimitExceeded.)"""

_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


class Refused(CustodyError):
    """A service refused a call. `code` is its error code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@functools.lru_cache(maxsize=32)
def _client(
    service: str,
    region: str,
    profile: str,
    endpoint: str,
    variables: tuple[tuple[str, str], ...],
    given: bool,
) -> Any:
    """A cached client: creating one takes a tenth of a second, and it reuses its connections. `variables` are the
    environment variables that matter. `given` means that they are not this process's own environment."""
    session = new_session(profile)
    access = dict(variables)
    if given and "AWS_ACCESS_KEY_ID" in access:
        session.set_credentials(
            access["AWS_ACCESS_KEY_ID"],
            access.get("AWS_SECRET_ACCESS_KEY", ""),
            access.get("AWS_SESSION_TOKEN"),
        )
    return session.create_client(
        service,
        region_name=region or session.get_config_variable("region"),
        endpoint_url=endpoint or None,
        config=Config(
            user_agent_extra="keyfront-custody",
            connect_timeout=5,
            read_timeout=15,
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=20,
        ),
    )


os.register_at_fork(after_in_child=_client.cache_clear)  # the connections belong to the parent


class Service:
    """One service in one region, with one set of credentials. Safe to use from any thread and after a fork."""

    def __init__(
        self, service: str, title: str, options: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        """`title` is the service's name in messages.

        :raises CustodyError: if botocore cannot create a client from these options.
        """
        self._made_of = (
            service,
            options.get("region")
            or environment.get("AWS_REGION")
            or environment.get("AWS_DEFAULT_REGION")
            or "",
            options.get("profile") or environment.get("AWS_PROFILE") or "",
            options.get("endpoint") or "",
            tuple(sorted((name, value) for name, value in environment.items() if name.startswith("AWS_"))),
            environment is not os.environ,
        )
        try:
            self.title = f"{title} in {self._client.meta.region_name}"
        except NoRegionError as error:
            raise CustodyError(
                f"{title}: which region? Say region=… in the URI, or set AWS_REGION"
            ) from error
        except (BotoCoreError, ValueError) as error:
            raise CustodyError(f"{title}: {error}") from error

    @property
    def _client(self) -> Any:
        return _client(*self._made_of)

    def call(self, operation: str, *, secret: str | bytes = b"", **params: Any) -> dict[str, Any]:
        """Make one call. `secret` is the part of its parameters that must not appear in a message: services quote what
        they refuse.

        :raises CustodyUnavailable: if the call fails but may succeed later.
        :raises Refused: if the service refuses.
        """
        try:
            return dict(getattr(self._client, xform_name(operation))(**params))
        except (BotoCoreError, ClientError) as error:
            meant = self._meant(operation, error, withheld=bool(secret))
            raise meant from (None if secret else error)

    def pages(self, operation: str, items: str, **params: Any) -> Iterator[Any]:
        """Yield everything that a list operation returns: the `items` of each page in turn. Raises the same errors as
        `call`."""
        try:
            for page in self._client.get_paginator(xform_name(operation)).paginate(**params):
                yield from page.get(items, ())
        except (BotoCoreError, ClientError) as error:
            raise self._meant(operation, error, withheld=False) from error

    def _meant(self, operation: str, error: BotoCoreError | ClientError, *, withheld: bool) -> CustodyError:
        about = f"{self.title}: {operation}"
        if isinstance(error, ClientError):
            detail = error.response.get("Error", {})
            code, message = str(detail.get("Code", "")), str(detail.get("Message", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if status >= 500 or code in _MAY_PASS:
                return CustodyUnavailable(f"{about}: {code or status}: it may help to try again")
            if code in _CREDENTIALS:
                return Refused(f"{about}: {code}: the credentials are wrong or have run out", code)
            return Refused(f"{about}: {code}" + ("" if withheld else f": {message}"), code)
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return Refused(f"{about}: no credentials for AWS are to be found, or only a part of them", "")
        if isinstance(error, SSLError):
            return Refused(f"{about}: the endpoint's certificate is not trusted here", "")
        if isinstance(error, NoConnection | HTTPClientError | CredentialRetrievalError):
            return CustodyUnavailable(f"{about}: {type(error).__name__}: it cannot be reached now")
        if withheld or isinstance(error, ParamValidationError):
            return Refused(f"{about}: {type(error).__name__}", "")
        return Refused(f"{about}: {error}", "")

    def __repr__(self) -> str:
        return f"<Service {self.title}>"


def tags_of(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Convert a key's labels to tags.

    :raises CustodyError: if the labels are not valid as tags.
    """
    found = checked_labels(labels)
    for label in found:
        if re.match(rf"(?i:aws:|{OURS})", label):
            raise CustodyError(f"a label cannot begin with aws: or {OURS} here, as {label!r} does")
    return found


def labels_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that are labels. These include tags set by other tools."""
    return {tag: value for tag, value in tags.items() if not re.match(rf"aws:|{OURS}", tag)}
