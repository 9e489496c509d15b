"""One pass over a batch of rollouts learns what two learn, and is taken only where it may be."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pipeline_cases import learner_role, random_moe, save

from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.sample import Sample, Scored
from pipelines.training.trainer import RoleTrainer

GROUP = 4
PROMPTS = ("a4b1\n", "a9b3\n")
REWARDS: Sequence[float | None] = (1.0, None, 0.5, 0.0) * 2  # a masked row among them
BATCH = {"per_device_train_batch_size": GROUP * len(PROMPTS), "num_generations": GROUP}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("pass") / "moe")


def _played(
    checkpoint: Path, two_passes: bool = False, **options: object
) -> tuple[RoleTrainer, list[dict], list[bool]]:
    """A role after one block, its metrics, and for each pass of its policy whether it may learn.

    Args:
        two_passes: score without gradients and run the policy again for the loss, as TRL does.
    """
    rows: list[dict] = []
    role = learner_role(RoleTrainer, checkpoint, rows.append, **{**BATCH, **options})
    if two_passes:
        role.passes.keeps_graph = False
    passes: list[bool] = []
    role.policy.model.register_forward_pre_hook(
        lambda module, _: passes.append(torch.is_grad_enabled()) if module.training else None
    )

    def score(indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        return [Scored(REWARDS[index % len(REWARDS)]) for index in range(len(samples))]

    role.play(PROMPTS * (role.args.generation_batch_size // 8), score, "block")
    return role, rows, passes


def _gradient(role: RoleTrainer) -> torch.Tensor:
    """What the only update was made of: after one step Adam's first moment is 0.1 of it."""
    moments = [role.optimizer.state[p]["exp_avg"] for p in role.policy.parameters()]
    return torch.cat([moment.flatten() for moment in moments])


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_one_pass_learns_what_two_learn(checkpoint: Path, beta: float) -> None:
    """Gradients, not parameters: where one is near 0 Adam's first step is the sign of a rounding.

    The passes sum in different orders. Each of the some hundred float32 operations between a weight
    and the loss then rounds by up to 6e-8, on whichever processor: 1e-5 of the gradient in all. A
    pass over other rows, or one that was learned from twice, differs by as much as the gradient.
    """
    one, one_rows, one_passes = _played(checkpoint, beta=beta)
    two, two_rows, two_passes = _played(checkpoint, two_passes=True, beta=beta)
    assert one_passes == [True] and two_passes == [False, True]
    ours, theirs = _gradient(one), _gradient(two)
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= 1e-4 * theirs.norm()
    for row, other in zip(one_rows, two_rows, strict=True):
        for key in ("policy/loss", "policy/grad_norm", "rollout/mismatch_max", "policy/clip_ratio"):
            assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"gradient_accumulation_steps": 2}, id="several micro-batches"),
        pytest.param({"num_iterations": 2}, id="several updates"),
        pytest.param({"gradient_checkpointing": True}, id="checkpointing"),
    ],
)
def test_batches_of_several_updates_or_micro_batches_are_scored_first(
    checkpoint: Path, options: dict[str, object]
) -> None:
    passes = _played(checkpoint, **options)[2]
    assert passes[0] is False and True in passes


def test_a_model_with_losses_of_its_own_is_scored_first(tmp_path: Path) -> None:
    policy = random_moe(character_tokenizer(), aux_loss_alpha=0.1)
    _, rows, passes = _played(save(policy, tmp_path / "moe"))
    assert passes == [False, True] and rows[0]["moe/balance_loss"] > 0
