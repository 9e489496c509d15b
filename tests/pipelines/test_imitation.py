"""Given replies are learned with TRL's loss: its gradient is that of the cross-entropy."""

from pathlib import Path

import pytest
import torch
from pipeline_cases import learner_role, random_moe, save

from pipelines.errors import UserError
from pipelines.policy.tensors import weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.training.trainer import RoleTrainer

TOKENIZER = character_tokenizer()
PROMPTS = ("a4b1\n", "a9b3c1\n", "a2b2\n", "a1b7c5\n", "a3\n", "a4b4\n", "a8b1\n", "a6b5c2\n")
REPLIES = ("a4=40\nb1=50>50", "a9=90", "a2=20\nb2=40>40", "c7", "a3=30>30", ">08", "a8=80", "b")


class WatchedRole(RoleTrainer):
    """Keeps the gradients of its last step."""

    def training_step(self, *given: object):  # type: ignore[no-untyped-def]
        loss = super().training_step(*given)
        self.gradients = {
            name: parameter.grad.clone()
            for name, parameter in self.policy.named_parameters()
            if parameter.grad is not None
        }
        return loss


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("imitation") / "moe")


def _role(checkpoint: Path, **options: object) -> WatchedRole:
    batch = {"per_device_train_batch_size": len(PROMPTS), "num_generations": 4}
    return learner_role(WatchedRole, checkpoint, rows.append, **{**batch, **options})


rows: list[dict[str, object]] = []


ACCUMULATED = {
    "steps_per_generation": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, ACCUMULATED], ids=["one pass", "accumulated"])
def test_the_gradient_is_that_of_the_cross_entropy(checkpoint: Path, options: dict) -> None:
    role = _role(checkpoint, learning_rate=0.0, **options)
    policy = role.policy
    expected = _cross_entropy(policy)
    rows.clear()
    role.imitate(PROMPTS, REPLIES, "lesson")
    assert role.replies_per_block(1) == len(PROMPTS)
    for name, gradient in expected.items():
        assert torch.allclose(role.gradients[name], gradient, rtol=1e-3, atol=1e-6), name
    assert {row["block"] for row in rows} == {"imitation"}
    likelihood = -sum(map(sum, role.score(PROMPTS, REPLIES)))
    assert 0 < float(str(rows[-1]["imitation/nll"])) < likelihood
    assert not any(name.startswith("rollout/mismatch") for row in rows for name in row)


def _cross_entropy(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gradients of the mean over all the replies' tokens, one sequence at a time."""
    asked = [TOKENIZER(text)["input_ids"] for text in PROMPTS]
    said = [[*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id] for text in REPLIES]
    count = sum(map(len, said))
    policy.zero_grad()
    for before, after in zip(asked, said, strict=True):
        ids_BT = torch.tensor([[*before, *after]])
        logits_BTV = policy(input_ids=ids_BT).logits
        predicted_TV = logits_BTV[0, len(before) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(predicted_TV, torch.tensor(after), reduction="sum")
        (loss / count).backward()
    gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    return gradients


def test_replies_become_likely_and_rollouts_go_on_after_them(checkpoint: Path) -> None:
    """An imitation between two blocks of rollouts: the sampler gets the weights it left."""
    role = _role(checkpoint)
    before = sum(map(sum, role.score(PROMPTS, REPLIES)))
    role.imitate(PROMPTS * 2, REPLIES * 2, "lesson")
    assert role.num_steps == 2
    assert sum(map(sum, role.score(PROMPTS, REPLIES))) > before
    seen = []

    def scorer(indices, samples):  # type: ignore[no-untyped-def]
        from pipelines.rollouts.sample import Scored

        seen.append(weights_hash(role.policy))
        assert role.sampler.engine.weights.version == role.num_steps
        return [Scored(float(index % 2)) for index in range(len(samples))]

    role.play(PROMPTS[:2], scorer, "after")
    assert role.num_steps == 3 and len(seen) == 1


@pytest.mark.parametrize("num", [0, 3])
def test_a_lesson_is_a_whole_number_of_batches(checkpoint: Path, num: int) -> None:
    with pytest.raises(UserError, match="positive multiple of the 8 prompts"):
        _role(checkpoint).imitate(PROMPTS[:num], REPLIES[:num], "lesson")


def test_a_lesson_may_have_a_rate_of_its_own(checkpoint: Path) -> None:
    """Adam's first step moves a weight by the rate: half of it, half as far."""
    moved, shown = {}, {}
    for factor in (1.0, 0.5):
        role = _role(checkpoint)
        before = {name: tensor.clone() for name, tensor in role.policy.named_parameters()}
        rows.clear()
        role.imitate(PROMPTS, REPLIES, "lesson", factor)
        after = dict(role.policy.named_parameters())
        moved[factor] = {name: after[name].detach() - tensor for name, tensor in before.items()}
        (row,) = rows
        shown[factor] = float(str(row["policy/learning_rate"]))
        (rate,) = {group["lr"] for group in role.optimizer.param_groups}
        assert rate == role.lr_scheduler.get_last_lr()[0] > 0, "scaled for the step alone"
    assert shown[0.5] == shown[1.0] / 2
    for name, whole in moved[1.0].items():
        assert torch.allclose(moved[0.5][name], whole / 2, rtol=1e-3, atol=1e-6), name
