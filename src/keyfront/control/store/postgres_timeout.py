"""psycopg's connection with an end to its patience. Needs the extra `postgres`.

The server ends statements that take too long, and the kernel connections to a machine that is gone. A server that is
there and answers nothing, since its disk has stopped or somebody has stopped it, would be waited for for ever.
"""

from __future__ import annotations

import math
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

Failure = psycopg.OperationalError


class Connection(psycopg.Connection[Any]):
    """`patience` is how many seconds the server may take for one answer."""

    patience = math.inf

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """See psycopg.

        :raises OperationalError: if the answer does not come in time; the connection is closed then.
        """
        if timeout is None and self.patience != math.inf:
            timeout = self.patience
        try:
            return super().wait(gen, interval, timeout)
        except Failure as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()  # what it would still say would be taken for an answer to something else
            raise Failure(f"the server has not answered for {timeout:.0f} seconds") from error
