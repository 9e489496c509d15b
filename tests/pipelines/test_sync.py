"""Weight sync into the real vLLM engine: every weight arrives, and every way to lose one is caught.

The engines live in this process; each takes some seconds to start and is shared by its tests.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from faulty_worker import FAULTS, corrupted
from peft import LoraConfig, PeftModel, get_peft_model
from pipeline_cases import random_llama, random_moe, redraw, redraw_adapter
from sync_pairs import (
    BIAS,
    EXACT,
    PROBES,
    TOKENIZER,
    Pair,
    Policy,
    prove_five_syncs,
    refused,
    stale_bias,
    start_pair,
    swap_experts,
    without,
)
from weights import make_weights_matter

from pipelines.errors import UnprovenSyncError
from pipelines.policy import tensors as tensors_module
from pipelines.policy.fingerprint import NamedTensors
from pipelines.policy.manifest import manifest_difference
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import (
    policy_fingerprints,
    policy_tensors,
    served_tensors,
    weights_hash,
)
from pipelines.rollouts.engine import Sampling
from pipelines.sync import receive as worker
from pipelines.sync.proof import Proof
from pipelines.sync.push import WeightSync
from pipelines.sync.receive import SyncWorker
from pipelines.sync.replica import Replica

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return start_pair(
        random_moe(TOKENIZER, num_nextn_predict_layers=1), tmp_path_factory.mktemp("sync") / "moe"
    )


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return start_pair(random_llama(TOKENIZER), tmp_path_factory.mktemp("sync") / "dense")


@pytest.mark.parametrize(
    ("name", "redraw_all"), [("moe", make_weights_matter), ("dense", redraw)], ids=["moe", "dense"]
)
def test_every_perturbed_weight_arrives_five_times_in_a_row(
    name: str, redraw_all: Callable[[Policy, int], object], request: pytest.FixtureRequest
) -> None:
    prove_five_syncs(request.getfixturevalue(name), redraw_all)


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

CORRUPTIONS = [
    pytest.param(lambda t: without(t, BIAS), f"1 missing .*{BIAS}", id="router bias not sent"),
    pytest.param(
        lambda t: without(t, "experts.5.up_proj.weight"), "1 missing .*experts.5", id="no expert"
    ),
    pytest.param(
        lambda t: ((n.replace("lm_head", "head"), x) for n, x in t), "1 unknown", id="unknown name"
    ),
    pytest.param(swap_experts, "engine and policy differ by", id="experts swapped"),
    pytest.param(stale_bias, "engine and policy differ by", id="stale router bias"),
]


@pytest.mark.parametrize(("corrupt", "told"), CORRUPTIONS)
def test_a_policy_that_names_its_tensors_wrongly_isrefused(
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


def _refused_until_synced(pair: Pair) -> None:
    refused(pair)
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
        load(self, without(iter(every), lost))

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
