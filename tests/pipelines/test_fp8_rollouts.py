"""Rollouts in FP8: the sampler holds the numbers that the trainer's quantiser makes, bit for bit.

vLLM on CPU has no blockwise FP8: there it gets the dequantised numbers, which the exact tests use.
"""

import importlib.util
from pathlib import Path

import fp8_oracle as oracle
import numpy as np
import pytest
import torch
from pipeline_cases import CONFIG, random_llama, random_moe, save
from weights import make_weights_matter

from model.checkpoint.naming import named_checkpoint_tensors
from model.convert_fp8 import convert_to_fp8, fp8_parameters, snap_to_grid
from model.fp8.quantize import Fp8Recipe
from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UnprovenSyncError, UserError
from pipelines.policy.fp8 import check_fp8, check_kernels, fp8_checkpoint, train_in_fp8
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import served_tensors
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.settings.load import load_settings
from pipelines.settings.role_table import RoleTable
from pipelines.settings.rollout_table import RolloutTable
from pipelines.sync.agreement import largest_difference
from pipelines.sync.push import WeightSync
from pipelines.training.mismatch import computes_exactly

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)
on_cpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="E4M3 is sent as such there")

EXACT = 1e-5  # nats, float32
ROLLOUT = RolloutTable(max_model_len=64, kv_cache_gib=0.05, max_num_seqs=8, precision="fp8")
TOKENIZER = character_tokenizer()
PROBES = torch.randint(
    3, len(TOKENIZER), (4, 32), generator=torch.Generator().manual_seed(3)
).tolist()
# More than one block, and blocks cut short.
SHAPE = {"hidden_size": 160, "q_lora_rank": 136, "num_nextn_predict_layers": 1}
QUANTIZED = ("_proj.weight", "_with_mqa.weight")


def _on_grid(policy: SparringMoeForCausalLM) -> SparringMoeForCausalLM:
    """The plain model, in full precision, on the weights that FP8 makes of a policy's."""
    snapped = SparringMoeForCausalLM(policy.config).eval()
    snapped.load_state_dict(policy.state_dict())
    convert_to_fp8(snapped, Fp8Recipe())
    snap_to_grid(snapped)
    plain = SparringMoeForCausalLM(policy.config).eval()
    plain.load_state_dict(snapped.state_dict())
    return plain


@on_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trains_in_fp8", [False, True])
def test_what_is_sent_is_the_oracles_quantised_weights_bit_for_bit(
    trains_in_fp8: bool, dtype: torch.dtype
) -> None:
    policy = random_moe(TOKENIZER, **SHAPE).to(dtype)
    if trains_in_fp8:
        train_in_fp8(policy)
        make_weights_matter(policy, 5)  # masters that have left the grid
    exact = dtype == torch.float32 and not trains_in_fp8
    assert computes_exactly(policy, rounds=False) == exact, "how far routes may differ"
    masters = dict(named_checkpoint_tensors(policy, multi_token=False))
    sent = dict(served_tensors(policy, fp8=True))
    assert sent.keys() == masters.keys()
    quantised = 0
    for name, tensor in masters.items():
        expected = tensor.float().numpy()
        if name.endswith(QUANTIZED):
            values, scale = oracle.quantize(expected, (128, 128), power_of_two=True)
            spread = np.repeat(np.repeat(scale, 128, 0), 128, 1)
            expected = values * spread[: values.shape[0], : values.shape[1]]
            assert not torch.equal(sent[name], tensor), f"{name} was not quantised"
            quantised += 1
        assert sent[name].dtype == tensor.dtype
        assert torch.equal(sent[name].float(), torch.from_numpy(expected)), name
    assert quantised == 2 * 5 + 3 + 3 * (1 + policy.config.n_routed_experts)


@pytest.fixture(scope="module")
def sync(tmp_path_factory: pytest.TempPathFactory) -> WeightSync:
    directory = save(random_moe(TOKENIZER, **SHAPE), tmp_path_factory.mktemp("fp8") / "moe")
    engine = VllmEngine(EngineSpec(directory, ROLLOUT, "float32", (TOKENIZER.eos_token_id,)))
    manifest = checkpoint_manifest(directory)
    return WeightSync(engine, manifest, PROBES, 1, agreement_threshold=EXACT, fp8=True)


@needs_vllm
@on_cpu
def test_a_policy_on_the_grid_and_its_engine_agree_five_times_in_a_row(sync: WeightSync) -> None:
    for seed in range(11, 16):
        policy = _on_grid(_redrawn(seed))
        assert largest_difference(policy_logprobs(policy, PROBES), sync.engine.score(PROBES))[0] > 1
        sync.push(policy, seed)
        assert 0 < sync.agreement_difference <= EXACT and sync.engine.weights.version == seed


def _redrawn(seed: int) -> SparringMoeForCausalLM:
    return make_weights_matter(random_moe(TOKENIZER, **SHAPE), seed)


@needs_vllm
@on_cpu
def test_a_policy_off_the_grid_is_told_before_anything_is_sampled(sync: WeightSync) -> None:
    with pytest.raises(UnprovenSyncError, match=r"differ by .*rollout.precision = .fp8. .*snap_to"):
        sync.push(_redrawn(3), 20)
    with pytest.raises(UnprovenSyncError, match="the engine holds weights"):
        sync.engine.generate([[5, 9]], Sampling(2), [1])


@needs_vllm
@on_cpu
def test_an_engine_holds_what_a_policy_in_fp8_multiplies_with(sync: WeightSync) -> None:
    """Its masters are off the grid; on CPU the engine leaves activations alone, the policy not."""
    policy = _redrawn(4)
    plain = _on_grid(policy)
    train_in_fp8(policy)
    make_weights_matter(policy, 4)
    loose = WeightSync(sync.engine, sync.manifest, PROBES, 1, agreement_threshold=10, fp8=True)
    loose.push(policy, 30)
    theirs = sync.engine.score(PROBES)
    assert largest_difference(policy_logprobs(plain, PROBES), theirs)[0] <= EXACT
    assert loose.agreement_difference > EXACT


def test_models_and_shapes_that_fp8_does_not_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"learner.model .* is a llama, whose weights our quan"):
        check_fp8("learner", str(save(random_llama(TOKENIZER), tmp_path / "llama")), RoleTable())
    moe = random_moe(TOKENIZER, **SHAPE)
    with pytest.raises(UserError, match=r"critic\.lora trains beside weights"):
        path = str(save(moe, tmp_path / "moe"))
        check_fp8("critic", path, RoleTable(lora={"target_modules": ["o_proj"]}))
    with pytest.raises(UserError, match=r"hidden_size = 160, .*q_lora_rank = 136.* multiples"):
        check_kernels("learner", moe.config, "bfloat16")
    config = _whole_blocks().config
    check_kernels("learner", config, "bfloat16")
    with pytest.raises(UserError, match=r"learner\.dtype is float32: set it to bfloat16"):
        check_kernels("learner", config, "float32")
    with pytest.raises(UserError, match=r'precision = "fp8" needs rollout\.engine = "vllm"'):
        load_settings(CONFIG, ["rollout.precision=fp8", "rollout.engine=transformers"])


def _whole_blocks() -> SparringMoeForCausalLM:
    """Shapes that vLLM's kernels take, on the latent that its latent attention takes."""
    return random_moe(
        TOKENIZER, hidden_size=256, intermediate_size=256, moe_intermediate_size=128,
        q_lora_rank=128, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128,
        v_head_dim=128,
    )  # fmt: skip


@pytest.mark.gpu
@needs_vllm
def test_on_an_accelerator_the_engine_multiplies_in_fp8(tmp_path: Path) -> None:
    """Written from vLLM's source, never run: the engine gets E4M3 weights and their scales."""
    policy = _whole_blocks().to(torch.bfloat16)
    directory = Path(fp8_checkpoint(str(save(policy, tmp_path / "moe")), tmp_path / "fp8"))
    train_in_fp8(policy)
    policy.to(torch.accelerator.current_accelerator())
    engine = VllmEngine(EngineSpec(directory, ROLLOUT, "bfloat16", (TOKENIZER.eos_token_id,)))
    manifest = checkpoint_manifest(directory)
    sync = WeightSync(engine, manifest, PROBES, 1, 0.5, fp8=True, dtype=torch.bfloat16)
    names = {name for name, _ in served_tensors(policy, fp8=True)}
    assert sum(name.endswith("_scale_inv") for name in names) > len(list(fp8_parameters(policy)))
    for seed in (1, 2):
        make_weights_matter(policy.cpu(), seed).to(torch.accelerator.current_accelerator())
        stale = largest_difference(policy_logprobs(policy, PROBES), engine.score(PROBES))[0]
        sync.push(policy, seed)
        assert sync.agreement_difference < stale / 4
