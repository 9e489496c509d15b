"""Training the indexer: its loss by definition, what it reaches, and that it learns to select.

Axes: B sequences, T tokens, S keys, H heads.
"""

import pytest
import torch
from parity_cases import VOCAB, padding_mask, tokens
from sparse_cases import layer_inputs, recalls, scores_and_shares, sparse_model
from torch import Tensor
from weights import largest_change, make_weights_matter

from model.attention.indexer import LightningIndexer, freeze_all_but_indexers, select_keys
from model.configuration import tiny_config, tiny_sparse_config
from model.modeling import SparringMoeForCausalLM, SparringSparseForCausalLM


def loss_by_definition(model: SparringSparseForCausalLM, ids_BT: Tensor, kind: str) -> float:
    """Eqs. 3 and 4 of 2512.02556 in float64, one query at a time."""
    model.set_attention(kind)
    total = 0.0
    for attention, x_BTD, rotations_BT1P in layer_inputs(model, ids_BT):
        scores_BTS, shares_BHTS = scores_and_shares(attention, x_BTD, rotations_BT1P)
        for b in range(ids_BT.shape[0]):
            for t in range(ids_BT.shape[1]):
                keys = torch.arange(t + 1)
                if kind == "sparse" and t >= attention.indexer.num_selected:
                    keys = scores_BTS[b, t, : t + 1].topk(attention.indexer.num_selected).indices
                by_head = shares_BHTS[b, :, t, keys].double()
                target = (by_head / by_head.sum(-1, keepdim=True)).sum(0)
                target = target / target.sum()
                share = scores_BTS[b, t, keys].double().softmax(-1)
                total += (target * (target / share).log()).sum().item()
    return total / ids_BT.numel()


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("block_numbers", [1 << 25, 3000])
def test_the_loss_is_the_papers(
    kind: str, block_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.attention.layout.BLOCK_NUMBERS", block_numbers)
    model, ids_BT = sparse_model(index_topk=6), tokens(2, 20)
    wanted = loss_by_definition(model, ids_BT, kind)
    assert model(input_ids=ids_BT).indexer_loss.item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_padding_bears_no_loss(kind: str) -> None:
    model, ids_BT = sparse_model(index_topk=6), tokens(2, 20)
    model.set_attention(kind)
    alone = [model(input_ids=ids_BT[:1]).indexer_loss, model(ids_BT[1:, :13]).indexer_loss]
    padded = model(ids_BT, attention_mask=padding_mask([20, 13], 20, "right")).indexer_loss
    assert padded.item() == pytest.approx((20 * alone[0] + 13 * alone[1]).item() / 33, rel=1e-5)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_padding_on_the_left_bears_no_loss_and_spoils_no_gradient(kind: str) -> None:
    model, ids_BT = sparse_model(index_topk=6), tokens(2, 20)
    model.set_attention(kind)
    alone = [model(input_ids=ids_BT[:1]).indexer_loss, model(ids_BT[1:, 7:]).indexer_loss]
    mask_BT = padding_mask([20, 13], 20, "left")
    outputs = model(ids_BT, attention_mask=mask_BT, labels=ids_BT.masked_fill(mask_BT == 0, -100))
    wanted = (20 * alone[0] + 13 * alone[1]).item() / 33
    assert outputs.indexer_loss.item() == pytest.approx(wanted, rel=1e-5)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_two_losses_train_apart(kind: str) -> None:
    model, ids_BT = sparse_model(index_topk=6), tokens(2, 20)
    model.set_attention(kind)
    for loss, wanted in (("indexer_loss", True), ("loss", False)):
        model.zero_grad(set_to_none=True)
        outputs = model(input_ids=ids_BT, labels=ids_BT)
        of_indexer = outputs.indexer_loss
        (of_indexer if loss == "indexer_loss" else outputs.loss - of_indexer).backward()
        for name, parameter in model.named_parameters():
            moved = parameter.grad is not None and bool(parameter.grad.any())
            assert moved == ((".indexer." in name) == wanted), name


def test_there_is_a_loss_only_where_an_indexer_trains() -> None:
    model, ids_BT = sparse_model(), tokens(2, 20)
    assert model(input_ids=ids_BT).indexer_loss is not None
    with torch.no_grad():
        assert model(input_ids=ids_BT).indexer_loss is None
    assert model.eval()(input_ids=ids_BT).indexer_loss is None
    model.train()
    for module in model.modules():
        if isinstance(module, LightningIndexer):
            module.requires_grad_(False)
    assert model(input_ids=ids_BT).indexer_loss is None


def test_a_dense_model_has_no_indexer_to_train() -> None:
    with pytest.raises(ValueError, match="SparringMoeForCausalLM has no indexer to train"):
        freeze_all_but_indexers(SparringMoeForCausalLM(tiny_config(VOCAB)))


def test_the_two_stages_teach_the_indexer_to_select() -> None:
    model = sparse_model(num_hidden_layers=2)
    held_out_BT = tokens(4, 64, seed=999)
    untrained = recalls(model, held_out_BT)
    frozen = {n: p.clone() for n, p in model.named_parameters() if ".indexer." not in n}

    model.set_attention("dense")
    freeze_all_but_indexers(model)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    losses = []
    for step in range(100):
        outputs = model(input_ids=tokens(4, 64, seed=step))
        optimizer.zero_grad()
        outputs.indexer_loss.backward()
        optimizer.step()
        losses.append(outputs.indexer_loss.item())
    assert losses[-1] < 0.4 * losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    trained = recalls(model, held_out_BT)
    for layer in range(2):
        rivals = max(untrained["indexer"][layer], trained["window"][layer])
        assert rivals + 0.05 < trained["indexer"][layer] <= trained["best"][layer]

    model.set_attention("sparse")
    model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    steps = []
    for _ in range(12):
        outputs = model(input_ids=held_out_BT, labels=held_out_BT)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        steps.append((outputs.loss - outputs.indexer_loss).item())
    assert steps[-1] < 0.8 * steps[0]


@pytest.mark.parametrize("warms_up", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_gradients(reentrant: bool, warms_up: bool) -> None:
    plain, checkpointed = sparse_model(), sparse_model()
    for model in (plain, checkpointed) if warms_up else ():
        model.set_attention("dense")
        freeze_all_but_indexers(model)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    losses = []
    for model in (plain, checkpointed):
        outputs = model(input_ids=tokens(2, 30), labels=tokens(2, 30))
        outputs.loss.backward()
        losses.append((outputs.loss.item(), outputs.indexer_loss.item()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        if a.requires_grad:
            assert a.grad is not None and largest_change(a.grad, b.grad) <= 1e-6, name


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_autocast_trains_near_float32(kind: str) -> None:
    model, ids_BT = sparse_model(), tokens(2, 30)
    model.set_attention(kind)
    exact = model(input_ids=ids_BT, labels=ids_BT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(input_ids=ids_BT, labels=ids_BT)
        rough.loss.backward()
        with torch.no_grad():
            model.eval().generate(ids_BT, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert rough.indexer_loss.item() == pytest.approx(exact.indexer_loss.item(), rel=0.1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_multi_token_layers_have_an_indexer_that_trains() -> None:
    config = tiny_sparse_config(VOCAB, num_nextn_predict_layers=1)
    model, ids_BT = make_weights_matter(SparringSparseForCausalLM(config)), tokens(2, 30)
    model(input_ids=ids_BT, labels=ids_BT).loss.backward()
    assert model.model.layers[3].self_attn.indexer.wk.weight.grad.any()


def test_head_weights_are_scaled_as_the_reference_scales_scores() -> None:
    """Selection does not show this factor, 1/sqrt(heads) and 1/sqrt(width); the loss needs it."""
    indexer = sparse_model(index_n_heads=8, index_head_dim=32).model.layers[0].self_attn.indexer
    x_BTD, turns = torch.randn(1, 2, 128), torch.ones(1, 2, 1, 8, dtype=torch.complex64)
    _, weights_BTJ = indexer.queries(x_BTD, torch.randn(1, 2, 48), turns)
    assert largest_change(weights_BTJ, indexer.weights_proj(x_BTD) * 8**-0.5 * 32**-0.5) <= 1e-6


def test_selection_of_everything_is_the_visible_set() -> None:
    visible = torch.ones(1, 5, 5, dtype=torch.bool).tril()
    indices, valid = select_keys(torch.randn(1, 5, 5), visible, 5)
    assert valid.sum(-1).tolist() == [[1, 2, 3, 4, 5]] and indices.shape == (1, 5, 5)
