"""The error of a call that an API refuses."""

from __future__ import annotations

from keyfront.errors import AccountError


class Refused(AccountError):
    """An error response from an API, or no response. `code` is its error code, empty if there was no response."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code
