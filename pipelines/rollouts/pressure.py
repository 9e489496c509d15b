"""Sensors of pressure: memory, KV cache, heat and power, each where it can be read.

Leaves out what follows from pressure (`rollouts/concurrency.py`).
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler


# NVML's reasons to slow a clock down: hardware slowdown, software and hardware thermal limits,
# hardware power brake, and the power cap (nvml.h, nvmlClocksEventReasons).
THROTTLED = 0x8 | 0x20 | 0x40 | 0x80 | 0x4


@dataclass(frozen=True)
class Sensor:
    """Something that shows pressure.

    Attributes:
        name: for the log.
        read: its reading now; an OSError means that there is no such thing here.
        threshold: a reading at or above it is pressure.
        cumulative: the reading only grows, and its increase per second counts.
    """

    name: str
    read: Callable[[], float]
    threshold: float
    cumulative: bool = False


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
    """What any machine may report of itself."""
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
        OSError: no zone reports a temperature and a point at which the machine slows down.
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
    """Drawn power over its cap, the largest of all that report both.

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
    """1 where heat or power slows any accelerator's clock, by NVML's account, else 0.

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


def reported_preemptions(metrics: str) -> float:
    """Requests preempted since a vLLM server's start, from its Prometheus text.

    Raises:
        OSError: the text does not hold it.
    """
    lines = [ln for ln in metrics.split("\n") if ln.startswith("vllm:num_preemptions_total")]
    if not lines:
        raise OSError("the server reports no statistics")
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _largest(values: Sequence[float], absent: str) -> float:
    if not values:
        raise OSError(absent)
    return max(values)
