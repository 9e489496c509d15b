"""Multi-token prediction: the layers against transformers' own, the loss by its definition.

Axes: B sequences, T tokens, D width, V vocabulary.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from parity_cases import YARN, padding_mask, tokens
from pipeline_cases import random_moe
from safetensors.torch import load_file, save_file
from stock_process import stock_logits
from torch import Tensor
from transformers.models.deepseek_v3 import DeepseekV3Config, DeepseekV3ForCausalLM
from trl import SFTConfig
from weights import ROUNDING, largest_change, make_weights_matter

from model.checkpoint.naming import load_checkpoint_tensors, named_checkpoint_tensors
from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.tensors import policy_tensors, served_tensors
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.run.cold_start import ColdStartTrainer

EMBEDDING_COPY = "model.layers.3.embed_tokens.weight"
HEAD_COPY = "model.layers.3.shared_head.head.weight"


def further(num_layers: int = 2, **overrides: object) -> SparringMoeForCausalLM:
    """Three layers and `num_layers` multi-token ones, with weights that matter."""
    config = tiny_config(40, num_nextn_predict_layers=num_layers, **overrides)
    return make_weights_matter(SparringMoeForCausalLM(config).train())


def layer_states(model: SparringMoeForCausalLM, ids_BT: Tensor, **inputs: Tensor) -> list[Tensor]:
    """What each depth hands to the head while training."""
    inputs = {"labels": ids_BT, **inputs}
    return [p.states_BUD for p in model.model(input_ids=ids_BT, **inputs).predictions]


def as_transformers(model: SparringMoeForCausalLM) -> torch.nn.Module:
    """transformers' own multi-token model, on these weights."""
    from transformers.modeling_layers import MtpModel

    config = DeepseekV3Config(**model.config.to_dict())
    stock = DeepseekV3ForCausalLM(config)
    own = dict(model.state_dict())
    num_layers, num_further = config.num_hidden_layers, config.num_nextn_predict_layers
    reference = MtpModel(stock, num_further)
    state = {"embed_tokens.weight": own["model.embed_tokens.weight"]}
    state["shared_head.weight"] = own["lm_head.weight"]
    for name, tensor in own.items():
        parts = name.split(".")
        if parts[1] != "layers" or int(parts[2]) < num_layers:
            continue
        rest = ".".join(parts[3:]).replace("shared_head.norm", "post_norm")
        if parts[3] not in ("enorm", "hnorm", "eh_proj", "shared_head"):
            rest = f"mtp_block.{rest}"
        state[f"layers.{int(parts[2]) - num_layers}.{rest}"] = tensor
    reference.load_state_dict(state, strict=True)
    return reference


def test_the_layers_equal_those_of_transformers() -> None:
    model = further(2, rope_parameters=YARN, q_lora_rank=48)
    reference, ids_BT = as_transformers(model), tokens(2, 20)
    outputs = model.model(input_ids=ids_BT, labels=ids_BT)
    states_BTD = outputs.last_hidden_state
    for depth, prediction in enumerate(outputs.predictions, start=1):
        shifted_BT = ids_BT[:, depth:-1]
        # Positions of the later token, as transformers takes them: RoPE sees differences only.
        positions_BT = torch.arange(depth, 19)[None]
        embedded = reference.embed_tokens(shifted_BT)
        length = embedded.shape[1]
        states_BTD = reference.layers[depth - 1](
            embedded,
            states_BTD[:, :length],
            reference.rotary_emb(embedded, position_ids=positions_BT),
            torch.ones(length, length, dtype=torch.bool).tril()[None, None],
            positions_BT,
            None,
        )
        assert largest_change(prediction.states_BUD, states_BTD) <= ROUNDING
        assert torch.equal(prediction.targets_BU, ids_BT[:, depth + 1 :])


def test_the_loss_is_the_weighted_mean_over_depths() -> None:
    model, ids_BT = further(2, mtp_loss_weight=0.5), tokens(2, 16)
    labels_BT = ids_BT.clone()
    labels_BT[0, :9] = -100
    outputs = model(input_ids=ids_BT, labels=labels_BT)
    losses = []
    for depth, states_BUD in enumerate(layer_states(model, ids_BT), start=1):
        logprobs = model.lm_head(states_BUD).log_softmax(-1)
        targets = labels_BT[:, depth + 1 :]
        picked = logprobs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        losses.append(-picked[targets >= 0].sum() / (labels_BT[:, 1:] >= 0).sum())
    expected = 0.5 * (losses[0] + losses[1]) / 2
    assert abs(outputs.mtp_loss - expected).item() <= 1e-6
    language = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten())
    assert abs(outputs.loss - language - expected).item() <= 1e-6


def test_without_labels_or_training_nothing_is_predicted_further() -> None:
    model, ids_BT = further(), tokens(2, 12)
    assert model(input_ids=ids_BT).mtp_loss is None
    model.eval()
    outputs = model(input_ids=ids_BT, labels=ids_BT)
    plain = SparringMoeForCausalLM(tiny_config(40)).eval()
    main = {n: t for n, t in model.state_dict().items() if n in plain.state_dict()}
    plain.load_state_dict(main)
    assert outputs.mtp_loss is None
    assert torch.equal(outputs.logits, plain(input_ids=ids_BT).logits)


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
def test_sequences_too_short_for_a_depth_have_no_loss_there(num_tokens: int) -> None:
    model = further()
    outputs = model.model(input_ids=tokens(2, num_tokens), labels=tokens(2, num_tokens))
    assert len(outputs.predictions) == max(0, num_tokens - 2)


@pytest.mark.parametrize("positions", [None, torch.arange(20)[None]], ids=["counted", "given"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_neither_predicts_nor_is_predicted(side: str, positions: Tensor | None) -> None:
    model, ids_BT = further(), tokens(2, 20)
    mask_BT = padding_mask([20, 11], 20, side)
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    padded = model(ids_BT, mask_BT, positions, labels=labels_BT).mtp_loss
    rows = [ids[mask.bool()][None] for ids, mask in zip(ids_BT, mask_BT, strict=True)]
    # With padding on the left, the language model's loss also counts the first real token.
    num_items = (labels_BT[:, 1:] != -100).sum()
    alone = [model(input_ids=r, labels=r, num_items_in_batch=num_items).mtp_loss for r in rows]
    assert abs(padded - sum(alone)).item() <= 1e-6


def test_documents_of_a_packed_row_do_not_predict_each_other() -> None:
    model, ids_BT = further(), tokens(1, 20)
    documents = ids_BT.split([12, 2, 6], dim=1)
    positions_BT = torch.cat([torch.arange(part.shape[1]) for part in documents])[None]
    count = {"num_items_in_batch": torch.tensor(17)}
    packed = model(input_ids=ids_BT, labels=ids_BT, position_ids=positions_BT, **count).mtp_loss
    alone = [model(input_ids=part, labels=part, **count).mtp_loss for part in documents]
    assert alone[1] is None  # two tokens: none has a token after the next
    assert abs(packed - alone[0] - alone[2]).item() <= 1e-6


def test_the_loss_is_divided_by_the_items_of_the_whole_batch() -> None:
    model, ids_BT = further(), tokens(2, 10)
    given = model(input_ids=ids_BT, labels=ids_BT, num_items_in_batch=torch.tensor(50))
    own = model(input_ids=ids_BT, labels=ids_BT)
    assert given.mtp_loss.item() == pytest.approx(own.mtp_loss.item() * 18 / 50)
    assert given.loss.item() == pytest.approx(own.loss.item() * 18 / 50)


def test_embeddings_may_be_given_in_place_of_tokens() -> None:
    model, ids_BT = further(), tokens(2, 12)
    embedded_BTD = model.model.embed_tokens(ids_BT)
    given = model(inputs_embeds=embedded_BTD, labels=ids_BT)
    assert torch.equal(given.mtp_loss, model(input_ids=ids_BT, labels=ids_BT).mtp_loss)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_gradients(reentrant: bool) -> None:
    plain, checkpointed, ids_BT = further(), further(), tokens(2, 12)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for model in (plain, checkpointed):
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert a.grad.any() and largest_change(a.grad, b.grad) <= 1e-6, name
    for layer, load_E in plain.router_load().items():
        assert torch.equal(load_E, checkpointed.router_load()[layer])


def test_its_routers_are_balanced_but_not_replayed() -> None:
    model, ids_BT = further(), tokens(2, 12)
    mask_BT = padding_mask([12, 7], 12, "right")
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
    recorded = model(**inputs, record=True)
    assert recorded.routed_experts.shape == (2, 12, 2, 2)  # the two layers with experts below
    load = model.router_load()
    assert [int(load_E.sum()) for load_E in load.values()] == [38, 38, 2 * 15, 2 * 13]
    model.update_router_bias(0.001)
    assert model.routers()[4].e_score_correction_bias.any()
    replayed = model(**inputs, routed_experts=recorded.routed_experts)
    assert replayed.mtp_loss is not None and model.router_load()[3].sum() == 0


def test_the_balance_loss_includes_its_layers() -> None:
    ids_BT = tokens(2, 12)
    with_layers = further(1, aux_loss_alpha=0.1)(input_ids=ids_BT, labels=ids_BT)
    without = further(0, aux_loss_alpha=0.1)(input_ids=ids_BT, labels=ids_BT)
    assert 0.05 < (with_layers.aux_loss - without.aux_loss).item() < 0.5


def test_training_lowers_its_loss() -> None:
    torch.manual_seed(0)
    model = SparringMoeForCausalLM(tiny_config(40, num_nextn_predict_layers=1)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    starts_B1 = torch.randint(0, 40, (8, 1))
    ids_BT = (starts_B1 + 3 * torch.arange(16)) % 40  # the next token follows from the last
    losses = []
    for _ in range(25):
        outputs = model(input_ids=ids_BT, labels=ids_BT)
        losses.append(outputs.mtp_loss.item() / model.config.mtp_loss_weight)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    assert losses[0] > 3 and losses[-1] < 0.5 * losses[0], losses


@pytest.mark.parametrize(("num_items", "divided_by"), [(14, 2), (None, 1)])
def test_the_cold_start_trains_them(num_items: int | None, divided_by: int, tmp_path: Path) -> None:
    config = SFTConfig(
        output_dir=str(tmp_path), report_to="none", bf16=False, gradient_checkpointing=False,
        use_cpu=not torch.accelerator.is_available(), gradient_accumulation_steps=2,
    )  # fmt: skip
    tokenizer = character_tokenizer()
    model = random_moe(tokenizer, num_nextn_predict_layers=1)
    rows = Dataset.from_list([{"input_ids": list(range(5, 13))}] * 4)
    trainer = ColdStartTrainer(
        model=model, args=config, train_dataset=rows, processing_class=tokenizer
    )
    trainer.current_gradient_accumulation_steps = 2  # as set when training begins
    ids_BT = torch.arange(16).view(2, 8)
    inputs = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT}
    count = None if num_items is None else torch.tensor(num_items)
    loss = trainer.compute_loss(model.train(), dict(inputs), num_items_in_batch=count)
    own = model(**inputs)
    language = own.loss - own.mtp_loss
    assert abs(loss - language - own.mtp_loss / divided_by).item() <= 1e-5
    loss.backward()
    assert model.model.layers[2].eh_proj.weight.grad.any()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    further(1).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_the_disk_has_deepseek_names(saved: Path) -> None:
    on_disk = load_file(saved / "model.safetensors")
    own = {name.removeprefix("model.layers.3.") for name in on_disk if ".layers.3." in name}
    last = {name.removeprefix("model.layers.2.") for name in on_disk if ".layers.2." in name}
    added = {"enorm", "hnorm", "eh_proj", "embed_tokens", "shared_head.norm", "shared_head.head"}
    assert own - last == {f"{name}.weight" for name in added} and last < own
    assert torch.equal(on_disk[EMBEDDING_COPY], on_disk["model.embed_tokens.weight"])
    assert torch.equal(on_disk[HEAD_COPY], on_disk["lm_head.weight"])


@pytest.mark.parametrize("max_shard_size", ["1GB", "200KB"])
def test_a_round_trip_is_bit_equal(tmp_path: Path, max_shard_size: str) -> None:
    model = further(2)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    theirs = SparringMoeForCausalLM.from_pretrained(tmp_path).state_dict()
    assert theirs.keys() == model.state_dict().keys()
    assert all(torch.equal(t, theirs[name]) for name, t in model.state_dict().items())
    other = further(2)
    torch.nn.init.zeros_(other.model.layers[4].eh_proj.weight)
    load_checkpoint_tensors(other, named_checkpoint_tensors(model))
    assert all(torch.equal(t, theirs[name]) for name, t in other.state_dict().items())


@pytest.mark.parametrize("name", [EMBEDDING_COPY, HEAD_COPY])
def test_a_copy_may_be_left_out_but_not_differ(saved: Path, name: str) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    tensors[name][0, 0] += 1
    save_file(tensors, file, {"format": "pt"})
    message = f"tensor {name} differs from (model.embed_tokens|lm_head).weight"
    with pytest.raises(ValueError, match=message):
        SparringMoeForCausalLM.from_pretrained(saved)
    with pytest.raises(ValueError, match=message):
        load_checkpoint_tensors(further(1), tensors.items())
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    SparringMoeForCausalLM.from_pretrained(saved)
    load_checkpoint_tensors(further(1), tensors.items())


def test_a_missing_tensor_is_named(saved: Path) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.3.eh_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.layers\.3\.eh_proj\.weight is missing"):
        SparringMoeForCausalLM.from_pretrained(saved)


def test_engines_are_sent_all_but_the_multi_token_layers(saved: Path) -> None:
    model = SparringMoeForCausalLM.from_pretrained(saved)
    sent = {name: tuple(tensor.shape) for name, tensor in served_tensors(model)}
    assert sent == checkpoint_manifest(saved)
    whole = dict(policy_tensors(model))
    assert sent.keys() == {name for name in whole if not name.startswith("model.layers.3.")}
    assert len(whole) > len(sent)


def test_stock_transformers_loads_the_model_without_them(saved: Path, tmp_path: Path) -> None:
    ids_BT = tokens(2, 24)
    ours = SparringMoeForCausalLM.from_pretrained(saved)(input_ids=ids_BT).logits
    assert largest_change(ours, stock_logits(saved, ids_BT, tmp_path)) <= ROUNDING
