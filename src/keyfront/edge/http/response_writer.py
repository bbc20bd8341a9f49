"""Write a response: head, body, sendfile, back-pressure."""

from __future__ import annotations

JOINED = 16384
"""Bytes of a body up to which one write of a copy is cheaper than a write of pieces."""
