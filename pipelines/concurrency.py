"""How many requests an engine is given at once: fewer under pressure, more again without.

Additive increase, multiplicative decrease, as TCP does. Pressure is memory that runs short, a KV
cache that runs out (vLLM preempts requests and computes them anew), and heat or power at their
limits, each where it can be read. A sensor is one small function and a threshold; one that cannot
be read is left out and logged once. Every request has its own seed, so that the limit changes no
sample but for rounding. Leaves out how an engine keeps to the limit (`rollout.py`,
`server_engine.py`).
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.settings import RolloutTable

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0
STEPS_TO_FULL = 16  # polls without pressure that lead from nothing back to the most
ANY = 1e-9  # the least increase
# NVML's reasons to slow a clock down: hardware slowdown, software and hardware thermal limits,
# hardware power brake, and the power cap (nvml.h, nvmlClocksEventReasons).
THROTTLED = 0x8 | 0x20 | 0x40 | 0x80 | 0x4


@dataclass(frozen=True)
class Sensor:
    """Something that tells pressure.

    Attributes:
        name: for the log.
        read: its reading now; an OSError means that there is no such thing here.
        threshold: a reading at or above it is pressure.
        cumulative: the reading only grows, and its increase a second counts.
    """

    name: str
    read: Callable[[], float]
    threshold: float
    cumulative: bool = False


class Concurrency:
    """The number of requests that may be in flight.

    Args:
        most: never more than this, and as many to begin with.
        sensors: those that cannot be read are left out.
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


class PreemptionCount:
    """How often a scheduler of this process has preempted a request, of those seen at each call."""

    def __init__(self, scheduler: "Scheduler") -> None:
        self.scheduler, self.total, self._seen = scheduler, 0, dict[str, int]()

    def __call__(self) -> float:
        seen = {r.request_id: r.num_preemptions for r in self.scheduler.requests.values()}
        self.total += sum(num - self._seen.get(name, 0) for name, num in seen.items())
        self._seen = seen
        return self.total


def machine_sensors() -> list[Sensor]:
    """What any machine may tell of itself."""
    return [
        Sensor("memory stall", memory_stall_seconds, 0.1, cumulative=True),
        Sensor("memory limit", memory_limit_share, 0.95),
        Sensor("temperature", degrees_over_trip_point, -5.0),
        Sensor("power", power_cap_share, 1.0),
        Sensor("accelerator clock", accelerator_throttled, 1.0),
    ]


def memory_stall_seconds(path: Path = Path("/proc/pressure/memory")) -> float:
    """Seconds since the start in which some task waited for memory (Linux PSI)."""
    some = path.read_text().split("\n")[0]
    return int(some.rpartition("total=")[2]) / 1e6


def memory_limit_share(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """Used memory over the cgroup's limit (version 2), without file pages that can be dropped."""
    most = (folder / "memory.max").read_text().strip()
    if most == "max":
        return 0.0
    rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    used = int((folder / "memory.current").read_text()) - int(rows["inactive_file"])
    return used / int(most)


def degrees_over_trip_point(folder: Path = Path("/sys/class/thermal")) -> float:
    """The zone nearest to its first trip point: degrees Celsius above it, negative below.

    Raises:
        OSError: no zone tells a temperature and a point at which the machine slows down.
    """
    margins = []
    for zone in folder.glob("thermal_zone*"):
        with contextlib.suppress(OSError):  # one that sleeps, as a Wi-Fi chip's, hides no other
            margins += _degrees_over(zone)
    return _largest(margins, f"{folder} has no zone with a trip point")


def _degrees_over(zone: Path) -> list[float]:
    kinds = {path: path.read_text().strip() for path in zone.glob("trip_point_*_type")}
    points = [
        int(path.with_name(path.name.replace("_type", "_temp")).read_text())
        for path, kind in kinds.items()
        if kind in ("passive", "hot", "critical")
    ]
    trips = [point for point in points if point > 0]
    return [(int((zone / "temp").read_text()) - min(trips)) / 1000] if trips else []


def power_cap_share(folder: Path = Path("/sys/class/hwmon")) -> float:
    """Drawn power over its cap, the largest of all that tell both.

    Raises:
        OSError: none does.
    """
    shares = [
        int(path.with_name("power1_average").read_text()) / int(path.read_text())
        for path in folder.glob("*/power1_cap")
        if path.with_name("power1_average").exists() and int(path.read_text()) > 0
    ]
    return _largest(shares, f"{folder} has no power with a cap")


def accelerator_throttled() -> float:
    """1 where NVML says of any accelerator that heat or power slows its clock, else 0.

    Raises:
        OSError: there is no NVML.
    """
    try:
        from vllm.third_party import pynvml
    except ImportError as error:
        raise OSError("vLLM, whose copy of pynvml is used, is not installed") from error
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        reasons = [pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) for handle in handles]
    except pynvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from error
    return float(any(reason & THROTTLED for reason in reasons))


def told_preemptions(metrics: str) -> float:
    """Requests preempted since a vLLM server's start, from its Prometheus text.

    Raises:
        OSError: it does not tell.
    """
    lines = [ln for ln in metrics.split("\n") if ln.startswith("vllm:num_preemptions_total")]
    if not lines:
        raise OSError("the server tells no statistics")
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _largest(values: Sequence[float], absent: str) -> float:
    if not values:
        raise OSError(absent)
    return max(values)
