"""What is read once for several sequences gives the numbers and gradients of whole ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from family_cases import ARCHITECTURES
from peft import LoraConfig, get_peft_model
from pipeline_cases import learner_role, random_llama, redraw_adapter, save
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from pipelines.policy.moe import Policy
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.sample import Sample, Scored
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.training import lengths, policy_pass
from pipelines.training.lengths import USUAL, Costs, LengthSorted, chunks
from pipelines.training.shared_prompts import Prompts, can_open, can_share, run_on_prompts
from pipelines.training.trainer import RoleTrainer

TOKENIZER = character_tokenizer()
EXACT = 1e-5  # nats, float32
TURNED = 1e-4  # where rotations by other angles stand for one another: 400 radians in float32
GROUP = 8
SHARING = sorted(set(ARCHITECTURES) - {"DeepSeek-V3"})


def alone(values: Tensor) -> Tensor:
    return values


def grouped(prompts: list[int], num_completion: int = 12, group: int = GROUP) -> dict[str, Tensor]:
    """Groups of one prompt each, of these lengths, laid out as TRL does; completions are uneven."""
    width, generator = max(prompts), torch.Generator().manual_seed(0)
    drawn_UT = torch.randint(3, len(TOKENIZER), (len(prompts), width), generator=generator)
    shape = (len(prompts) * group, num_completion)
    completion_BT = torch.randint(3, len(TOKENIZER), shape, generator=generator)
    mask_BT = torch.ones(shape[0], width + num_completion, dtype=torch.long)
    for row in range(len(mask_BT)):
        mask_BT[row, : width - prompts[row // group]] = 0
        mask_BT[row, width + 2 + row % (num_completion - 1) :] = 0
    ids_BT = torch.cat([drawn_UT.repeat_interleave(group, 0), completion_BT], 1) * mask_BT
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    labels_BT[:, :width] = -100
    order_B = torch.randperm(len(ids_BT), generator=generator)  # TRL shuffles
    batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
    return {name: x[order_B] for name, x in batch.items()}


def alike(prompts: list[int], num_alike: int) -> dict[str, Tensor]:
    """One sequence of each prompt, of these lengths, which all begin with as many equal tokens."""
    batch = grouped(prompts, group=1)
    ids_BT, mask_BT = batch["input_ids"], batch["attention_mask"]
    for row in range(len(ids_BT)):
        start = int(mask_BT[row].argmax())
        ids_BT[row, start : start + num_alike] = torch.arange(3, 3 + num_alike) % len(TOKENIZER)
        ids_BT[row, start + num_alike] = 3 + row  # no two go on alike
    return batch


def adapted(policy: PreTrainedModel) -> Policy:
    """With a LoRA adapter that matters."""
    names = {n.rpartition(".")[2] for n, m in policy.named_modules() if isinstance(m, nn.Linear)}
    lora = LoraConfig(r=4, target_modules=sorted(names - {"lm_head"}), task_type="CAUSAL_LM")
    policy = get_peft_model(policy, lora)
    redraw_adapter(policy, 0)
    return policy


def numbers(
    model: nn.Module | LengthSorted, policy: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[FusedCausalLMOutput, list[Tensor]]:
    """What a call gives, and every gradient of a loss that reads all of it."""
    policy.zero_grad()
    output = model(**batch, fused_lm_head=True)
    (output.log_probs.sum() + output.entropy.square().sum()).backward()
    return output, [p.grad for p in policy.parameters() if p.grad is not None]


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "LoRA"])
@pytest.mark.parametrize("family", SHARING)
def test_values_and_gradients_are_those_of_whole_sequences(family: str, lora: bool) -> None:
    """Gemma's window of 64 tokens is shorter than the prompts are."""
    policy = ARCHITECTURES[family](TOKENIZER)
    add_fused_lm_head(policy, temperature=0.7, outputs=("log_probs", "entropy"))
    policy = adapted(policy) if lora else policy
    assert can_share(policy)
    check_equal(policy, grouped([150, 131, 97, 150]), EXACT, opens=False)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "LoRA"])
@pytest.mark.parametrize("family", [name for name in SHARING if name != "Gemma 3"])
def test_what_uneven_prompts_begin_with_is_read_once_for_all(family: str, lora: bool) -> None:
    policy = ARCHITECTURES[family](TOKENIZER)
    add_fused_lm_head(policy, temperature=0.7, outputs=("log_probs", "entropy"))
    policy = adapted(policy) if lora else policy
    assert can_open(policy.config)
    check_equal(policy, alike([420, 405, 431, 420, 402, 444, 403, 409], 400), TURNED, opens=True)


def check_equal(policy: Policy, batch: Mapping[str, Tensor], within: float, opens: bool) -> None:
    """A batch that is surely shared has the numbers of one that is not."""
    shared = LengthSorted(policy, alone, policy.config)
    planned = chunks(batch, alone, shares=True, opens=opens)
    assert all(chunk.prompts is not None for chunk in planned)
    assert opens == any(chunk.prompts.begun_R.unique().numel() > 1 for chunk in planned)
    (plain, gradients), (own, own_gradients) = (
        numbers(model, policy, batch) for model in (policy, shared)
    )
    kept_BT = batch["labels"][:, 1:] != -100
    assert (plain.log_probs - own.log_probs)[kept_BT].abs().max() <= within
    assert (plain.entropy - own.entropy)[kept_BT].abs().max() <= within
    assert own.log_probs[~kept_BT].abs().max() == 0
    assert len(gradients) == len(own_gradients) > 0
    for one, other in zip(gradients, own_gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * one.abs().max().item() + 1e-7)


class Counting(nn.Module):
    """Counts the tokens that a model is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.num_tokens = model, 0

    def forward(self, input_ids: Tensor, **kwargs: object) -> FusedCausalLMOutput:
        self.num_tokens += input_ids.numel()
        return self.model(input_ids=input_ids, **kwargs)


@pytest.mark.parametrize("num_prompt", [5, 400])
def test_a_long_prompt_is_run_once_for_its_group_and_a_short_one_with_its_completions(
    num_prompt: int,
) -> None:
    policy = random_llama(TOKENIZER)
    add_fused_lm_head(policy, outputs=("log_probs", "entropy"))
    batch = grouped([num_prompt] * 4)
    counting = Counting(policy)
    LengthSorted(counting, alone, policy.config)(**batch, fused_lm_head=True)
    whole = batch["input_ids"].numel()
    assert counting.num_tokens == whole if num_prompt == 5 else counting.num_tokens < whole / 5


def test_prompts_of_one_length_are_told_apart() -> None:
    prompts = Prompts.whole(batch := grouped([30, 30, 30]))
    assert prompts.read == slice(0, 29) and len(prompts.first_U) == 3
    own_BP = batch["input_ids"][:, :30]
    assert torch.equal(own_BP, own_BP[prompts.first_U][prompts.place_R])


def test_padding_is_no_token_of_a_prompt() -> None:
    """One prompt may begin with the token that pads another."""
    batch = grouped([4, 3], group=1)
    for row, mask in enumerate(batch["attention_mask"]):
        start = int(mask.argmax())
        batch["input_ids"][row, :4] = torch.tensor([0, 7, 8, 9])
        batch["input_ids"][row, :start] = 0
    assert len(Prompts.whole(batch).first_U) == 2


def test_an_opening_ends_where_two_prompts_part_and_leaves_each_its_last_token() -> None:
    batch = alike([40, 30], 20)
    prompts = Prompts.opening(batch)
    assert prompts.num_read == 20 and len(prompts.first_U) == 1
    start_R = batch["attention_mask"].argmax(1)
    assert torch.equal(prompts.begun_R, start_R + 20) and prompts.rest == 20
    short = alike([40, 20], 12)
    short["input_ids"] = torch.where(short["attention_mask"] > 0, 5, 0)  # one begins the other
    assert Prompts.opening(short).num_read == 19
    assert Prompts.opening(alike([40, 30], 1)) is None


@pytest.mark.parametrize("kind", ["OPT", "MPT", "GPT-2"])
def test_positions_that_are_learned_or_counted_in_columns_share_whole_prompts_alone(
    kind: str,
) -> None:
    sizes = {"vocab_size": len(TOKENIZER)}
    models = {
        "OPT": lambda: OPTForCausalLM(OPTConfig(
            **sizes, hidden_size=64, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
            word_embed_proj_dim=64, max_position_embeddings=512, dropout=0.0,
        )),
        "MPT": lambda: MptForCausalLM(MptConfig(
            **sizes, d_model=64, n_heads=2, n_layers=2, max_seq_len=512,
        )),
        "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(
            **sizes, n_embd=64, n_head=2, n_layer=2, n_positions=512, attn_pdrop=0.0,
            embd_pdrop=0.0, resid_pdrop=0.0,
        )),
    }  # fmt: skip
    torch.manual_seed(0)
    policy = models[kind]()
    assert not can_open(policy.config)
    if can_share(policy):
        add_fused_lm_head(policy, outputs=("log_probs", "entropy"))
        check_equal(policy, grouped([150, 131, 97, 150]), EXACT, opens=False)


def test_a_window_of_columns_would_count_the_padding_after_an_opening() -> None:
    assert not can_open(ARCHITECTURES["Gemma 3"](TOKENIZER).config)


def test_a_batch_without_a_learned_token_is_run_whole() -> None:
    policy = random_llama(TOKENIZER)
    add_fused_lm_head(policy, outputs=("log_probs", "entropy"))
    batch = grouped([200, 200])
    batch["labels"][:] = -100
    output = LengthSorted(policy, alone, policy.config)(**batch, fused_lm_head=True)
    assert not output.log_probs.any()


def test_processes_all_share_or_none_does() -> None:
    """Costs are summed over processes: of one batch sharing saves much, of the other it costs."""
    long, short = grouped([400] * 4), grouped([5] * 4)
    seen = list[Tensor]()

    def note(costs: Tensor) -> Tensor:
        seen.append(costs)
        return costs

    alone_shares = [chunks(b, note, shares=True)[0].prompts is not None for b in (long, short)]
    assert alone_shares == [True, False]
    total = seen[0] + seen[1]
    together = [chunks(b, lambda _: total, shares=True) for b in (long, short)]
    assert [c.prompts is not None for chunk in together for c in chunk] == [True] * sum(
        map(len, together)
    )
    assert len(together[0]) == len(together[1])


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_model_whose_rotations_follow_the_length_of_a_pass_does_not_share(kind: str) -> None:
    """Phi's long contexts: the prompt's keys would be rotated by other frequencies."""
    policy = random_llama(TOKENIZER)
    assert can_share(policy)
    policy.config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0}
    assert not can_share(policy)
    layers = {"full_attention": {"rope_type": kind}, "sliding_attention": {"rope_type": "default"}}
    policy.config.rope_parameters = layers
    assert not can_share(policy)


def test_a_model_that_keeps_no_cache_is_told_and_not_believed() -> None:
    policy = random_llama(TOKENIZER).train()
    add_fused_lm_head(policy, outputs=("log_probs", "entropy"))
    policy.gradient_checkpointing_enable()
    with pytest.raises(AssertionError, match="keeps no cache"):
        LengthSorted(policy, alone, policy.config)(**grouped([400] * 4), fused_lm_head=True)


def test_a_wide_models_tokens_cost_more_than_the_calls_of_a_further_pass() -> None:
    """So that its batch is cut finer, and prompts of one sample each are read without the head."""
    batch = grouped([150] * 8, group=1)
    wide = Costs(further_pass=30, head=0.2)
    assert chunks(batch, alone, shares=True, costs=USUAL)[0].prompts is None
    assert chunks(batch, alone, shares=True, costs=wide)[0].prompts is not None
    small = random_llama(TOKENIZER)
    costs = Costs.of(small, 2)
    assert costs.further_pass == USUAL.further_pass and 0 < costs.head < 0.2


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "beta": 0.1}])
def test_a_trainers_step_is_that_of_whole_sequences(
    options: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save(random_llama(TOKENIZER), tmp_path / "llama")
    prompts = ["".join(chr(97 + (i * step) % 26) for i in range(400)) for step in (1, 3)]
    shared, after = list[int](), list[dict[str, Tensor]]()

    def note(*given: object, **more: object) -> FusedCausalLMOutput:
        shared.append(1)
        return run_on_prompts(*given, **more)

    def scorer(indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        return [Scored(float(place % 2)) for place, _ in enumerate(samples)]

    monkeypatch.setattr(lengths, "run_on_prompts", note)
    for shares in (True, False):
        monkeypatch.setattr(policy_pass, "can_share", lambda policy, shares=shares: shares)
        policy = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        engine = TransformersEngine(policy, (TOKENIZER.eos_token_id,), TOKENIZER.pad_token_id, 500)
        passes = options.get("gradient_accumulation_steps", 1)
        role = learner_role(
            RoleTrainer, checkpoint, engine=engine, policy=policy, num_generations=8,
            optim="sgd", learning_rate=0.1, per_device_train_batch_size=16 // passes, **options,
        )  # fmt: skip
        before = len(shared)
        role.play(prompts, scorer, "round 0")
        assert (len(shared) > before) == shares
        after.append({name: p.detach().clone() for name, p in policy.named_parameters()})
    start = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    moved = max((after[0][n] - p).abs().max().item() for n, p in start.named_parameters())
    apart = max((one - after[1][name]).abs().max().item() for name, one in after[0].items())
    assert moved > 1e-3 and apart < 1e-3 * moved  # by SGD: Adam would magnify rounding


def test_our_mixture_of_experts_keeps_its_passes() -> None:
    assert not can_share(ARCHITECTURES["DeepSeek-V3"](TOKENIZER))
