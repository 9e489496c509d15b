"""The balance of a mixture of experts in TRL's trainers: its loss, its bias, its metrics."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from pipeline_cases import learner_role, random_moe, save
from torch import Tensor
from trl import GRPOConfig, SFTConfig
from weights import largest_change

from pipelines.errors import UserError
from pipelines.policy.moe import freeze_multi_token_layers, moe_of
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.sample import Sample, Scored
from pipelines.run.cold_start import ColdStartTrainer
from pipelines.training.moe_losses import collected_losses, summarised_balance
from pipelines.training.replay import check_replay
from pipelines.training.role_spec import RoleSpec
from pipelines.training.trainer import RoleTrainer

PROMPTS = ("a4b1\n", "a9b3\n")
ALPHA = 0.5


@pytest.fixture(scope="module", params=[0.0, ALPHA])
def alpha(request: pytest.FixtureRequest) -> float:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(alpha: float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_moe(character_tokenizer(), aux_loss_alpha=alpha)
    return save(model, tmp_path_factory.mktemp("balance") / "moe")


def same_reward(_indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
    """Advantages are 0: whatever the loss holds is the model's own."""
    return [Scored(1.0)] * len(samples)


def play(checkpoint: Path, **options: object) -> tuple[RoleTrainer, dict[str, object]]:
    """One step on eight completions; the role and its metrics."""
    rows: list[dict[str, object]] = []
    role = learner_role(RoleTrainer, checkpoint, rows.append, num_generations=4, **options)
    role.play(PROMPTS, same_reward, "round 0")
    return role, rows[0]


def router_weights(role: RoleTrainer) -> Tensor:
    return role.policy.routers()[1].weight.detach()


def test_grpo_trains_on_the_balance_loss_whatever_the_accumulation(
    checkpoint: Path, alpha: float
) -> None:
    start = learner_role(RoleTrainer, checkpoint)
    whole, row = play(checkpoint, per_device_train_batch_size=8)
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    halves_row = play(checkpoint, **halves)[1]
    moved = largest_change(router_weights(whole), router_weights(start))
    if not alpha:
        assert moved == 0 and row["policy/loss"] == 0 and "moe/balance_loss" not in row
        return
    assert moved > 1e-3
    assert row["policy/loss"] == pytest.approx(row["moe/balance_loss"], rel=1e-4)
    assert alpha / 2 < row["moe/balance_loss"] < 4 * alpha
    # The mean over sequences of two halves is that of the whole.
    for name in ("policy/loss", "moe/balance_loss", "policy/grad_norm"):
        assert halves_row[name] == pytest.approx(row[name], rel=1e-3), name


def test_every_parameter_that_trains_gets_a_gradient(tmp_path: Path) -> None:
    """DDP waits for one of each, and GRPO's loss reaches no multi-token layer."""
    further = {"num_nextn_predict_layers": 1, "num_hidden_layers": 2}
    directory = save(random_moe(character_tokenizer(), **further), tmp_path / "moe")
    role, _ = play(directory, per_device_train_batch_size=8)
    trained = {name for name, p in role.policy.named_parameters() if p.requires_grad}
    moved = {name for name, p in role.policy.named_parameters() if p in role.optimizer.state}
    assert trained and moved == trained and "model.layers.2.eh_proj.weight" not in trained

    adapter = LoraConfig(r=2, target_modules=["o_proj"])
    adapted = get_peft_model(random_moe(character_tokenizer(), **further), adapter)
    freeze_multi_token_layers(adapted)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained and not any(".layers.2." in name for name in trained)


def test_a_model_of_dense_layers_alone_trains(tmp_path: Path) -> None:
    """`first_k_dense_replace` may name every layer: then nothing routes or is replayed."""
    model = random_moe(character_tokenizer(), first_k_dense_replace=2)
    role, row = play(save(model, tmp_path / "dense"), per_device_train_batch_size=8)
    assert role.num_steps == 1 and not any(name.startswith("moe/") for name in row)
    with pytest.raises(UserError, match="has no routed experts"):
        check_replay("learner", model, 0.0)


def test_a_step_logs_the_balance_and_moves_the_bias(checkpoint: Path) -> None:
    role, row = play(checkpoint, per_device_train_batch_size=8)
    assert row["moe/utilisation_token"] == 2 / 8
    assert list(row["moe/layers"]) == ["1"]
    assert row["moe/max_violation"] == row["moe/max_over_mean"] - 1 >= 0
    assert 0 < row["moe/utilisation_effective"] <= row["moe/utilisation_batch"] <= 1
    start = learner_role(RoleTrainer, checkpoint).policy.routers()[1]
    bias_E = role.policy.routers()[1].e_score_correction_bias
    assert largest_change(bias_E, start.e_score_correction_bias) == pytest.approx(1e-3, rel=1e-3)
    assert role.expert_load.by_layer[1].sum() > 0 and not role.policy.router_load()[1].any()


@pytest.mark.parametrize(("num_items", "divided_by"), [(16, 2), (None, 1)])
def test_sft_adds_the_balance_loss_once_an_optimizer_step(
    checkpoint: Path, alpha: float, num_items: int | None, divided_by: int, tmp_path: Path
) -> None:
    config = SFTConfig(
        output_dir=str(tmp_path), report_to="none", bf16=False, gradient_checkpointing=False,
        use_cpu=not torch.accelerator.is_available(), gradient_accumulation_steps=2,
    )  # fmt: skip
    tokenizer = character_tokenizer()
    model = random_moe(tokenizer, aux_loss_alpha=alpha)
    rows = Dataset.from_list([{"input_ids": list(range(5, 13))}] * 4)
    trainer = ColdStartTrainer(
        model=model, args=config, train_dataset=rows, processing_class=tokenizer
    )
    trainer.current_gradient_accumulation_steps = 2  # as set when training begins
    ids_BT = torch.arange(16).view(2, 8)
    inputs = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT}
    count = None if num_items is None else torch.tensor(num_items)
    losses = []
    for weight in (alpha, 0.0):  # the layer reads its weight on each pass
        model.train().model.layers[1].mlp.aux_loss_alpha = weight
        losses.append(trainer.compute_loss(model, dict(inputs), num_items_in_batch=count))
    with collected_losses(model) as found, torch.enable_grad():
        model.model.layers[1].mlp.aux_loss_alpha = alpha
        model(input_ids=ids_BT)
    expected = sum(found["aux_loss"], torch.zeros(())) / divided_by
    assert bool(expected > 0) == bool(alpha)
    assert largest_change(losses[0] - losses[1], expected) <= 1e-5


def test_an_adapter_gets_the_metrics_but_no_moving_bias(checkpoint: Path) -> None:
    adapted = get_peft_model(
        random_moe(character_tokenizer()), LoraConfig(r=2, target_modules=["o_proj"])
    )
    assert moe_of(adapted) is adapted.get_base_model()
    with pytest.raises(UserError, match="router_bias_rate must be 0 with a LoRA"):
        RoleSpec("learner", GRPOConfig(use_cpu=True, bf16=False), 1, router_bias_rate=0.1).check(
            adapted
        )


def test_the_summary_takes_the_worst_violation_and_mean_shares() -> None:
    shares = {"utilisation_token": 0.25, "utilisation_batch": 1.0, "utilisation_effective": 0.8}
    worst = {"max_over_mean": 3.0, "max_violation": 2.0, "dead_experts": 1.0, **shares}
    other = {**worst, "max_over_mean": 1.5, "max_violation": 0.5, "utilisation_effective": 0.6}
    summary = summarised_balance({1: other, 2: worst})
    assert summary["moe/max_over_mean"] == 3 and summary["moe/dead_experts"] == 2
    assert summary["moe/utilisation_effective"] == pytest.approx(0.7)
    assert summary["moe/layers"]["1"]["max_over_mean"] == 1.5
    assert summarised_balance({}) == {}
