"""botocore's sessions, set up once for all clients: the CloudFront API, the AWS key stores, and S3.

Import this module only where a client is created: botocore takes a quarter of a second to load.
"""

from __future__ import annotations

import functools

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
