"""Purges: invalidations, changed configuration, unsafe methods."""

from __future__ import annotations

SWEPT = 200
"""How many stored responses an invalidation's sweep looks at before the loop goes on with its work."""
