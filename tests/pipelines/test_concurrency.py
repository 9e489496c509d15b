"""Fewer requests at once under pressure, more again without, and never another sample.

Sensors read files written here; the KV cache that runs out is vLLM's own, in this process and in a
server's.
"""

import importlib.util
import logging
import math
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_cases import CRAMPED, SHARED, SharedServer, random_moe, save

from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts import concurrency
from pipelines.rollouts import spec as engine_spec
from pipelines.rollouts.concurrency import Concurrency
from pipelines.rollouts.engine import Completion, Sampling
from pipelines.rollouts.pressure import (
    PreemptionCount,
    Sensor,
    degrees_over_trip_point,
    machine_sensors,
    memory_limit_share,
    memory_stall_seconds,
    power_cap_share,
    reported_preemptions,
)
from pipelines.rollouts.servers import dispatch
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.rollouts.servers.jobs import Job
from pipelines.rollouts.servers.replica import Server
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.sync.agreement import largest_difference
from pipelines.sync.push import WeightSync

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)
TOKENIZER = character_tokenizer()
NUM = SHARED.max_num_seqs
EXACT = 1e-5  # nats, float32
SEEDS = list(range(NUM))


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _polled(limit: Concurrency, clock: Clock, num_in_flight: int) -> int:
    clock.now += concurrency.POLL_SECONDS
    limit.poll(num_in_flight)
    return limit.limit


# -- the limit -----------------------------------------------------------------------------------


def test_pressure_halves_what_is_in_flight_and_calm_adds_a_sixteenth() -> None:
    clock, reading = Clock(), [0.0]
    limit = Concurrency(128, [Sensor("a gauge", lambda: reading[0], 0.5)], clock)
    assert _polled(limit, clock, 100) == 128, "a run without pressure is not slowed"
    reading[0] = 0.5
    assert _polled(limit, clock, 100) == 50
    assert _polled(limit, clock, 80) == 50, "the last decrease is not felt yet"
    assert [_polled(limit, clock, limit.limit) for _ in range(8)] == [25, 12, 6, 3, 1, 1, 1, 1]
    reading[0] = 0.49
    assert [_polled(limit, clock, 1) for _ in range(17)] == [*range(9, 129, 8), 128, 128]
    assert limit.take_lowest() == 1 and limit.take_lowest() == 128
    reading[0] = 0.5
    assert _polled(limit, clock, 0) == 64, "a batch that has just ended is no load to halve"


def test_sensors_are_read_once_in_a_while_and_growth_counts_by_the_second() -> None:
    clock, reads = Clock(), []

    def total() -> float:
        reads.append(clock.now)
        return 3.0 * clock.now

    limit = Concurrency(8, [Sensor("a counter", total, 3.5, cumulative=True)], clock)
    for clock.now in (0.4, 0.9, 1.5, 2.0, 2.6):
        limit.poll(8)
    assert reads == [0.0, 1.5, 2.6] and limit.limit == 8
    limit = Concurrency(8, [Sensor("a counter", total, 2.9, cumulative=True)], clock)
    assert _polled(limit, clock, 8) == 4


def test_a_sensor_that_cannot_be_read_is_left_out_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, file = Clock(), tmp_path / "memory"
    with caplog.at_level(logging.INFO, logger="pipelines.rollouts.concurrency"):
        limit = Concurrency(
            8, [Sensor("absent", partial(memory_stall_seconds, file), 0.1, cumulative=True)], clock
        )
        assert [_polled(limit, clock, 8) for _ in range(3)] == [8, 8, 8]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("no absent sensor: ") and str(file) in told
    here = Concurrency(8, machine_sensors(), clock)  # whatever this machine has
    assert 1 <= _polled(here, clock, 8) <= 8


# -- sensors -------------------------------------------------------------------------------------


def _files(folder: Path, **contents: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    return folder


def test_memory_is_read_from_the_kernels_files(tmp_path: Path) -> None:
    stall = tmp_path / "pressure"
    stall.write_text(
        "some avg10=0.00 avg60=1.50 avg300=0.70 total=2500000\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=900000\n"
    )
    assert memory_stall_seconds(stall) == 2.5
    group = _files(tmp_path / "group", memory__max=1000, memory__current=990)
    (group / "memory.stat").write_text("anon 700\ninactive_file 40\n")
    assert memory_limit_share(group) == 0.95
    _files(group, memory__max="max")
    assert memory_limit_share(group) == 0


def test_heat_and_power_are_read_where_the_machine_tells_them(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no zone with a trip point"):
        degrees_over_trip_point(tmp_path)
    _files(
        tmp_path / "thermal_zone0", temp=91000, trip_point_0_type="critical",
        trip_point_0_temp=105000, trip_point_1_type="passive", trip_point_1_temp=95000,
        trip_point_2_type="active", trip_point_2_temp=50000,
    )  # fmt: skip
    _files(
        tmp_path / "thermal_zone1", temp=40000, trip_point_0_type="hot", trip_point_0_temp=-274000
    )
    _files(tmp_path / "thermal_zone2", trip_point_0_type="hot", trip_point_0_temp=90000)
    assert degrees_over_trip_point(tmp_path) == -4, "zone 2 has no temperature just now"
    with pytest.raises(OSError, match="no power with a cap"):
        power_cap_share(tmp_path)
    _files(tmp_path / "hwmon0", power1_cap=200, power1_average=150)
    _files(tmp_path / "hwmon1", power1_cap=0, power1_average=50)
    assert power_cap_share(tmp_path) == 0.75


def test_preemptions_are_read_from_a_servers_statistics() -> None:
    text = (
        "# TYPE vllm:num_preemptions_total counter\n"
        'vllm:num_preemptions_total{engine="0",model_name="m"} 3.0\n'
        'vllm:num_preemptions_total{engine="1",model_name="m"} 2.0\n'
        'vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e+09\n'
    )
    assert reported_preemptions(text) == 5
    with pytest.raises(OSError, match="reports no statistics"):
        reported_preemptions("")


# -- engines -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, len(TOKENIZER), (NUM, 32), generator=generator).tolist()
    return [own[: 2 * index + 1] for index, own in enumerate(ids)]  # need blocks one by one


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(TOKENIZER), tmp_path_factory.mktemp("concurrency") / "moe")


@pytest.fixture(scope="module")
def roomy(checkpoint: Path) -> VllmEngine:
    table = SHARED.model_copy(update={"adaptive_concurrency": False})
    return VllmEngine(EngineSpec(checkpoint, table, "float32", (TOKENIZER.eos_token_id,)))


@pytest.fixture
def polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll whenever asked, as batches here are over in a second, and nothing but vLLM."""
    monkeypatch.setattr(concurrency, "machine_sensors", list)
    monkeypatch.setattr(concurrency, "POLL_SECONDS", 1e-6)
    monkeypatch.setattr(dispatch, "HEARTBEAT_SECONDS", 0.01)


def _same(left: list[Completion], right: list[Completion]) -> None:
    assert [c.token_ids for c in left] == [c.token_ids for c in right]
    rows = [c.logprobs for c in left], [c.logprobs for c in right]
    assert largest_difference(*rows)[0] <= EXACT


@needs_vllm
def test_memory_that_runs_short_lowers_the_limit_and_changes_no_sample(
    roomy: VllmEngine, prompts: list[list[int]], tmp_path: Path, polling: None
) -> None:
    expected = roomy.generate(prompts, Sampling(100), SEEDS)
    group = _files(tmp_path, memory__max=1000, memory__current=990)
    (group / "memory.stat").write_text("inactive_file 0\n")
    seen: list[int] = []

    def share() -> float:
        seen.append(len(roomy._scheduler.running))
        return memory_limit_share(group)

    own, roomy.concurrency = roomy.concurrency, Concurrency(NUM, [Sensor("memory", share, 0.95)])
    try:
        _same(roomy.generate(prompts, Sampling(100), SEEDS), expected)
        assert roomy.concurrency.take_lowest() == 1
        again = roomy.generate(prompts, Sampling(100), SEEDS)
    finally:
        roomy.concurrency = own
    _same(again, expected)
    assert seen[1] == NUM and max(seen[-10:]) == 1, "the limit must hold in the scheduler"


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> None:
    options = engine_spec.engine_options
    monkeypatch.setattr(engine_spec, "engine_options", lambda table: options(table) | CRAMPED)


@pytest.fixture
def server(
    shared_server: SharedServer, prompts: list[list[int]], tmp_path: Path, polling: None
) -> Iterator[ServerEngine]:
    engine = shared_server.engine(tmp_path)
    sync = WeightSync(engine, checkpoint_manifest(shared_server.directory), prompts[1:], 1, EXACT)
    sync.push(random_moe(TOKENIZER), 0)
    yield engine
    engine.close()


def _same_with_routes(left: list[Completion], right: list[Completion]) -> None:
    _same(left, right)
    for ours, theirs in zip(left, right, strict=True):
        assert ours.routes is not None and theirs.routes is not None
        ours_TLK, theirs_TLK = np.sort(ours.routes.experts_TLK), np.sort(theirs.routes.experts_TLK)
        assert (ours_TLK == theirs_TLK).mean() >= 0.999


@needs_vllm
def test_a_kv_cache_that_runs_out_lowers_the_limit_and_changes_no_sample(
    roomy: VllmEngine, checkpoint: Path, prompts: list[list[int]], cramped: None, polling: None
) -> None:
    sampling = Sampling(100, routes=True)
    expected = roomy.generate(prompts, sampling, SEEDS)
    engine = VllmEngine(EngineSpec(checkpoint, SHARED, "float32", (TOKENIZER.eos_token_id,)))
    own, count = engine.concurrency, PreemptionCount(engine._scheduler)
    engine.concurrency = Concurrency(NUM, [Sensor("KV cache", count, math.inf, cumulative=True)])
    _same_with_routes(engine.generate(prompts, sampling, SEEDS), expected)
    preemptions = count.total
    assert preemptions > 4 and engine.concurrency.take_lowest() == NUM
    engine.concurrency = own
    _same_with_routes(engine.generate(prompts, sampling, SEEDS), expected)
    (sensor,) = own._sensors
    assert 0 < sensor.read.total <= preemptions
    assert own.take_lowest() < NUM


@needs_vllm
@pytest.mark.timeout(240)
def test_a_servers_kv_cache_that_runs_out_lowers_the_limit_and_changes_no_sample(
    roomy: VllmEngine, prompts: list[list[int]], server: ServerEngine
) -> None:
    sampling = Sampling(100, routes=True)
    drawn = server.generate(prompts, sampling, SEEDS)
    _same_with_routes(drawn, roomy.generate(prompts, sampling, SEEDS))
    assert server.replicas[0].preemptions() > 0
    assert server.concurrency.take_lowest() < NUM

    server.concurrency = Concurrency(NUM, [])
    server.concurrency.limit = 2
    counting, busy = threading.Lock(), [0]
    seen: list[int] = []

    class Counted(Job[int]):
        def ask(self, _: Server, index: int) -> int:
            with counting:
                busy[0] += 1
                seen.append(busy[0])
            time.sleep(0.01)
            with counting:
                busy[0] -= 1
            return index

    assert server._serve(NUM, Counted()) == list(range(NUM))
    assert max(seen) == 2, "the limit must hold for what is sent"

    class Refused(Job[int]):
        def ask(self, _: Server, index: int) -> int:
            raise ValueError("a prompt that the server refuses")

    server.concurrency.limit = 1
    with pytest.raises(ValueError, match="the server refuses"):  # and its other senders go on
        server._serve(NUM, Refused())
