"""Weight sync into the real vLLM engine: every weight arrives, and every way to lose one is caught.

The engines live in this process; each takes some seconds to start and is shared by its tests.
"""

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from faulty_worker import FAULTS, corrupted
from peft import LoraConfig, PeftModel, get_peft_model
from pipeline_cases import random_llama, random_moe, redraw, redraw_adapter, save
from weights import make_weights_matter

from pipelines.errors import UnprovenSyncError
from pipelines.policy import tensors as tensors_module
from pipelines.policy.fingerprint import NamedTensors
from pipelines.policy.manifest import checkpoint_manifest, manifest_difference
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import (
    policy_fingerprints,
    policy_tensors,
    served_tensors,
    weights_hash,
)
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts import spec as engine_spec
from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.settings.tables import RolloutTable
from pipelines.sync import receive as worker
from pipelines.sync.agreement import largest_difference
from pipelines.sync.proof import Proof
from pipelines.sync.push import WeightSync
from pipelines.sync.receive import SyncWorker
from pipelines.sync.replica import Replica

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)

Policy = torch.nn.Module
EXACT = 1e-5  # nats, float32
ROLLOUT = RolloutTable(max_model_len=64, kv_cache_gib=0.05, max_num_seqs=8)
TOKENIZER = character_tokenizer()
PROBES = torch.randint(
    3, len(TOKENIZER), (4, 32), generator=torch.Generator().manual_seed(3)
).tolist()


@dataclass
class Pair:
    """A policy and the engine that was started from its checkpoint."""

    policy: Policy
    sync: WeightSync
    version: int = 0

    @property
    def engine(self) -> VllmEngine:
        return self.sync.engine

    def push(self) -> None:
        self.version += 1
        self.sync.push(self.policy, self.version)

    def difference(self) -> float:
        """Largest difference of log-probabilities (nats), measured without the sync's own check."""
        ours = torch.tensor(policy_logprobs(self.policy, PROBES))
        return (ours - torch.tensor(self.engine.score(PROBES))).abs().max().item()


def _pair(policy: Policy, directory: Path, table: RolloutTable = ROLLOUT) -> Pair:
    save(policy, directory)
    engine = VllmEngine(EngineSpec(directory, table, "float32", TOKENIZER.eos_token_id))
    manifest = checkpoint_manifest(directory)
    return Pair(policy, WeightSync(engine, manifest, PROBES, 1, EXACT))


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _pair(
        random_moe(TOKENIZER, num_nextn_predict_layers=1), tmp_path_factory.mktemp("sync") / "moe"
    )


@pytest.fixture(scope="module")
def dense(moe: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """After the one with experts: a process's first engine decides if it has a group for them."""
    return _pair(random_llama(TOKENIZER), tmp_path_factory.mktemp("sync") / "dense")


def _perturb_all(policy: Policy, redraw_all: Callable[[Policy, int], object], seed: int) -> None:
    """Redraw everything, and prove that no tensor of the checkpoint kept one value."""
    before = {name: tensor.clone() for name, tensor in policy_tensors(policy)}
    redraw_all(policy, seed)
    for name, tensor in policy_tensors(policy):
        assert (tensor != before[name]).all(), f"{name} was not perturbed"


@pytest.mark.parametrize(
    ("name", "redraw_all"), [("moe", make_weights_matter), ("dense", redraw)], ids=["moe", "dense"]
)
def test_every_perturbed_weight_arrives_five_times_in_a_row(
    name: str, redraw_all: Callable[[Policy, int], object], request: pytest.FixtureRequest
) -> None:
    _prove_five_syncs(request.getfixturevalue(name), redraw_all)


def _prove_five_syncs(pair: Pair, redraw_all: Callable[[Policy, int], object]) -> None:
    for seed in range(11, 16):
        _perturb_all(pair.policy, redraw_all, seed)
        assert pair.difference() > 1, (
            "a stale engine must be nats away, or this test proves nothing"
        )
        pair.push()
        assert pair.difference() <= EXACT
        assert pair.engine.weights.version == pair.version
        assert pair.sync.agreement_difference <= EXACT


def test_the_same_with_the_mla_kernel_on(tmp_path: Path) -> None:
    """In a process of its own: vLLM reads once whether MLA is on."""
    _in_its_own_process(f"prove_mla({str(tmp_path / 'mla')!r})")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["moe", "dense"])
def test_the_same_with_a_compiled_engine(kind: str, tmp_path: Path) -> None:
    """A compiled graph must not keep the packed weights that it was traced with."""
    _in_its_own_process(f"prove_compiled({kind!r}, {str(tmp_path / kind)!r})", timeout=600)


def test_a_wrong_rope_mode_is_caught_by_the_first_agreement(tmp_path: Path) -> None:
    """In a process of its own: vLLM keeps the rotary module that the first engine made."""
    if torch.cuda.is_available():
        pytest.skip("only vLLM's CPU rotary kernel is wrong in eager mode")
    _in_its_own_process(f"catch_wrong_rope({str(tmp_path / 'moe')!r})")


def _in_its_own_process(call: str, timeout: float = 110) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, [here, here.parent / "support", here.parents[1]]))
    done = subprocess.run(
        [sys.executable, "-c", f"import test_sync; test_sync.{call}"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def catch_wrong_rope(directory: str) -> None:
    """Start an engine without the setting that turns vLLM's wrong rotary kernel off."""
    right = engine_spec.engine_options

    def wrong(settings: RolloutTable) -> dict[str, object]:
        return right(settings) | {"compilation_config": {"custom_ops": ["all"]}}

    engine_spec.engine_options = wrong
    pair = _pair(random_moe(TOKENIZER), Path(directory))
    with pytest.raises(UnprovenSyncError, match="engine and policy differ by"):
        pair.push()
    _refused(pair)


def prove_compiled(kind: str, directory: str) -> None:
    """Five syncs into an engine that vLLM compiled."""
    compiled = ROLLOUT.model_copy(update={"compile": True})
    make, redraw_all = {"moe": (random_moe, make_weights_matter), "dense": (random_llama, redraw)}[
        kind
    ]
    _prove_five_syncs(_pair(make(TOKENIZER), Path(directory), compiled), redraw_all)


def prove_mla(directory: str) -> None:
    """Five syncs into the one latent that the kernel serves: absorbed matrices are made anew."""
    policy = random_moe(TOKENIZER, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=32)
    pair = _pair(policy, Path(directory))
    executor = pair.engine.llm.llm_engine.model_executor
    module = executor.driver_worker.model_runner.get_model()
    kinds = {type(part).__name__ for part in module.modules()}
    assert any("MLA" in kind for kind in kinds), f"the MLA kernel is off: {sorted(kinds)}"
    _prove_five_syncs(pair, make_weights_matter)


def test_lora_is_merged_into_temporaries_and_the_base_stays_bitwise(dense: Pair) -> None:
    base = dense.policy
    untouched = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"]
    )
    pair = Pair(get_peft_model(base, lora), dense.sync, dense.version)
    assert isinstance(pair.policy, PeftModel)
    try:
        for seed in range(21, 26):
            redraw_adapter(pair.policy, seed, size=0.1)
            assert pair.difference() > 0.01
            pair.push()
            assert pair.difference() <= EXACT
    finally:
        merged = pair.policy.unload()  # the fixture's model again, for whoever comes next
    for name, tensor in merged.state_dict().items():
        assert torch.equal(tensor, untouched[name]), f"{name} was rounded by the merge"


def test_the_engine_samples_the_policys_own_logprobs(moe: Pair) -> None:
    moe.push()
    prompts = [[5, 9, 30], [40, 7]] * 2
    drawn = moe.engine.generate(prompts, Sampling(16, temperature=1.0), [1, 2, 3, 4])
    for prompt, completion in zip(prompts, drawn, strict=True):
        ours = policy_logprobs(moe.policy, [[*prompt, *completion.token_ids]])[0]
        expected = torch.tensor(ours[len(prompt) - 1 :])
        assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=EXACT)
    assert drawn[0].token_ids != drawn[2].token_ids, "copies of a prompt need their own noise"
    again = moe.engine.generate(prompts[::-1], Sampling(16, temperature=1.0), [4, 3, 2, 1])
    assert [c.token_ids for c in again[::-1]] == [c.token_ids for c in drawn]


def test_sampling_and_probing_leave_the_random_state_alone(moe: Pair) -> None:
    """Else a resumed run, which checks agreement at other times, would shuffle other batches."""
    before = torch.get_rng_state()
    moe.push()
    moe.engine.generate([[5, 9, 30]] * 2, Sampling(8), [1, 2])
    moe.engine.score(PROBES)
    assert torch.equal(torch.get_rng_state(), before)


# -- every way to lose a weight -------------------------------------------------------------------

BIAS = "e_score_correction_bias"


def _without(tensors: NamedTensors, lost: str) -> NamedTensors:
    return ((name, tensor) for name, tensor in tensors if not name.endswith(lost))


def _swap_experts(tensors: NamedTensors) -> NamedTensors:
    for name, tensor in tensors:
        for a, b in ((".experts.0.", ".experts.1."), (".experts.1.", ".experts.0.")):
            if a in name:
                name = name.replace(a, b)
                break
        yield name, tensor


def _stale_bias(tensors: NamedTensors) -> NamedTensors:
    for name, tensor in tensors:
        yield (
            name,
            tensor - 0.3 * torch.arange(len(tensor)).sin() if name.endswith(BIAS) else tensor,
        )


CORRUPTIONS = [
    pytest.param(lambda t: _without(t, BIAS), f"1 missing .*{BIAS}", id="router bias not sent"),
    pytest.param(
        lambda t: _without(t, "experts.5.up_proj.weight"), "1 missing .*experts.5", id="no expert"
    ),
    pytest.param(
        lambda t: ((n.replace("lm_head", "head"), x) for n, x in t), "1 unknown", id="unknown name"
    ),
    pytest.param(_swap_experts, "engine and policy differ by", id="experts swapped"),
    pytest.param(_stale_bias, "engine and policy differ by", id="stale router bias"),
]


@pytest.mark.parametrize(("corrupt", "told"), CORRUPTIONS)
def test_a_policy_that_names_its_tensors_wrongly_is_refused(
    moe: Pair,
    corrupt: Callable[[NamedTensors], NamedTensors],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Manifest and agreement: nothing is corrupted on the way, the sender itself is wrong."""

    def wrongly_named(policy: Policy) -> NamedTensors:
        return corrupt(policy_tensors(policy))

    moe.push()
    with monkeypatch.context() as patch:
        patch.setattr(tensors_module, "policy_tensors", wrongly_named)
        with pytest.raises(UnprovenSyncError, match=told):
            moe.push()
    _refused_until_synced(moe)


@pytest.mark.parametrize("corrupt", [case.values[0] for case in CORRUPTIONS])
def test_a_stream_corrupted_on_the_way_is_refused_before_agreement_is_checked(
    moe: Pair,
    corrupt: Callable[[NamedTensors], NamedTensors],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moe.push()
    unchecked = WeightSync(moe.engine, moe.sync.manifest, PROBES, 100, EXACT, num_syncs=2)
    receive = Proof._receive

    def corrupted(proof: Proof, replica: Replica, payload: NamedTensors) -> None:
        receive(proof, replica, corrupt(payload))

    with monkeypatch.context() as patch:
        patch.setattr(Proof, "_receive", corrupted)
        with pytest.raises(UnprovenSyncError, match=r"other bytes than were sent: \d+ ten"):
            unchecked.push(moe.policy, 99)
    _refused_until_synced(moe)


def _refused(pair: Pair) -> None:
    assert pair.engine.weights.version == -1
    with pytest.raises(UnprovenSyncError, match="the engine holds weights"):
        pair.engine.generate([[5, 9]], Sampling(2), [1])


def _refused_until_synced(pair: Pair) -> None:
    _refused(pair)
    pair.push()
    assert pair.difference() <= EXACT


def test_a_tensor_sent_twice_or_of_another_shape_is_refused_before_the_engine_sees_it(
    moe: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = iter([("a", torch.ones(2, 3)), ("a", torch.ones(2, 3))])
    with monkeypatch.context() as patch:
        patch.setattr(tensors_module, "policy_tensors", lambda policy: twice)
        with pytest.raises(UnprovenSyncError, match="a was sent twice"):
            policy_fingerprints(moe.policy)
    assert "1 of another shape ['a']" in manifest_difference({"a": (2, 3)}, {"a": (3, 2)})
    assert manifest_difference({"a": (2, 3)}, {"a": (2, 3)}) == ""


def test_somebody_elses_weights_are_noticed_by_the_next_generation(moe: Pair) -> None:
    moe.push()
    moe.engine.call("sync_receive", weights=served_tensors(moe.policy), stamp="another run's")
    moe.engine.call("sync_certify", stamp="another run's")
    with pytest.raises(UnprovenSyncError, match="somebody else writes into it"):
        moe.engine.generate([[5, 9]], Sampling(2), [1])
    moe.push()


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param("1.input_layernorm.weight", id="norm"),
        pytest.param(BIAS, id="router bias"),
        pytest.param("experts.3.down_proj.weight", id="one expert of a fused tensor"),
        pytest.param("lm_head.weight", id="head"),
        pytest.param("mlp.gate.weight", id="packed linear"),
        pytest.param("0.mlp.up_proj.weight", id="half of a packed linear"),
    ],
)
def test_a_tensor_the_engine_left_alone_is_poisoned(
    moe: Pair, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = SyncWorker.sync_load

    def forgetful(self: SyncWorker, tensors: NamedTensors) -> None:
        every = [(name, tensor.clone()) for name, tensor in tensors]
        load(self, _without(iter(every), lost))

    moe.push()
    unchecked = WeightSync(moe.engine, moe.sync.manifest, PROBES, 100, EXACT, num_syncs=2)
    with monkeypatch.context() as patch:
        patch.setattr(SyncWorker, "sync_load", forgetful)
        with pytest.raises(UnprovenSyncError, match="did not update"):
            unchecked.push(moe.policy, 99)
    _refused_until_synced(moe)


@pytest.mark.parametrize(("fault", "told"), FAULTS.items())
def test_a_fault_inside_the_engine_is_caught_before_anything_is_sampled(
    moe: Pair, fault: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "unpacked" and torch.accelerator.is_available():
        pytest.skip("only vLLM's CPU kernel packs experts")
    moe.push()
    load = SyncWorker.sync_load  # engines of one process share one class of workers

    def faulty(self: SyncWorker, tensors: NamedTensors) -> None:
        load(self, corrupted(fault, [(name, tensor.clone()) for name, tensor in tensors]))

    with monkeypatch.context() as patch:
        patch.setattr(SyncWorker, "sync_load", faulty)
        if fault == "unpacked":
            patch.setattr(worker, "_repack_cpu_experts", lambda module: None)
        with pytest.raises(UnprovenSyncError, match=told):
            moe.push()
    _refused_until_synced(moe)


def test_agreement_is_checked_after_the_first_two_syncs_and_every_kth(
    moe: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, checked = WeightSync(moe.engine, moe.sync.manifest, PROBES[:1], 3, EXACT), []
    check = sync.agreement.check

    def counted(replica: Replica, suspects: Callable[[], Sequence[str]]) -> None:
        checked.append(sync.num_syncs)
        check(replica, suspects)

    monkeypatch.setattr(sync.agreement, "check", counted)
    for version in range(7):
        sync.push(moe.policy, version)
    assert checked == [1, 2, 3, 6]


def test_a_policy_that_diverged_is_told_by_name(moe: Pair) -> None:
    head = moe.policy.lm_head.weight.data
    kept = head[0, 0].item()
    head[0, 0] = math.nan
    with pytest.raises(UnprovenSyncError, match=r"lm_head.weight is not finite: .* diverged"):
        moe.push()
    head[0, 0] = kept
    _refused_until_synced(moe)


def test_the_hash_changes_with_any_tensor(moe: Pair) -> None:
    before = weights_hash(moe.policy)
    assert before == weights_hash(moe.policy)
    bias = next(t for n, t in moe.policy.state_dict().items() if n.endswith(BIAS))
    kept = bias.clone()
    bias[0] += 1e-3
    assert weights_hash(moe.policy) != before
    bias.copy_(kept)
    assert weights_hash(moe.policy) == before


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_nan_anywhere_is_no_agreement() -> None:
    nan = float("nan")
    assert largest_difference([[-1.0, -2.0], [-1.0]], [[-1.0, -2.5], [-1.0]]) == (0.5, 0, 2)
    assert largest_difference([[-1.0, -2.0], [-9.0]], [[-1.0, nan], [-1.0]]) == (math.inf, 0, 2)
