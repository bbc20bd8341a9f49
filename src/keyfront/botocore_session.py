"""botocore's sessions, set up once for all clients: CloudFront's API, the AWS key stores, S3.

Import it only where a client is made: botocore takes a quarter of a second.
"""

from __future__ import annotations

import functools

from botocore.loaders import Loader, create_loader
from botocore.session import Session


@functools.cache
def _loader(data_path: str | None) -> Loader:
    """botocore's descriptions of the services, some megabytes, read once for all sessions."""
    return create_loader(data_path)


def new_session(profile: str = "", credentials: tuple[str, str] | None = None) -> Session:
    """A session with credentials and region from where AWS's tools look for them.

    :param profile: a profile of the AWS configuration; empty for the environment's.
    :param credentials: access key id and secret, instead of any that botocore would find.
    :raises botocore.exceptions.ProfileNotFound: if there is no such profile.
    """
    session = Session(profile=profile or None)
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    if credentials is not None:
        session.set_credentials(*credentials)
    return session
