"""A role trains in blocks: what must persist over `train()` calls, and what a reward may not do.

Rewards come from plain functions of this file: they are an input of the role. Models, trainers and
engines are the real ones.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch
from pipeline_cases import CONFIG, ENGINE, SHORT_RUN, learner_role, random_moe, save

from pipelines.errors import UserError
from pipelines.game.referee import Referee
from pipelines.policy.tensors import weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.sample import Sample, Scored
from pipelines.run.build import Roles, build_roles
from pipelines.run.tasks import run_tasks
from pipelines.settings.load import load_settings
from pipelines.settings.tables import Settings
from pipelines.training.trainer import RoleTrainer
from rewards.verifiers import Verifiers

GROUP = 4
STEP_WEIGHT = 0.5
STILL = {"router_bias_rate": 0.0}  # nothing but the loss moves the weights
TOKENIZER = character_tokenizer()
PROMPTS = ("a4b1\n", "a9b3\n")
Rewards = Sequence[float | None]


class Blocks:
    """A scorer that gives each completion of a block the reward at its place, and remembers."""

    def __init__(self, role: RoleTrainer, rewards: Rewards, steps: Sequence[tuple] = ()) -> None:
        self.role, self.rewards = role, rewards
        self.steps = steps or [()] * len(rewards)
        self.seen: list[dict[str, object]] = []

    def __call__(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        role = self.role
        self.seen.append({
            "global_step": role.num_steps, "engine": role.sampler.engine.weights.version,
            "weights": weights_hash(role.policy), "samples": list(samples),
            "syncs": role.sampler.sync.num_syncs if role.sampler.sync else None,
        })  # fmt: skip
        return [Scored(r, s) for r, s in zip(self.rewards, self.steps, strict=True)]


class WatchedRole(RoleTrainer):
    """Keeps what goes into the loss."""

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        self.batch = super()._generate_and_score_completions(inputs)
        return self.batch


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("roles") / "moe")


def _role(
    checkpoint: Path,
    on_step: Callable[[dict[str, object]], None] = lambda row: None,
    **options: object,
) -> WatchedRole:
    """Two prompts of four completions a step."""
    batch = {"per_device_train_batch_size": GROUP * len(PROMPTS), "num_generations": GROUP}
    return learner_role(WatchedRole, checkpoint, on_step, **{**batch, **options})


# -- blocks --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Roles, list]:
    """Both roles of a run, as a run builds them; the learning rate makes every step matter."""
    directory = tmp_path_factory.mktemp("run")
    overrides = [
        f"run.directory={directory}", f"learner.model={checkpoint}",
        f"critic.model={checkpoint}", *SHORT_RUN,
        "run.rounds=3", "learner.steps_per_round=1", "critic.steps_per_round=1",
        "critic.imitation_steps=0",
        "learner.router_bias_rate=0.01", "critic.router_bias_rate=0.01",
        *(f"{role}.grpo.{key}" for role in ("learner", "critic") for key in (
            "learning_rate=1e-2", "lr_scheduler_type=linear", "per_device_train_batch_size=8")),
    ]  # fmt: skip
    chosen: Settings = load_settings(CONFIG, overrides)
    rows: list[dict[str, object]] = []
    with closing(Verifiers(5.0)) as verifiers:
        tasks = run_tasks(chosen, Referee(chosen, verifiers))
        return build_roles(chosen, rows.append, tasks), rows


def test_one_step_blocks_of_two_roles(built: tuple[Roles, list]) -> None:
    """Three blocks of one step each, alternating: steps, syncs, optimizer and schedule go on."""
    roles, rows = built
    rewards = [1.0, 0.0, 0.5, 0.0] * 2
    blocks = {name: Blocks(role, rewards) for name, role in roles.named().items()}
    for round_ in range(3):
        for name, role in roles.named().items():
            role.play(PROMPTS, blocks[name], f"round {round_}")
            assert role.num_steps == role.sampler.version == round_ + 1
            steps = {int(s["step"]) for s in role.optimizer.state_dict()["state"].values()}
            assert steps == {round_ + 1}, "the optimizer started anew"
    for name, role in roles.named().items():
        seen = blocks[name].seen
        assert [s["global_step"] for s in seen] == [0, 1, 2]
        assert [s["engine"] for s in seen] == [0, 1, 2], "rollouts from stale weights"
        assert len({s["weights"] for s in seen}) == 3
        if ENGINE == "vllm":
            assert [s["syncs"] for s in seen] == [1, 2, 3]
        assert len({tuple(x.token_ids) for s in seen for x in s["samples"]}) > 12
        own = [row for row in rows if row["role"] == name]
        assert [row["step"] for row in own] == [1, 2, 3]
        rates = [float(str(row["policy/learning_rate"])) for row in own]
        assert rates == pytest.approx([1e-2, 2e-2 / 3, 1e-2 / 3]), "the schedule restarted"
        # What was trained on is what these weights sampled.
        assert max(float(str(row["rollout/mismatch_max"])) for row in own) <= 1e-4
        assert role.args.max_steps == 1 and role.state.max_steps == 3


def test_batches_from_the_same_weights_have_seeds_of_their_own(checkpoint: Path) -> None:
    """Two generation batches an update."""
    batches = {"gradient_accumulation_steps": 2, "steps_per_generation": 1}
    role = _role(checkpoint, per_device_train_batch_size=GROUP, **batches)
    block = Blocks(role, [1.0, 0.0, 0.5, 0.0])
    role.play(PROMPTS, block, "round 0")
    assert [seen["engine"] for seen in block.seen] == [0, 0]
    seeds = {sample.sampled.seed for seen in block.seen for sample in seen["samples"]}
    assert len(seeds) == 2 * GROUP


def test_a_block_never_reuses_the_previous_blocks_rollouts(checkpoint: Path) -> None:
    """Two micro-batches a generation: the second block's first update is on its own samples."""
    role = _role(checkpoint, steps_per_generation=2, per_device_train_batch_size=GROUP)
    trained: list[list[int]] = []
    compute = role._compute_loss

    def watch(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        trained.extend(row.tolist() for row in inputs["completion_ids"] * inputs["completion_mask"])
        return compute(model, inputs)

    role._compute_loss = watch  # type: ignore[method-assign]
    block = Blocks(role, [1.0, 0.0, 0.5, 0.0] * 2)
    for round_ in range(2):
        trained.clear()
        role.play(PROMPTS, block, f"round {round_}")
        assert role.num_steps == 2 * (round_ + 1)
        sampled = [s.token_ids for s in block.seen[round_]["samples"]]  # type: ignore[union-attr]
        width = len(trained[0])
        assert sorted(trained) == sorted([*ids, *[0] * (width - len(ids))] for ids in sampled)
    assert len(block.seen) == 2


@pytest.mark.parametrize(
    ("options", "refused", "steps", "prompts"),
    [
        ({"steps_per_generation": 2, "per_device_train_batch_size": 4}, 1, 2, 2),
        ({"num_iterations": 2}, 3, 4, 4),
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 4}, 1, 2, 8),
    ],
)
def test_a_block_may_not_split_a_generation_batch(
    checkpoint: Path, options: dict[str, object], refused: int, steps: int, prompts: int
) -> None:
    role = _role(checkpoint, **options)
    with pytest.raises(UserError, match=f"learner.steps_per_round = {refused} .*not a multiple"):
        role.prompts_per_block(refused)
    assert role.prompts_per_block(steps) == prompts


@pytest.mark.parametrize("num", [0, 1, 3])
def test_a_block_takes_whole_generation_batches_of_prompts(checkpoint: Path, num: int) -> None:
    role = _role(checkpoint)
    with pytest.raises(ValueError, match=f"got {num} prompts.* the 2 prompts"):
        role.play(["a1b1\n"] * num, Blocks(role, []), "round 0")
    assert role.num_steps == 0


def test_a_restored_role_goes_on_bit_for_bit(checkpoint: Path) -> None:
    """Weights, optimizer, schedule, reference, temperature: the next block is the same block."""
    rewards = [1.0, 0.0, 0.5, 0.0, 0.2, 0.9, 0.0, 0.4]
    hashes, rows = [], []
    whole = _role(checkpoint, rows.append, beta=0.1)
    whole.play(PROMPTS, Blocks(whole, rewards), "round 0")
    whole.set_temperature(1.3)
    saved = torch.load(_saved(whole, checkpoint.parent / "state.pt"), weights_only=False)
    random_state = torch.get_rng_state()
    whole.play(PROMPTS, Blocks(whole, rewards), "round 1")
    hashes.append(weights_hash(whole.policy))

    again = _role(checkpoint, rows.append, beta=0.1)
    again.load_state_dict(saved["state"], saved["weights"].items())
    torch.set_rng_state(random_state)
    again.play(PROMPTS, Blocks(again, rewards), "round 1")
    hashes.append(weights_hash(again.policy))
    assert hashes[0] == hashes[1]
    uninterrupted, resumed = ({k: v for k, v in r.items() if "time/" not in k} for r in rows[1:])
    assert uninterrupted == resumed
    assert float(str(resumed["policy/kl"])) > 0, "the reference must be the cold start"


def _saved(role: RoleTrainer, path: Path) -> Path:
    weights = {name: tensor.clone() for name, tensor in role.policy.state_dict().items()}
    torch.save({"state": role.state_dict(), "weights": weights}, path)
    return path


def test_the_temperature_moves_policy_and_reference_together(checkpoint: Path) -> None:
    """At once hotter, the policy must still be its own reference: no KL on the first step."""
    rows: list[dict[str, object]] = []
    role = _role(checkpoint, rows.append, beta=0.1)
    role.set_temperature(2.0)
    role.play(PROMPTS, Blocks(role, [1.0, 0.0, 0.5, 0.0] * 2), "round 0")
    assert abs(float(str(rows[0]["policy/kl"]))) <= 1e-6
    assert float(str(rows[0]["rollout/mismatch_max"])) <= 1e-4


# -- rewards and advantages ----------------------------------------------------------------------


def test_a_block_of_masked_rewards_leaves_the_policy_unchanged(
    checkpoint: Path, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = []
    role = _role(checkpoint, rows.append, spec=STILL)
    before = weights_hash(role.policy)
    role.play(PROMPTS, Blocks(role, [None] * 8), "round 0")
    assert weights_hash(role.policy) == before
    assert role.batch["completion_mask"].sum() == 0
    assert role.batch["advantages"].abs().sum() == 0
    assert all(math.isfinite(v) for v in rows[0].values() if isinstance(v, float)), rows[0]


def test_a_masked_row_leaves_the_loss_and_its_group_goes_on_without_it(checkpoint: Path) -> None:
    role = _role(checkpoint)
    role.play(PROMPTS, Blocks(role, [1.0, None, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]), "round 0")
    mask_B, advantages_B = role.batch["completion_mask"].sum(1), role.batch["advantages"]
    assert mask_B[1] == 0 and (mask_B[[0, 2, 3, 4, 5, 6, 7]] > 0).all()
    assert role.batch["num_items_in_batch"] == mask_B.sum()
    assert advantages_B[1] == 0
    counted = torch.tensor([1.0, 0.0, 0.0])
    expected = (counted - counted.mean()) / (counted.std() + 1e-4)
    assert torch.allclose(advantages_B[[0, 2, 3]], expected)


@pytest.mark.parametrize("reward", [0.1, 0.7, 5.3])
def test_equal_rewards_carry_no_signal_at_all(checkpoint: Path, reward: float) -> None:
    """Seven equal float32 rewards: their mean is rounded, so textbook advantages are not 0."""
    role = _role(checkpoint, num_generations=7, per_device_train_batch_size=7, spec=STILL)
    before = weights_hash(role.policy)
    role.play(PROMPTS[:1], Blocks(role, [reward] * 7), "round 0")
    assert (role.batch["advantages"] == 0).all()
    assert weights_hash(role.policy) == before


def test_the_group_is_the_prompts_and_order_does_not_matter(checkpoint: Path) -> None:
    rewards, order = [0.9, 0.1, 0.4, 0.4, 0.0, 0.3, 1.0, 0.2], [2, 0, 3, 1, 7, 6, 4, 5]
    found = []
    for permuted in (rewards, [rewards[i] for i in order]):
        role = _role(checkpoint)
        role.play(PROMPTS, Blocks(role, permuted), "round 0")
        found.append(role.batch["advantages"])
    assert torch.allclose(found[0][order], found[1])
    assert found[0].view(2, GROUP).sum(1).abs().max() < 1e-5, "each group has mean 0"


# -- sampling ------------------------------------------------------------------------------------


def test_samples_are_reproducible_and_copies_differ(checkpoint: Path) -> None:
    role = _role(checkpoint)
    first = role.sample(PROMPTS, "probe 0", num=3)
    assert [[s.token_ids for s in group] for group in role.sample(PROMPTS, "probe 0", num=3)] == [
        [s.token_ids for s in group] for group in first
    ]
    assert len({tuple(s.token_ids) for s in first[0]}) == 3
    other = role.sample(PROMPTS, "probe 1", num=3)
    assert other[0][0].token_ids != first[0][0].token_ids
    assert role.num_steps == 0


def test_no_prompts_is_no_sample(checkpoint: Path) -> None:
    assert _role(checkpoint).sample([], "probe 0") == []
