"""Keyfront's extras: the one that installs a package that is missing.

`pip install keyfront` is the SDK. Everything else needs an extra, and says which, instead of ending in a traceback.
"""

from __future__ import annotations

from importlib.util import find_spec

from keyfront.errors import KeyfrontError

_SERVER = """
    awscrt brotli cbor2 cronsim defusedxml http_sf httptools iptocc jh2 jinja2 maxminddb prometheus_client
    publicsuffixlist pyrage rich sqlalchemy starlette uvicorn uvloop websockets
"""


class MissingExtra(KeyfrontError):
    """A part of Keyfront is used that is not installed."""


EXTRAS = {
    **dict.fromkeys(_SERVER.split(), "server"),
    "botocore": "server",
    "granian": "http2",
    "duckdb": "logs",
    "hvac": "vault",
    "nats": "nats",
    "nkeys": "nats",
    "pkcs11": "pkcs11",
    "psycopg": "postgres",
}
"""The extra that installs each top-level module, for the command line. `aws`, a part of `server`, is for the SDK."""


def remedy(extra: str) -> str:
    """The command that installs `extra`."""
    return f"pip install 'keyfront[{extra}]'"


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """The error for people instead of `error`; None if the module is part of no extra, which is a bug."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    return None if extra is None else MissingExtra(f"this needs more than the SDK: {remedy(extra)}")


def require_extra(extra: str) -> None:
    """Check that an extra is installed, before a process starts that would miss a part of it later.

    :raises MissingExtra: if it is not.
    """
    for module, one in EXTRAS.items():
        if one == extra and find_spec(module) is None:
            raise MissingExtra(f"this needs more than the SDK: {remedy(extra)}")
