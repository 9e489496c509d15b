"""How many requests an engine is given at once: fewer under pressure, more again without.

Additive increase, multiplicative decrease, as TCP does. Pressure is memory that runs short, a KV
cache that runs out (vLLM preempts requests and computes them anew), and heat or power at their
limits, each where it can be read. A sensor is one small function and a threshold; one that cannot
be read is left out and logged once. Every request has its own seed, so that the limit changes no
sample but for rounding. Leaves out the sensors (`rollouts/pressure.py`) and how an
engine keeps to the limit (`rollouts/vllm_engine.py`, `rollouts/servers/dispatch.py`).
"""

import logging
import time
from collections.abc import Callable, Sequence

from pipelines.rollouts.pressure import Sensor, machine_sensors
from pipelines.settings.tables import RolloutTable

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0
STEPS_TO_FULL = 16  # polls without pressure that raise the limit from nothing to the most
ANY = 1e-9  # the least increase


class Concurrency:
    """The number of requests that may be in flight.

    Args:
        most: never more than this, and as many to begin with.
        sensors: of pressure; those that cannot be read are left out.
        clock: seconds, never going back.

    Attributes:
        limit: in [1, most].
    """

    def __init__(
        self, most: int, sensors: Sequence[Sensor], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most, self.limit, self._lowest = most, most, most
        self._sensors, self._clock, self._polled = list(sensors), clock, clock()
        self._before: dict[str, float] = {}
        for sensor in sensors:
            self._reading(sensor, 1.0)

    def poll(self, num_in_flight: int) -> None:
        """Read the sensors, at most once in `POLL_SECONDS`, and adapt the limit.

        Args:
            num_in_flight: as long as it exceeds the limit, the last decrease is not yet felt; 0
                at the end of a batch, which says nothing of how many are too many.
        """
        seconds = self._clock() - self._polled
        if not self._sensors or seconds < POLL_SECONDS:
            return
        self._polled += seconds
        readings = [(sensor, self._reading(sensor, seconds)) for sensor in [*self._sensors]]
        pressed = [sensor.name for sensor, reading in readings if reading >= sensor.threshold]
        if not pressed:
            self.limit = min(self.most, self.limit + max(1, self.most // STEPS_TO_FULL))
        elif num_in_flight <= self.limit:
            self.limit = max(1, (num_in_flight or self.limit) // 2)
            self._lowest = min(self._lowest, self.limit)
            level = logging.WARNING if self.limit == 1 else logging.INFO
            logger.log(level, "at most %d requests at once: %s", self.limit, ", ".join(pressed))

    def take_lowest(self) -> int:
        """The lowest limit since the last call."""
        lowest, self._lowest = self._lowest, self.limit
        return lowest

    def _reading(self, sensor: Sensor, seconds: float) -> float:
        try:
            now = sensor.read()
        except OSError as error:
            logger.info("no %s sensor: %s", sensor.name, error)
            self._sensors.remove(sensor)
            return float("-inf")
        if not sensor.cumulative:
            return now
        before, self._before[sensor.name] = self._before.get(sensor.name, now), now
        return (now - before) / seconds


def adaptive_concurrency(settings: RolloutTable, preemptions: Callable[[], float]) -> Concurrency:
    """Limits an engine's requests, if that is wanted.

    Args:
        settings: the `[rollout]` table.
        preemptions: how often the engine has preempted a request so far.
    """
    kv_cache = Sensor("KV cache", preemptions, ANY, cumulative=True)
    sensors = [kv_cache, *machine_sensors()] if settings.adaptive_concurrency else []
    return Concurrency(settings.max_num_seqs, sensors)
