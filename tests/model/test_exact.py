"""Our models are transformers' V3 and V3.2 on random configs, batches and caches, exactly.

A token whose last chosen expert (or key) beats the best one left out by less than float32's noise
may be routed differently by two correct programs, so a batch in which some margin is below `TIE`
says nothing and is not drawn. Matrices have gain 1: at the 1.3 of the other tests, deep and narrow
ones of these models amplify float32's rounding, ours as transformers', to 3e-5.

Axes: B sequences, T tokens, S keys, N = B * T, E experts, G groups.
"""

from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from parity_cases import VOCAB, padding_mask, pair
from sparse_cases import sparse_pair
from torch import Tensor
from transformers.models.deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding
from weights import largest_change

from model.attention.cache import LatentCache
from model.attention.indexer import index_scores
from model.attention.rope import rotations
from model.attention.sparse import SparseLatentAttention
from model.configuration import tiny_config
from model.experts.router import Router
from model.modeling import SparringMoeForCausalLM

TIE = 1e-5  # scores lie in [0, 1] and agree to about 1e-6
SLOW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Case:
    """One random model and batch."""

    overrides: dict[str, object]
    seed: int
    lengths: list[int]
    side: str
    cuts: list[int]

    def pair(self) -> tuple[SparringMoeForCausalLM, torch.nn.Module]:
        build = sparse_pair if "index_topk" in self.overrides else pair
        return build(self.overrides, self.seed, gain=1.0)

    @property
    def ids_BT(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(0, VOCAB, (len(self.lengths), max(self.lengths)), generator=generator)

    @property
    def mask_BT(self) -> Tensor | None:
        """None where nothing is padded, so that both ways to say so are drawn."""
        if len(set(self.lengths)) == 1:
            return None
        return padding_mask(self.lengths, max(self.lengths), self.side)

    @property
    def real_BT(self) -> Tensor:
        return padding_mask(self.lengths, max(self.lengths), self.side).bool()


@st.composite
def ropes(draw: st.DrawFn) -> dict[str, object]:
    theta = draw(st.sampled_from([100.0, 10000.0, 50000.0]))
    if draw(st.booleans()):
        return {"rope_type": "default", "rope_theta": theta}
    yarn = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": draw(st.sampled_from([1.0, 2.0, 4.5, 40.0])),
        "original_max_position_embeddings": draw(st.sampled_from([16, 64, 4096])),
    }
    optional = {
        "mscale": st.sampled_from([0.0, 0.707, 1.0]),
        "mscale_all_dim": st.sampled_from([0.0, 0.707, 1.0]),
        "beta_fast": st.sampled_from([16, 32.0]),
        "beta_slow": st.sampled_from([1, 2.5]),
        "truncate": st.booleans(),
        "attention_factor": st.sampled_from([0.8, 1.2]),
    }
    for key, values in optional.items():
        if draw(st.booleans()):
            yarn[key] = draw(values)
    return yarn


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, object]:
    """Overrides of the tiny config: every width and number that the architecture has."""
    num_groups = draw(st.sampled_from([1, 2, 4]))
    a_group = draw(st.integers(2, 4))
    groups_kept = draw(st.integers(1, num_groups))
    num_layers = draw(st.integers(1, 3))
    return {
        "hidden_size": draw(st.sampled_from([32, 48])),
        "intermediate_size": draw(st.sampled_from([24, 64])),
        "moe_intermediate_size": draw(st.sampled_from([8, 24])),
        "num_hidden_layers": num_layers,
        "first_k_dense_replace": draw(st.integers(0, num_layers)),
        "num_attention_heads": draw(st.integers(1, 4)),
        "n_group": num_groups,
        "n_routed_experts": num_groups * a_group,
        "topk_group": groups_kept,
        "num_experts_per_tok": draw(st.integers(1, min(6, groups_kept * a_group))),
        "n_shared_experts": draw(st.integers(1, 2)),
        "norm_topk_prob": draw(st.booleans()),
        "routed_scaling_factor": draw(st.sampled_from([1.0, 1.7, 2.5])),
        "kv_lora_rank": draw(st.sampled_from([8, 24])),
        "q_lora_rank": draw(st.sampled_from([None, 8, 24])),
        "qk_nope_head_dim": draw(st.sampled_from([4, 16])),
        "qk_rope_head_dim": draw(st.sampled_from([2, 8, 16])),
        "v_head_dim": draw(st.sampled_from([4, 12, 32])),
        "rope_parameters": draw(ropes()),
    }


@st.composite
def sparse_shapes(draw: st.DrawFn) -> dict[str, object]:
    """The same with an indexer, of heads enough that few scores are 0 for all of them."""
    shape = draw(shapes())
    return {
        **shape,
        "q_lora_rank": draw(st.sampled_from([8, 24])),
        "index_topk": draw(st.integers(1, 12)),
        "index_n_heads": draw(st.integers(6, 9)),
        "index_head_dim": shape["qk_rope_head_dim"] + draw(st.sampled_from([0, 4, 16])),
    }


@st.composite
def cases(draw: st.DrawFn, of: st.SearchStrategy = shapes()) -> Case:  # noqa: B008 - a recipe
    lengths = draw(st.lists(st.integers(2, 20), min_size=1, max_size=3))
    cuts = draw(st.sets(st.integers(1, max(lengths) - 1), max_size=3))
    return Case(
        overrides=draw(of),
        seed=draw(st.integers(0, 99)),
        lengths=lengths,
        side=draw(st.sampled_from(["left", "right"])),
        cuts=sorted(cuts),
    )


@torch.no_grad()
def smallest_margin(model: SparringMoeForCausalLM, case: Case) -> float:
    """By how much the closest choice of a real token was decided, over all layers."""
    margins = [torch.tensor(1.0)]

    def of_experts(router: Router, _: object, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        biased_NE = (outputs[2] + router.e_score_correction_bias)[case.real_BT.flatten()]
        by_group = biased_NE.unflatten(-1, (router.num_groups, -1))
        kept = router.num_groups_kept
        order_NG = by_group.topk(2).values.sum(-1).sort(-1, descending=True)
        margins.append(_margin(order_NG.values, kept))
        index = order_NG.indices[:, :kept, None].expand(-1, -1, by_group.shape[-1])
        margins.append(_margin(by_group.gather(1, index).flatten(1), router.num_selected))

    def of_keys(attention: SparseLatentAttention, inputs: tuple) -> None:
        x_BTD, turns_BT1P, layout, _ = inputs
        queries = attention.indexer.queries(
            x_BTD, attention._queries(x_BTD, turns_BT1P)[1], turns_BT1P
        )
        scores_BTS = index_scores(*queries, attention.indexer.keys(x_BTD, turns_BT1P))
        visible_BTS = layout.visible_BQS(slice(0, layout.num_tokens))
        scores_BTS = scores_BTS.masked_fill(~visible_BTS, -torch.inf)
        margins.append(_margin(scores_BTS[case.real_BT], attention.indexer.num_selected))

    hooks = [router.register_forward_hook(of_experts) for router in model.routers().values()]
    for layer in model.model.layers:
        if isinstance(layer.self_attn, SparseLatentAttention):
            hooks.append(layer.self_attn.register_forward_pre_hook(of_keys))
    model(input_ids=case.ids_BT, attention_mask=case.mask_BT)
    for hook in hooks:
        hook.remove()
    return torch.stack(margins).min().item()


def _margin(scores_NE: Tensor, num_selected: int) -> Tensor:
    """How far the last one chosen is ahead of the next; 1 where nothing is left out."""
    if num_selected >= scores_NE.shape[-1]:
        return torch.tensor(1.0)
    ordered_NE = scores_NE.sort(-1, descending=True).values
    last, following = ordered_NE[..., num_selected - 1], ordered_NE[..., num_selected]
    return torch.where(following.isinf(), 1.0, last - following).min()


@settings(SLOW, max_examples=100)
@given(rope=ropes(), width=st.sampled_from([2, 8, 32, 64]))
def test_rotations_equal_transformers(rope: dict[str, object], width: int) -> None:
    config = tiny_config(VOCAB, rope_parameters=rope, qk_rope_head_dim=width)
    reference = DeepseekV3RotaryEmbedding(DeepseekV3Config(**config.to_dict()))
    positions_BT = torch.tensor([[0, 1, 7, 131071]])
    cosine, sine = reference(torch.zeros(1), positions_BT)
    ours = torch.view_as_real(rotations(config, positions_BT))[:, :, 0]
    assert largest_change(ours[..., 0], cosine[..., : width // 2]) <= 1e-6
    assert largest_change(ours[..., 1], sine[..., : width // 2]) <= 1e-6


def gradients(model: torch.nn.Module, logits_BTV: Tensor, case: Case) -> dict[str, Tensor]:
    """Gradients of the mean loss, where a real token predicts a real one.

    transformers' own loss would, with padding on the left, also predict from padding.
    """
    predicts_BT = case.real_BT[:, :-1] & case.real_BT[:, 1:]
    targets = case.ids_BT[:, 1:][predicts_BT]
    loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1][predicts_BT], targets)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_logits_and_gradients(case: Case) -> None:
    ours, reference = case.pair()
    assume(smallest_margin(ours, case) > TIE)
    inputs = {"input_ids": case.ids_BT, "attention_mask": case.mask_BT, "use_cache": False}
    a, b = ours(**inputs).logits, reference(**inputs).logits
    assert largest_change(a[case.real_BT], b[case.real_BT]) <= 1e-5
    own = gradients(ours, a, case)
    for name, theirs in gradients(reference, b, case).items():
        error, scale = largest_change(own[name], theirs), theirs.abs().max().item()
        assert error <= 1e-5 * scale + 1e-6, f"{name}: {error} of {scale}"


@torch.no_grad()
def check_decoding_in_chunks(case: Case) -> None:
    """Absorbed attention to cached latents is transformers' on whole sequences."""
    ours, reference = case.pair()
    assume(smallest_margin(ours, case) > TIE)
    ids_BT, mask_BT, start = case.ids_BT, case.mask_BT, 0
    cache = LatentCache(ours.config.num_hidden_layers)
    logits = []
    for end in (*case.cuts, ids_BT.shape[1]):
        seen = None if mask_BT is None else mask_BT[:, :end]
        logits.append(ours(ids_BT[:, start:end], seen, past_key_values=cache).logits)
        start = end
    whole = reference(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    assert largest_change(torch.cat(logits, 1)[case.real_BT], whole[case.real_BT]) <= 1e-5


@SLOW
@given(case=cases())
def test_v3_logits_and_gradients(case: Case) -> None:
    check_logits_and_gradients(case)


@SLOW
@given(case=cases())
def test_v3_decoding_in_chunks(case: Case) -> None:
    check_decoding_in_chunks(case)


@SLOW
@given(case=cases(of=sparse_shapes()))
def test_v32_logits_and_gradients(case: Case) -> None:
    check_logits_and_gradients(case)


@SLOW
@given(case=cases(of=sparse_shapes()))
def test_v32_decoding_in_chunks(case: Case) -> None:
    check_decoding_in_chunks(case)
