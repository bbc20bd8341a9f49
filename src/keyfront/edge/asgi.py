"""The documented name of the ASGI factory, `keyfront.edge.asgi:create_app` (docs/guide/tls.md)."""

from keyfront.edge.asgi_app import create_app

__all__ = ["create_app"]
