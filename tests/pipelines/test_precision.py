"""Precision between policy and engine: what is trained, what is served, and how it is proven.

In float32 both agree to rounding. In bfloat16 the engine serves the cast of float32 weights, and is
held to a few times what bfloat16 costs the policy itself; a LoRA base in bfloat16 is served merged
in float32.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from faulty_worker import FAULTS, corrupted
from peft import PeftModel
from pipeline_cases import (
    CONFIG,
    learner_role,
    random_llama,
    random_moe,
    redraw,
    redraw_adapter,
    save,
)
from sync_pairs import PROBES, TOKENIZER, Pair, perturb_all, refused, start_pair
from transformers import AutoModelForCausalLM
from weights import make_weights_matter

from pipelines.errors import UnprovenSyncError, UserError
from pipelines.policy import scoring
from pipelines.policy.checkpoint import export_policy, load_policy
from pipelines.policy.fingerprint import NamedTensors
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import policy_tensors, served_tensors, weights_hash
from pipelines.rollouts.sample import Sample, Scored
from pipelines.run.checks import check_settings
from pipelines.settings.load import load_settings
from pipelines.settings.role_table import RoleTable
from pipelines.sync import receive
from pipelines.sync.agreement import ROUNDED_RATIO, largest_difference, mean_difference
from pipelines.sync.receive import SyncWorker
from pipelines.training.trainer import RoleTrainer

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)
EXACT = 1e-5  # nats, float32
BF16 = torch.bfloat16
LORA = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "o_proj", "down_proj"]}


# -- what is trained ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_llama(TOKENIZER), tmp_path_factory.mktemp("precision") / "dense")


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(TOKENIZER), tmp_path_factory.mktemp("precision") / "moe")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_small_steps_move_every_trained_weight(dtype: str, dense: Path) -> None:
    """At RL's usual rate, 1e-6, a weight in bfloat16 would round back to what it was."""
    policy = load_policy(str(dense), RoleTable(dtype=dtype))
    before = {name: tensor.clone() for name, tensor in policy.named_parameters()}
    role = learner_role(
        RoleTrainer, dense, policy=policy, learning_rate=1e-6, lr_scheduler_type="constant",
        per_device_train_batch_size=8, num_generations=4, bf16=dtype == "bfloat16",
        spec={"router_bias_rate": 0.0},
    )  # fmt: skip

    def score(indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        return [Scored(float(place % 2)) for place in range(len(samples))]

    role.play(["a4b1\n", "a9b3\n"] * 4, score, "round 0")
    moved = {name: (t != before[name]).float().mean() for name, t in policy.named_parameters()}
    layers = {name: share for name, share in moved.items() if "layers" in name}
    assert min(layers.values()) > 0.9, layers  # a few have no gradient, or one below the epsilon


def test_an_adapter_trains_in_float32_beside_a_frozen_base_in_bfloat16(dense: Path) -> None:
    policy = load_policy(str(dense), RoleTable(dtype="bfloat16", lora=LORA))
    trained = {p.dtype for p in policy.parameters() if p.requires_grad}
    frozen = {p.dtype for p in policy.parameters() if not p.requires_grad}
    assert (trained, frozen) == ({torch.float32}, {BF16})


# -- what is served -------------------------------------------------------------------------------


def test_the_cast_keeps_what_the_model_keeps_in_float32(moe: Path) -> None:
    """It is what loading the checkpoint in bfloat16 gives, and has a hash of its own."""
    policy = load_policy(str(moe), RoleTable(dtype="bfloat16"))
    served = dict(served_tensors(policy, dtype=BF16))
    loaded = AutoModelForCausalLM.from_pretrained(moe, dtype=BF16)
    expected = dict(served_tensors(loaded))
    assert served.keys() == expected.keys()
    for name, tensor in expected.items():
        assert served[name].dtype == tensor.dtype and torch.equal(served[name], tensor), name
    assert {t.dtype for n, t in served.items() if "correction_bias" in n} == {torch.float32}
    assert weights_hash(policy, BF16) == weights_hash(loaded) != weights_hash(policy)


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("size", [1e-4, 1e-3])
def test_a_young_adapter_is_served_whole(
    kind: str, size: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Merged in bfloat16 most of it rounds away; saved it is in float32, and says so."""
    checkpoint = request.getfixturevalue(kind)
    policy = load_policy(str(checkpoint), RoleTable(dtype="bfloat16", lora=LORA))
    assert isinstance(policy, PeftModel)
    before = {n: t.float().clone() for n, t in served_tensors(policy)}
    redraw_adapter(policy, 1, size)
    held = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    twin = load_policy(str(checkpoint), RoleTable(lora=LORA))
    with torch.no_grad():
        for (name, ours), (_, exact) in zip(
            policy.named_parameters(), twin.named_parameters(), strict=True
        ):
            exact.copy_(ours.float())
            assert exact.dtype == torch.float32, name
    served, expected = dict(served_tensors(policy)), dict(served_tensors(twin))
    lost = sum((served[n].float() - expected[n]).norm() ** 2 for n in served) ** 0.5
    moved = sum((expected[n] - before[n]).norm() ** 2 for n in served) ** 0.5
    assert moved > 0 and lost <= 1e-5 * moved
    assert all(torch.equal(t, held[n]) for n, t in policy.state_dict().items())
    export_policy(policy, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert saved.dtype == torch.float32
    assert all(torch.equal(t, expected[n]) for n, t in policy_tensors(saved))


# -- how it is proven -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "moe", "adapted"])
def test_scoring_in_float32_widens_weights_and_leaves_them(
    kind: str, dense: Path, moe: Path
) -> None:
    """Whatever a training step put on the model: its autocast is set aside too."""
    table = RoleTable(dtype="bfloat16", lora=LORA if kind == "adapted" else {})
    policy = load_policy(str(moe if kind == "moe" else dense), table)
    if kind != "adapted":
        policy = policy.to(BF16)
    kept = {name: (t.data_ptr(), t.dtype) for name, t in policy.state_dict().items()}
    forward = torch.autocast("cpu", dtype=BF16)(policy.forward)  # as Accelerate does
    policy.forward = forward
    exact = policy_logprobs(policy, PROBES, "float32")
    assert policy.forward is forward
    assert kept == {name: (t.data_ptr(), t.dtype) for name, t in policy.state_dict().items()}
    del policy.forward
    rounded = policy_logprobs(policy, PROBES, "bfloat16")
    assert mean_difference(exact, rounded) > 1e-3, "bfloat16 costs something"
    wide = policy.float()
    assert largest_difference(policy_logprobs(wide, PROBES), exact)[0] <= EXACT


def test_long_sequences_are_scored_in_chunks(
    dense: Path, moe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of all tokens at once are the widest tensor of all."""
    for checkpoint in (dense, moe):
        policy = load_policy(str(checkpoint), RoleTable())
        whole = policy_logprobs(policy, PROBES)
        for size in (1, 7, 31):
            monkeypatch.setattr(scoring, "CHUNK_TOKENS", size)
            assert largest_difference(policy_logprobs(policy, PROBES), whole)[0] <= EXACT
        monkeypatch.undo()


@pytest.fixture(scope="module")
def served_moe(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("bfloat16") / "moe"
    return start_pair(random_moe(TOKENIZER), folder, dtype="bfloat16")


@pytest.fixture(scope="module")
def served_dense(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("bfloat16") / "dense"
    return start_pair(random_llama(TOKENIZER), folder, dtype="bfloat16")


@needs_vllm
@pytest.mark.parametrize(
    ("name", "redraw_all"), [("served_moe", make_weights_matter), ("served_dense", redraw)]
)
def test_an_engine_in_bfloat16_is_proven_five_times_in_a_row(
    name: str, redraw_all: Callable[[torch.nn.Module, int], object], request: pytest.FixtureRequest
) -> None:
    """And stale by one redrawing it would not be."""
    pair: Pair = request.getfixturevalue(name)
    for seed in range(11, 16):
        perturb_all(pair.policy, redraw_all, seed)
        ours = policy_logprobs(pair.policy, PROBES)
        stale = mean_difference(ours, pair.engine.score(PROBES))
        pair.push()
        agreement = pair.sync.agreement
        assert pair.engine.weights.hash == weights_hash(pair.policy, BF16)
        assert 1e-3 < agreement.difference <= agreement.threshold < stale / 3
        theirs = pair.engine.score(PROBES)
        assert mean_difference(ours, theirs) == pytest.approx(agreement.difference, abs=1e-4)
        rounding = agreement.threshold / ROUNDED_RATIO
        own = mean_difference(ours, policy_logprobs(pair.policy, PROBES, "bfloat16"))
        assert rounding == pytest.approx(own, rel=1e-3)


@needs_vllm
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("fault", "told"), FAULTS.items())
def test_a_fault_inside_an_engine_in_bfloat16_is_caught_before_anything_is_sampled(
    served_moe: Pair, fault: str, told: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth, a wrong RoPE mode, needs a process of its own (`test_sync_processes.py`)."""
    if fault == "unpacked" and torch.accelerator.is_available():
        pytest.skip("only vLLM's CPU kernel packs experts")
    make_weights_matter(served_moe.policy, seed)
    load = SyncWorker.sync_load

    def faulty(self: SyncWorker, tensors: NamedTensors) -> None:
        load(self, corrupted(fault, [(name, tensor.clone()) for name, tensor in tensors]))

    with monkeypatch.context() as patch:
        patch.setattr(SyncWorker, "sync_load", faulty)
        if fault == "unpacked":
            patch.setattr(receive, "_repack_cpu_experts", lambda module: None)
        with pytest.raises(UnprovenSyncError, match=told):
            served_moe.push()
    refused(served_moe)


@needs_vllm
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_an_adapter_on_a_bfloat16_base_is_served_as_it_is_trained(
    kind: str, served_dense: Pair, dense: Path, moe: Path, tmp_path: Path
) -> None:
    """To float32's rounding, however young it is."""
    checkpoint = {"dense": dense, "moe": moe}[kind]
    table = RoleTable(dtype="bfloat16", lora=LORA)
    policy = load_policy(str(checkpoint), table)
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    pair = start_pair(base, tmp_path / kind, dtype=table.served_dtype)
    pair.policy = policy
    for size in (1e-3, 0.1):
        redraw_adapter(policy, 3, size)
        pair.push()
        assert pair.sync.agreement_difference <= EXACT


# -- settings -------------------------------------------------------------------------------------


def test_half_precision_in_training_follows_the_dtype() -> None:
    assert RoleTable().autocast == {"bf16": False, "fp16": False}
    assert RoleTable(dtype="bfloat16").autocast == {"bf16": True, "fp16": False}
    assert RoleTable(dtype="bfloat16", grpo={"bf16": False}).autocast["bf16"] is False
    assert RoleTable(grpo={"bf16": True}).autocast["bf16"] is True


def test_two_precisions_in_one_process_are_refused() -> None:
    settings = load_settings(CONFIG, ["learner.grpo.bf16=true", "rollout.engine=transformers"])
    with pytest.raises(UserError, match=r"set bf16 in learner\.grpo and critic\.grpo alike"):
        check_settings(settings)
