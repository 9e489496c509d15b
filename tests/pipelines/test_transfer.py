"""Weights broadcast to a server's process: bit for bit, whatever their type, and never for ever."""

import importlib.util
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pipeline_cases import SharedServer, random_moe
from weights import make_weights_matter

from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UnprovenSyncError
from pipelines.policy.fingerprint import NamedTensors
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.rollouts.servers.start import find_server
from pipelines.rollouts.spec import EngineSpec
from pipelines.settings.tables import RolloutTable
from pipelines.sync.agreement import largest_difference
from pipelines.sync.broadcast import Broadcast, reachable_from, received
from pipelines.sync.proof import Proof
from pipelines.sync.push import WeightSync

pytestmark = pytest.mark.timeout(240)
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)
EXACT = 1e-5  # nats, float32
TOKENIZER = character_tokenizer()
PROBES = torch.randint(
    3, len(TOKENIZER), (4, 32), generator=torch.Generator().manual_seed(3)
).tolist()


def _every_kind() -> NamedTensors:
    generator = torch.Generator().manual_seed(0)
    yield "matrix", torch.randn(5, 7, generator=generator)
    yield "transposed", torch.randn(5, 7, generator=generator).T
    yield "scalar", torch.tensor(3.5)
    yield "half", torch.randn(9, generator=generator).bfloat16()
    yield "eight bits", torch.randn(4, 4, generator=generator).to(torch.float8_e4m3fn)
    yield "whole", torch.arange(6)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_dtype_and_layout_arrives_bit_for_bit(num_workers: int) -> None:
    message = Broadcast(_every_kind, "127.0.0.1", num_workers, 30).message()
    with ThreadPoolExecutor(num_workers) as pool:
        workers = list(pool.map(lambda _: list(received(message)), range(num_workers)))
    for arrived in workers:
        for (name, sent), (told, got) in zip(_every_kind(), arrived, strict=True):
            assert name == told and sent.dtype == got.dtype and sent.shape == got.shape
            assert torch.equal(sent.contiguous().view(-1).view(torch.uint8),
                               got.view(-1).view(torch.uint8))  # fmt: skip


def test_nobody_waits_for_ever() -> None:
    start = time.monotonic()
    lonely = Broadcast(_every_kind, "127.0.0.1", 1, 1)
    lonely._thread.join(20)
    assert lonely.error and time.monotonic() - start < 20
    message = Broadcast(_every_kind, "127.0.0.1", 2, 1).message()  # the other worker never comes
    with pytest.raises(RuntimeError):
        list(received(message))
    with pytest.raises(RuntimeError):
        list(received(message | {"port": 9}))
    assert time.monotonic() - start < 40


def test_a_folder_is_used_where_it_can_be_shared(tmp_path: Path) -> None:
    def broadcasts(url: str, **options: object) -> bool:
        table = RolloutTable(placement="server", **options)
        return ServerEngine(
            EngineSpec(tmp_path, table, "float32", (1,)), [find_server(url, table)], tmp_path
        ).handover.broadcasts

    assert not broadcasts("http://127.0.0.1:8000")
    assert broadcasts("http://192.0.2.1:8000")
    assert not broadcasts("http://192.0.2.1:8000", weights_directory=tmp_path)
    assert broadcasts("http://127.0.0.1:8000", transfer="broadcast")
    assert reachable_from("http://127.0.0.1:8000") == "127.0.0.1"


@pytest.fixture(scope="module")
def policy() -> SparringMoeForCausalLM:
    return random_moe(TOKENIZER)


@pytest.fixture(scope="module")
def synced(
    policy: SparringMoeForCausalLM,
    shared_server: SharedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WeightSync]:
    engine = shared_server.engine(tmp_path_factory.mktemp("transfer"), transfer="broadcast")
    sync = WeightSync(engine, checkpoint_manifest(shared_server.directory), PROBES, 1, EXACT)
    sync.push(policy, 0)
    yield sync
    engine.close()


@needs_vllm
def test_every_perturbed_weight_arrives_five_times_in_a_row(
    policy: SparringMoeForCausalLM, synced: WeightSync
) -> None:
    (server,) = synced.engine.replicas
    for seed in range(11, 16):
        make_weights_matter(policy, seed)
        ours = policy_logprobs(policy, PROBES)
        assert largest_difference(ours, server.score(PROBES))[0] > 1
        synced.push(policy, seed)
        assert largest_difference(ours, server.score(PROBES))[0] <= EXACT
    assert not list(synced.engine.folder.glob("*.safetensors"))


@needs_vllm
def test_weights_that_change_on_the_way_are_refused(
    policy: SparringMoeForCausalLM, synced: WeightSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = synced.engine.publish

    def late(proof: Proof) -> None:
        make_weights_matter(policy, 99)
        publish(proof)

    with monkeypatch.context() as patch:
        patch.setattr(synced.engine, "publish", late)
        with pytest.raises(UnprovenSyncError, match=r"other bytes than were sent: \d+ tensors"):
            synced.push(policy, 98)
    synced.push(policy, 99)
