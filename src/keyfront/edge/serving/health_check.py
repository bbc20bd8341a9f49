"""Health checks of load balancers on the ports for viewers, at a Host and path of the operator's choice.

Only the exact Host, path, and method are a health check: everything else is a viewer's request. A check is answered on
the slow path without a decision, so it never gets a plan, and the fast path never finds it. It is in no cache, access
record, or counter, and no limit on requests applies to it: a busy worker is not a broken one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from keyfront.edge.rules import respond
from keyfront.edge.rules.health import HealthState, unhealthy
from keyfront.edge.rules.routing import Routing, host_name
from keyfront.edge.serving.settings import HealthCheckSettings
from keyfront.edge.types.messages import Reply, Request

logger = logging.getLogger("keyfront.edge")


class HealthCheck:
    """Answers the health checks of one worker.

    :param snapshot: returns the number of the snapshot in use; 0: none.
    """

    def __init__(self, settings: HealthCheckSettings, snapshot: Callable[[], int]) -> None:
        self._targets = frozenset(settings.targets)
        self._paths = frozenset(path for _, path in settings.targets)
        self._max_age = settings.max_age
        self._snapshot = snapshot
        self._reported = ""
        self._warned: frozenset[str] = frozenset()
        self.stopping: Callable[[], bool] = lambda: False
        """Returns whether this Keyfront is about to stop."""
        self.confirmed_at: Callable[[], float] = lambda: 0.0
        """Returns when the snapshot in use was last known to be the latest (epoch seconds)."""

    def matches(self, request: Request) -> bool:
        """Whether the request is a health check."""
        return (
            request.target in self._paths
            and request.method in ("GET", "HEAD")
            and (host_name(request.host), request.target) in self._targets
        )

    def reply(self, now: float) -> Reply:
        """200, or 503 with the reason.

        :param now: epoch seconds.
        """
        confirmed_at = self.confirmed_at() if self._max_age else now
        why = unhealthy(HealthState(self.stopping(), self._snapshot(), confirmed_at), self._max_age, now)
        if why != self._reported:
            self._reported = why
            if why:
                logger.warning("health checks get 503: %s", why)
            else:
                logger.info("health checks get 200 again")
        headers = [(b"content-type", b"text/plain"), (b"cache-control", b"no-store")]
        body = (why or "ok").encode() + b"\n"
        result = "Error" if why else "FunctionGeneratedResponse"
        return respond.dated(Reply(503 if why else 200, headers, body, x_cache=result, reason=why), now)

    def warn(self, routing: Routing) -> None:
        """Warn, once, if a distribution has the host of a health check as its own: its viewers cannot reach that
        path."""
        shadowed = frozenset(host for host, _ in self._targets if routing.has_name(host))
        for host in sorted(shadowed - self._warned):
            logger.warning(
                "%s is the host of a health check and of a distribution, whose viewers get the health check at its "
                "path: use another host in --health-check",
                host,
            )
        self._warned = shadowed
