"""The signing of origin requests: origin access controls and origin access identities (cloudfront-semantics §5.14).

Both compile to one of three modes, which is all that an edge gets. The credentials to sign with are not part of a
config: the edge's operator provides them (`edge/origin/credentials.py`).
"""

from __future__ import annotations

from typing import Literal, cast

from keyfront.model.config_reader import Config, Configs, Struct

Signing = Literal["never", "always", "no-override"]
"""`no-override`: sign unless the viewer's own Authorization header is forwarded."""

IDENTITY = "origin-access-identity/cloudfront/"
"""The prefix of an origin access identity's id in an S3OriginConfig (§3.4)."""


def signing_of(control: Config) -> Signing:
    """The signing mode of an OriginAccessControlConfig."""
    return cast(Signing, control["SigningBehavior"])


def read_signing(struct: Struct, s3: Struct, controls: Configs, identities: Configs) -> Signing:
    """The signing mode of the origin `struct` with the S3OriginConfig `s3`. Unknown ids are problems.

    An origin access identity always signs; it has no other modes.
    """
    control, identity = struct.text("OriginAccessControlId"), s3.text("OriginAccessIdentity")
    if control and identity:
        struct.refuse(
            "An origin can have an origin access control or an origin access identity, not both",
            "IllegalOriginAccessConfiguration",
        )
    if identity:
        id_ = identity.removeprefix(IDENTITY)
        if id_ == identity:
            s3.refuse(f"OriginAccessIdentity must have the form {IDENTITY}ID", "InvalidOriginAccessIdentity")
        elif identities.get(id_) is None:
            s3.refuse(f"There is no origin access identity {id_!r}", "InvalidOriginAccessIdentity")
        return "always"
    if control:
        config = controls.get(control)
        if config is None:
            struct.refuse(f"There is no origin access control {control!r}", "InvalidOriginAccessControl")
            return "always"
        return signing_of(config)
    return "never"
