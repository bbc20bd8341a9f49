"""Geographic restriction: allow and deny lists of countries."""

from __future__ import annotations

from keyfront.model.snapshot import Geo


def allowed(geo: Geo, country: str) -> bool:
    """Whether viewers in `country` may access a distribution with this geo restriction. `country` is an uppercase ISO
    3166-1 alpha-2 code, or empty if unknown, in which case the viewer is served."""
    if not country or geo.kind == "none":
        return True
    return (country in geo.countries) == (geo.kind == "whitelist")
