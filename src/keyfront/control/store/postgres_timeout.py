"""A psycopg connection with a response timeout. Needs the extra `postgres`.

The server cancels statements that take too long, and the kernel closes connections to a machine that is gone. But
without this timeout, a server that accepts bytes and sends no response, because its disk hangs or its process is
stopped, would block the client forever.
"""

from __future__ import annotations

import math
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

Failure = psycopg.OperationalError


class Connection(psycopg.Connection[Any]):
    """`patience` is the response timeout in seconds."""

    patience = math.inf

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """See psycopg.

        :raises OperationalError: if there is no response in time. The connection is closed then.
        """
        if timeout is None and self.patience != math.inf:
            timeout = self.patience
        try:
            return super().wait(gen, interval, timeout)
        except Failure as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()  # a late response must not be read as that to another statement
            raise Failure(f"the server has not responded for {timeout:.0f} seconds") from error
