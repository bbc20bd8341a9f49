"""All parts of alarms in a control plane, connected: the lease, the sampler, the evaluator, the actions, the API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keyfront.control.alarms.actions import ActionRunner
from keyfront.control.alarms.api import AlarmApi
from keyfront.control.alarms.evaluator import AlarmEvaluator, all_alarms
from keyfront.control.alarms.sampler import LAG, MetricSampler, Reports
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.store.lease import Lease, SoleLeader
from keyfront.control.store.store import Store
from keyfront.errors import ApiError
from keyfront.lifecycle.alarm_actions import AlarmAction
from keyfront.model.kinds import RandomSource
from keyfront.monitoring.alarms import STATES


class AlarmSettings(msgspec.Struct, frozen=True):
    """An operator's settings for alarms.

    :param interval: seconds between two samplings of metrics, each followed by an evaluation; divides a minute.
    :param actions: what alarms can name.
    :param environment: the source of the variables of actions' commands.
    """

    interval: float = 60.0
    actions: Sequence[AlarmAction] = ()
    environment: Mapping[str, str] = {}


class Alarms:
    """Everything about alarms in one control plane.

    :param feeds: of the edges whose counters are sampled.
    :param rng: the source of ids.
    """

    def __init__(
        self,
        store: Store,
        account: str,
        settings: AlarmSettings,
        writer: AuditWriter,
        rng: RandomSource,
        feeds: Iterable[Reports],
        *,
        audit_reads: bool = True,
    ) -> None:
        self._store = store
        self.interval = settings.interval
        self.lease = Lease(store, "alarms", f"{rng.getrandbits(64):016x}") if store.shared else SoleLeader()
        self.sampler = MetricSampler(store, self._leads, *feeds)
        self.runner = ActionRunner(store, account, settings.actions, settings.environment)
        self.sampler.sources.append(self.runner)
        self.evaluator = AlarmEvaluator(store, account, self._leads, self.runner, rng)
        self.api = AlarmApi(
            store,
            account,
            writer,
            rng,
            audit_reads=audit_reads,
            on_state_set=self._on_state_set,
        )

    def work(self) -> list[tuple[float, Callable[[float], None]]]:
        """What to do in each interval, and how many seconds after its end."""
        if self._store.shared:  # the others sample at the same time
            return [(LAG, self.sampler.sample), (self.evaluator.lag, self.evaluator.evaluate)]
        return [(LAG, self._sample_and_evaluate)]

    def _sample_and_evaluate(self, now: float) -> None:
        self.sampler.sample(now)
        self.evaluator.evaluate(now)

    def ringing(self) -> list[tuple[str, str]]:
        """The alarms in the state ALARM: name and reason.

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        with self._store.read() as transaction:
            return [
                (row.id, row.attributes["StateReason"])
                for row in all_alarms(transaction)
                if row.attributes["StateValue"] == "ALARM"
            ]

    def stop(self) -> None:
        """Stop the actions, and let another control plane lead."""
        self.runner.stop()
        self.lease.release()

    def _leads(self) -> bool:
        return self.lease.held

    def _on_state_set(self, now: float) -> None:
        with contextlib.suppress(ApiError):  # they wait in the store
            self.evaluator.submit_waiting(now)


class AlarmMetrics(Collector):
    """Prometheus metrics of alarms. All control planes on one store report the same states."""

    def __init__(self, store: Store, runner: ActionRunner) -> None:
        self._store = store
        self._runner = runner

    def describe(self) -> Iterable[Metric]:
        return alarm_families({}, {})

    def collect(self) -> Iterable[Metric]:
        try:
            with self._store.read() as transaction:
                found = {row.id: row.attributes["StateValue"] for row in all_alarms(transaction)}
        except ApiError:  # logged already
            return ()
        return alarm_families(found, self._runner.done)


def alarm_families(states: Mapping[str, str], done: Mapping[str, int]) -> list[Metric]:
    """Metric families of alarms: states by name, and actions by result."""
    state = GaugeMetricFamily(
        "keyfront_alarm_state",
        "1 for the state that an alarm is in, 0 for the others.",
        labels=["alarm", "state"],
    )
    actions = CounterMetricFamily(
        "keyfront_alarm_actions",
        "Actions of alarms that this process carried out, by result: `succeeded`, `failed`, or `unknown` if no action "
        "has that name.",
        labels=["result"],
    )
    for name, value in states.items():
        for each in STATES:
            state.add_metric([name, each], each == value)
    for result in ("succeeded", "failed", "unknown"):
        actions.add_metric([result], done.get(result, 0))
    return [state, actions]
