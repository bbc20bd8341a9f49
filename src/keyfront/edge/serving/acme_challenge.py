"""Answers to ACME's HTTP-01 challenges (RFC 8555 section 8.3), from a folder that an ACME client writes.

A certificate authority requests `http://NAME/.well-known/acme-challenge/TOKEN` from every name in a certificate, and
expects the text that the client has written into the file TOKEN. Any Host is answered, because a name gets its
certificate before it is an alias of anything. A token without a file is an ordinary request, since an origin may have
an ACME client of its own.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from keyfront.edge.types.messages import Reply, Request

PREFIX: Final = "/.well-known/acme-challenge/"
LONGEST: Final = 4096
"""Bytes; the text is a token and a thumbprint, some ninety bytes."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
"""RFC 8555 section 8.3: base64url characters, so no name leads out of the folder."""


class AcmeChallenges:
    """The challenges whose files are in a web root.

    :param webroot: the folder with `.well-known/acme-challenge`; empty if there is none.
    """

    def __init__(self, webroot: str) -> None:
        self._folder = Path(webroot, *PREFIX.strip("/").split("/")) if webroot else None

    def answer(self, request: Request) -> bytes | None:
        """The text for the challenge that the request asks for; None if it asks for none."""
        if (
            self._folder is None
            or not request.target.startswith(PREFIX)
            or request.method not in ("GET", "HEAD")
        ):
            return None
        token = request.target.removeprefix(PREFIX)
        if _TOKEN.fullmatch(token) is None:
            return None
        try:
            # Neither a link nor a pipe: other users may be allowed to write to a web root.
            fd = os.open(self._folder / token, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > LONGEST:
                return None
            return os.read(fd, LONGEST)
        except OSError:
            return None
        finally:
            os.close(fd)


def reply(text: bytes) -> Reply:
    """The reply with the text for a challenge."""
    headers = [(b"content-type", b"application/octet-stream"), (b"cache-control", b"no-store")]
    return Reply(200, headers, text, x_cache="FunctionGeneratedResponse")
