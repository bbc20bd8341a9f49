"""Fills: requests to the origin whose response goes to the cache and to every reader."""

from __future__ import annotations

UNSLICED = 60.0
"""Seconds for which ranges of what could not be stored in slices are passed to the origin as they are."""


UNSHARED = 10.0
"""Seconds for which requests for a key do not wait for each other, after an answer that could not be shared."""
