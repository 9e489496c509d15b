"""A whole model in FP8: what is converted, that it trains, decodes and exports as one function."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from weights import largest_change, make_weights_matter

from model.attention.cache import LatentCache
from model.checkpoint.naming import named_checkpoint_tensors
from model.configuration import SparringSparseConfig, tiny_config
from model.convert_fp8 import convert_to_fp8, fp8_parameters, fp8_tensors, snap_to_grid
from model.fp8.linear import Fp8Linear
from model.fp8.quantize import E4M3, Fp8Recipe, Underflow
from model.modeling import SparringMoeForCausalLM, SparringSparseForCausalLM

IDS_BT = torch.randint(0, 40, (2, 24), generator=torch.Generator().manual_seed(0))
RECIPES = [Fp8Recipe(), Fp8Recipe(power_of_two=False)]


def ragged_model(**overrides: object) -> SparringMoeForCausalLM:
    """Widths that leave blocks cut short, as V3's 576 rows of kv_a_proj_with_mqa do."""
    shape = {"hidden_size": 144, "kv_lora_rank": 136, "moe_intermediate_size": 72}
    config = tiny_config(40, **{**shape, "q_lora_rank": 56, **overrides})
    return make_weights_matter(SparringMoeForCausalLM(config))


def fp8_model(recipe: Fp8Recipe = RECIPES[0], **overrides: object) -> SparringMoeForCausalLM:
    model = ragged_model(**overrides)
    convert_to_fp8(model, recipe)
    return model


def test_conversion_keeps_parameters_and_names() -> None:
    model = ragged_model(num_nextn_predict_layers=1)
    before = dict(model.named_parameters())
    names = [name for name, _ in named_checkpoint_tensors(model)]
    convert_to_fp8(model, RECIPES[0])
    after = dict(model.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert [name for name, _ in named_checkpoint_tensors(model)] == names


def test_what_the_paper_keeps_in_high_precision_is_kept() -> None:
    model = fp8_model(num_nextn_predict_layers=1)
    quantized = {name for name, _, _ in fp8_parameters(model)}
    kept = {name for name, _ in model.named_parameters()} - quantized
    assert all(
        any(part in name for part in ("norm", "embed_tokens", "lm_head", "gate.weight", "eh_proj"))
        for name in kept
    ), kept
    # 3 layers and 1 further: 5 projections of attention, 3 of a feed-forward, 2 fused experts.
    assert len(quantized) == 4 * 5 + 4 * 3 + 3 * 2
    assert not any("gate.weight" in name or "head" in name for name in quantized)


def test_the_indexer_is_quantised_but_for_its_head_weights() -> None:
    config = SparringSparseConfig(
        **{
            key: value
            for key, value in tiny_config(40, q_lora_rank=32).to_dict().items()
            if key not in ("architectures", "model_type", "head_dim", "qk_head_dim")
        },
        index_topk=4, index_head_dim=32, index_n_heads=2,
    )  # fmt: skip
    model = SparringSparseForCausalLM(config)
    convert_to_fp8(model, RECIPES[0])
    indexer = model.model.layers[0].self_attn.indexer
    assert isinstance(indexer.wq_b, Fp8Linear) and isinstance(indexer.wk, Fp8Linear)
    assert type(indexer.weights_proj) is nn.Linear
    assert model(input_ids=IDS_BT).logits.isfinite().all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_near_the_exact_model_but_not_equal(recipe: Fp8Recipe) -> None:
    exact, model = ragged_model(), fp8_model(recipe)
    a = exact(input_ids=IDS_BT).logits.log_softmax(-1)
    b = model(input_ids=IDS_BT).logits.log_softmax(-1)
    assert 0.01 < (a - b).abs().mean() < 0.5


def test_it_trains_with_float32_gradients_and_counts_what_underflows() -> None:
    model, underflow = ragged_model().train(), Underflow()
    convert_to_fp8(model, RECIPES[0], underflow)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = model(input_ids=IDS_BT, labels=IDS_BT).loss
        loss.backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert underflow.nonzero > 1e5 and underflow.share < 0.01


def test_gradient_checkpointing_gives_equal_gradients() -> None:
    plain, checkpointed = fp8_model().train(), fp8_model().train()
    checkpointed.gradient_checkpointing_enable()
    for model in (plain, checkpointed):
        model(input_ids=IDS_BT, labels=IDS_BT).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_a_number_that_is_not_finite_reaches_the_loss() -> None:
    model = fp8_model()
    with torch.no_grad():
        model.model.layers[1].mlp.shared_experts.up_proj.weight[0, 0] = torch.inf
    assert model(input_ids=IDS_BT, labels=IDS_BT).loss.isnan()


@torch.no_grad()
@pytest.mark.parametrize("recipe", RECIPES)
def test_absorbed_decoding_multiplies_the_numbers_that_training_does(recipe: Fp8Recipe) -> None:
    """Before o_proj: beyond it a difference of one rounding can cross to the next E4M3 number."""
    model = fp8_model(recipe)
    attention = model.model.layers[0].self_attn
    contexts: list[torch.Tensor] = []
    attention.o_proj.register_forward_pre_hook(lambda _, given: contexts.append(given[0]))

    def decode_last() -> torch.Tensor:
        cache = LatentCache(model.config.num_hidden_layers)
        model(input_ids=IDS_BT[:, :-1], past_key_values=cache)
        model(input_ids=IDS_BT[:, -1:], past_key_values=cache)
        return contexts[-1]

    model(input_ids=IDS_BT, use_cache=False)
    assert largest_change(contexts[0][:, -1:], decode_last()) <= 1e-5
    masters = nn.Linear(1, 1, bias=False)
    masters.weight = attention.kv_b_proj.weight
    attention.kv_b_proj = masters
    assert largest_change(contexts[0][:, -1:], decode_last()) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_an_adapter_sees_the_same_latents_cached_or_not(autocast: bool) -> None:
    """Under autocast to bfloat16's rounding: 5e-3, and 2e-2 to 4e-2 with other latents."""
    torch.manual_seed(0)
    options = LoraConfig(r=4, target_modules=["kv_b_proj"], lora_alpha=4)
    wrapped = get_peft_model(fp8_model(), options).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1)
    contexts: list[torch.Tensor] = []
    layer = wrapped.get_base_model().model.layers[0]
    layer.self_attn.o_proj.register_forward_pre_hook(lambda _, given: contexts.append(given[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        wrapped(input_ids=IDS_BT, use_cache=False)
        cache = LatentCache(3)
        wrapped(input_ids=IDS_BT[:, :-1], past_key_values=cache)
        wrapped(input_ids=IDS_BT[:, -1:], past_key_values=cache)
    whole, last = contexts[0][:, -1:].float(), contexts[-1].float()
    assert (whole - last).norm() <= (1e-2 if autocast else 1e-5) * whole.norm()


@torch.no_grad()
def test_cached_generation_follows_the_uncached_forward() -> None:
    model = fp8_model().eval()
    whole = model(input_ids=IDS_BT, use_cache=False).logits.log_softmax(-1)
    cache = LatentCache(model.config.num_hidden_layers)
    steps = [model(input_ids=IDS_BT[:, t : t + 1], past_key_values=cache) for t in range(24)]
    stepped = torch.cat([step.logits for step in steps], 1).log_softmax(-1)
    assert (whole - stepped).abs().mean() < 2e-2
    exact = ragged_model()(input_ids=IDS_BT).logits.log_softmax(-1)
    assert (whole - exact).abs().mean() > 2e-2


@torch.no_grad()
@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_born_on_the_grid_are_what_the_forward_pass_multiplies(recipe: Fp8Recipe) -> None:
    model = fp8_model(recipe)
    before = model(input_ids=IDS_BT).logits
    masters = copy.deepcopy(model.state_dict())
    snap_to_grid(model)
    assert torch.equal(model(input_ids=IDS_BT).logits, before)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, masters[n])}
    assert moved == {name for name, _, _ in fp8_parameters(model)}
    once = copy.deepcopy(model.state_dict())
    snap_to_grid(model)
    assert all(torch.equal(t, once[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_exported_model_computes_what_training_did(recipe: Fp8Recipe, tmp_path: Path) -> None:
    model = fp8_model(recipe).train()
    snap_to_grid(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):  # the masters leave the grid
        model(input_ids=IDS_BT, labels=IDS_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(tmp_path, fp8=True)
    loaded = SparringMoeForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(loaded.model.layers[0].self_attn.o_proj) is nn.Linear
    convert_to_fp8(loaded, recipe)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS_BT).logits, model(input_ids=IDS_BT).logits)
    sent, received = dict(fp8_tensors(model)), dict(fp8_tensors(loaded))
    assert sent.keys() == received.keys()
    for name, tensor in sent.items():
        if tensor.dtype != E4M3 and not name.endswith("_scale_inv"):
            assert torch.equal(tensor, received[name]), name


def test_an_adapter_wraps_a_converted_model_but_not_the_other_way_round() -> None:
    options = LoraConfig(r=4, target_modules=["kv_b_proj", "o_proj"], lora_alpha=64)
    wrapped = get_peft_model(fp8_model(), options)
    wrapped(input_ids=IDS_BT, labels=IDS_BT).loss.backward()
    adapters = [p for p in wrapped.parameters() if p.requires_grad]
    assert adapters and all(p.grad is not None for p in adapters)
    plain = get_peft_model(ragged_model(), options)
    with pytest.raises(ValueError, match=r"kv_b_proj is a Linear.*before wrapping"):
        convert_to_fp8(plain, RECIPES[0])
    assert not any(isinstance(module, Fp8Linear) for module in plain.modules())


def test_what_is_not_in_fp8_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not in FP8: call convert_to_fp8"):
        ragged_model().save_pretrained(tmp_path, fp8=True)
    with pytest.raises(ValueError, match=r"blocks of 128, this model of \[64\]"):
        fp8_model(Fp8Recipe(block=64)).save_pretrained(tmp_path, fp8=True)
    with pytest.raises(ValueError, match="Embedding has no attention"):
        convert_to_fp8(nn.Embedding(2, 2), RECIPES[0])
    assert not list(tmp_path.iterdir())
