"""botocore's sessions, set up once for all clients: the CloudFront API, the AWS key stores, and S3.

Import this module only where a client is created: botocore takes a quarter of a second to load.
"""

from __future__ import annotations

import functools
from typing import Any

from botocore.config import Config
from botocore.loaders import Loader, create_loader
from botocore.session import Session


@functools.cache
def _loader(data_path: str | None) -> Loader:
    """Load botocore's service descriptions (several megabytes) once for all sessions."""
    return create_loader(data_path)


def new_session(profile: str = "", credentials: tuple[str, str] | None = None) -> Session:
    """Return a session with credentials and region from the sources that AWS's tools use.

    :param profile: a profile of the AWS configuration; empty for the environment's.
    :param credentials: access key ID and secret, instead of any that botocore would find.
    :raises botocore.exceptions.ProfileNotFound: if there is no such profile.
    """
    session = Session(profile=profile or None)
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    if credentials is not None:
        session.set_credentials(*credentials)
    return session


def s3_client(endpoint: str, *, connect: float = 10.0, read: float = 60.0, attempts: int = 4) -> Any:
    """Return a client of the S3 API, with credentials and region from the sources that AWS's tools use.

    :param endpoint: the URL of the API; empty for AWS's.
    :param connect: seconds to wait for a connection, and `read` for data.
    :raises botocore.exceptions.BotoCoreError: if it cannot be used.
    :raises ValueError: if `endpoint` is not a URL.
    """
    session = new_session()
    return session.create_client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=session.get_config_variable("region") or "us-east-1",
        config=Config(
            connect_timeout=connect,
            read_timeout=read,
            retries={"mode": "standard", "max_attempts": attempts},
            # Every server checks the MD5 that is sent along; only some check trailing checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if endpoint else {},
        ),
    )
