"""LoRA on the mixture of experts: merged by name into the engine, and never into another role's.

Four engines in this process; each takes some seconds to start.
"""

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pipeline_cases import random_llama, random_moe, redraw_adapter, save
from torch import Tensor
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from model.checkpoint.naming import named_checkpoint_tensors
from pipelines.policy.checkpoint import share_base
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import check_lora, policy_tensors, unwrapped_name, weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Engine, SyncedEngine
from pipelines.rollouts.sample import Sample, Scored
from pipelines.rollouts.sampler import Sampler
from pipelines.rollouts.servers.start import open_engine
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.settings.tables import RolloutTable
from pipelines.sync.agreement import largest_difference
from pipelines.sync.push import WeightSync
from pipelines.training.role_spec import RoleSpec
from pipelines.training.trainer import RoleTrainer

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)

EXACT = 1e-5  # nats, float32
TOKENIZER = character_tokenizer()
# PEFT takes the last three for the experts' fused parameters, and for nothing else.
TARGETS = [
    "q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj",
    "gate_proj", "up_proj", "down_proj",
]  # fmt: skip
PROBES = torch.randint(
    3, len(TOKENIZER), (4, 24), generator=torch.Generator().manual_seed(3)
).tolist()
ROLLOUT = RolloutTable(max_model_len=64, kv_cache_gib=0.05, max_num_seqs=8)
PROMPTS = ("a4b1\n", "a9b3\n")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a multi-token layer, which no engine gets."""
    policy = random_moe(TOKENIZER, q_lora_rank=32, num_nextn_predict_layers=1)
    return save(policy, tmp_path_factory.mktemp("lora") / "moe")


def _adapted(checkpoint: Path, rank: int = 4) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=4 * rank, target_modules=TARGETS)
    policy = get_peft_model(base, config)
    check_lora(policy)
    return policy


def _synced(checkpoint: Path, name: str, placement: str) -> WeightSync:
    settings = ROLLOUT.model_copy(update={"placement": placement})
    manifest = checkpoint_manifest(checkpoint)
    engine: SyncedEngine
    if placement == "colocated":
        engine = VllmEngine(EngineSpec(checkpoint, settings, "float32", (TOKENIZER.eos_token_id,)))
    else:
        engine = open_engine(
            name, EngineSpec(checkpoint, settings, "float32", (TOKENIZER.eos_token_id,))
        )
        engine.await_ready(manifest)
    return WeightSync(engine, manifest, PROBES, agreement_every=1, agreement_threshold=EXACT)


def _role(
    name: str, policy: PeftModel, sync: WeightSync | None = None, replay: bool = True,
    **options: object,
) -> RoleTrainer:  # fmt: skip
    tokenizer, folder = TOKENIZER, tempfile.gettempdir()
    args = GRPOConfig(**{
        "output_dir": folder, "max_completion_length": 8, "seed": 0, "beta": 0.0,
        "per_device_train_batch_size": 8, "num_generations": 4, "learning_rate": 1e-2,
        "lr_scheduler_type": "constant", "bf16": False, "gradient_checkpointing": False,
        "report_to": "none", "save_strategy": "no", "logging_steps": 1, "shuffle_dataset": False,
        "use_vllm": False, "max_steps": 1, "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(), **options,
    })  # fmt: skip
    own = TransformersEngine(policy, (tokenizer.eos_token_id,), tokenizer.pad_token_id, 64)
    engine: Engine = own if sync is None else sync.engine
    limits = (args.max_completion_length, args.temperature)
    sampler = Sampler(name, engine, tokenizer, args.seed, *limits, policy, sync)
    spec = RoleSpec(name, args, run_steps=3, routing_replay=replay)
    return RoleTrainer(spec, policy, sampler, lambda row: None)


def _play(role: RoleTrainer) -> None:
    def score(indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        return [Scored(reward) for reward in (1.0, 0.0, 0.5, 0.0) * 2]

    role.play(PROMPTS, score, "round 0")


def _difference(policy: torch.nn.Module, engine: Engine) -> float:
    ours = torch.tensor(policy_logprobs(policy, PROBES))
    return (ours - torch.tensor(engine.score(PROBES))).abs().max().item()


def _tensors(policy: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in policy_tensors(policy)}


def test_attention_and_experts_are_merged_under_their_names_on_disk(checkpoint: Path) -> None:
    policy = _adapted(checkpoint)
    plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    before = dict(named_checkpoint_tensors(plain))
    fresh = _tensors(policy)
    assert fresh.keys() == before.keys()
    assert all(torch.equal(fresh[name], before[name]) for name in before)
    redraw_adapter(policy, 1)
    moved = {name for name, tensor in _tensors(policy).items() if not tensor.equal(before[name])}
    attention = {name for name in before if ".self_attn." in name and "layernorm" not in name}
    experts = {name for name in before if ".mlp.experts." in name}
    assert moved == attention | experts and len(experts) == 2 * 3 * 8


@needs_vllm
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "placement"),
    [
        ("moe", "colocated"),
        ("dense", "colocated"),
        pytest.param("moe", "server", marks=pytest.mark.slow),
        pytest.param("dense", "server", marks=pytest.mark.slow),
    ],
)
def test_two_adapters_on_one_base_arrive_and_do_not_leak(
    kind: str, placement: str, checkpoint: Path, tmp_path: Path
) -> None:
    """Blocks in turn: what one role learns moves neither the other's weights nor its engine."""
    if kind == "dense":
        checkpoint = save(random_llama(TOKENIZER), tmp_path / "dense")
    policies = {"learner": _adapted(checkpoint, 4), "critic": _adapted(checkpoint, 2)}
    share_base(policies["learner"], policies["critic"])
    replay = (kind, placement) == ("moe", "colocated")
    roles = {
        name: _role(name, policy, _synced(checkpoint, name, placement), replay)
        for name, policy in policies.items()
    }
    try:
        _train_in_turn(roles, placement == "colocated")
    finally:
        for role in roles.values():
            role.sampler.engine.close()


def _train_in_turn(roles: dict[str, RoleTrainer], bitwise: bool) -> None:
    bases = {name: _base(role.policy) for name, role in roles.items()}
    ours, theirs = (_storage(role.policy) for role in roles.values())
    assert ours == theirs and len(ours) > 10, "the base must be there once"
    for seed, role in enumerate(roles.values()):
        redraw_adapter(role.policy, seed)
        role.sampler.ensure_synced()
    for round_ in range(2):
        for name, role in roles.items():
            other = roles["critic" if name == "learner" else "learner"]
            untouched, scores = _tensors(other.policy), other.sampler.engine.score(PROBES)
            trained = _tensors(role.policy)
            hashes = (role.sampler.engine.weights.hash, other.sampler.engine.weights.hash)
            _play(role)
            role.sampler.ensure_synced()
            assert role.num_steps == round_ + 1
            assert any(not t.equal(trained[n]) for n, t in _tensors(role.policy).items())
            assert role.sampler.engine.weights.hash == weights_hash(role.policy) != hashes[0]
            assert other.sampler.engine.weights.hash == weights_hash(other.policy) == hashes[1]
            assert _difference(role.policy, role.sampler.engine) <= EXACT
            again = other.sampler.engine.score(PROBES)  # a server's requests meet in other batches
            assert largest_difference(again, scores)[0] <= (0 if bitwise else EXACT)
            assert all(t.equal(untouched[n]) for n, t in _tensors(other.policy).items())
    assert _difference(roles["learner"].policy, roles["critic"].sampler.engine) > 0.01, (
        "too alike to tell"
    )
    for name, role in roles.items():
        assert all(t.equal(bases[name][n]) for n, t in _base(role.policy).items())


def _storage(policy: PeftModel) -> dict[str, int]:
    """Where the tensors of the base lie."""
    state = policy.get_base_model().state_dict().items()
    return {unwrapped_name(n): t.data_ptr() for n, t in state if ".lora_" not in n}


def _base(policy: PeftModel) -> dict[str, Tensor]:
    """What an adapter must leave alone, bit for bit."""
    state = policy.state_dict().items()
    return {name: tensor.clone() for name, tensor in state if ".lora_" not in name}


def test_the_adapter_replays_and_its_reference_routes_itself(checkpoint: Path) -> None:
    role = _role("learner", _adapted(checkpoint), beta=0.1)
    redraw_adapter(role.policy, 1)
    passes: list[tuple[bool, bool]] = []
    layer = next(m for m in role.policy.modules() if type(m).__name__ == "Linear" and vars(m).get(
        "r"))  # fmt: skip
    role.policy.get_base_model().model.register_forward_pre_hook(
        lambda _module, _args, kwargs: passes.append(
            (layer.disable_adapters or layer.active_adapters == ["ref"], "routed_experts" in kwargs)
        ),
        with_kwargs=True,
    )
    _play(role)
    scored = [(reference, replayed) for reference, replayed in passes if reference or replayed]
    assert scored == [(False, True), (True, False)]
