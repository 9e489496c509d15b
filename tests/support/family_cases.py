"""Tiny checkpoints of real architectures under their families' chat templates, taught to answer.

Supervised steps, until it knows most of the tasks, teach each to write a sum into a box, right
three times in four, and to write critiques in ProcessBench's form: then solutions pass and fail,
and both roles learn.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch
from chat_cases import FAMILIES
from pipeline_cases import random_moe, redraw
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from data.sources import draw_up_to
from pipelines.game.curriculum import build_source
from pipelines.game.referee import Referee
from pipelines.policy.chat import chat_ids, text_ids, turn_end_id
from pipelines.settings.tables import Settings
from rewards.verifiers import Verifiers

SIZES: Mapping[str, int] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 4096,
}  # fmt: skip
IGNORED = -100
MOST_CYCLES = 12
Pair = tuple[list[int], list[int]]  # a prompt and a reply, as token ids


def _dense(
    config: type[PretrainedConfig], model: type[PreTrainedModel], **more: object
) -> Callable[[PreTrainedTokenizerBase], PreTrainedModel]:
    def make(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
        made = config(vocab_size=len(tokenizer), pad_token_id=None, **ids, **(SIZES | more))
        return redraw(model(made).eval(), 0)

    return make


# By the family's name in `chat_cases.FAMILIES`: its own architecture, and what LoRA adapts.
ARCHITECTURES: Mapping[str, Callable[[PreTrainedTokenizerBase], PreTrainedModel]] = {
    "Qwen3": _dense(Qwen3Config, Qwen3ForCausalLM, tie_word_embeddings=True),
    "Llama 3": _dense(LlamaConfig, LlamaForCausalLM),
    "Gemma 3": _dense(
        Gemma3TextConfig, Gemma3ForCausalLM, query_pre_attn_scalar=32, sliding_window=64
    ),
    "Phi 3.5": _dense(Phi3Config, Phi3ForCausalLM),
    "GLM 4.5": _dense(
        Glm4MoeConfig, Glm4MoeForCausalLM, moe_intermediate_size=32, n_routed_experts=4,
        n_shared_experts=1, num_experts_per_tok=2, first_k_dense_replace=1,
    ),
    "DeepSeek-V3": lambda tokenizer: random_moe(tokenizer, max_position_embeddings=4096),
    "SmolLM2": _dense(LlamaConfig, LlamaForCausalLM, tie_word_embeddings=True),
}  # fmt: skip


def taught(family: str, settings: Settings, folder: Path) -> Path:
    """A checkpoint of a family that answers most tasks, right and wrong ones, and criticises."""
    tokenizer = FAMILIES[family].tokenizer()
    torch.manual_seed(0)
    model = ARCHITECTURES[family](tokenizer)
    solutions, critiques = _demonstrations(settings, tokenizer)
    right = solutions[::4]
    for _ in range(MOST_CYCLES):
        imitate(model, solutions, critiques, 120)
        known = sum(_is_likeliest(model, *pair) for pair in right) / len(right)
        if known >= 0.5:
            break
    else:
        raise AssertionError(f"{family} knows {known:.0%} of its tasks after {MOST_CYCLES} cycles")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _demonstrations(
    settings: Settings, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Pair], list[Pair]]:
    """Prompts with replies, as token ids: solutions of every task, and critiques of some."""
    rng, end = random.Random(0), turn_end_id(tokenizer)
    template = settings.learner.chat_template_kwargs
    solutions, critiques = [], []
    with closing(Verifiers(10.0)) as verifiers:
        referee = Referee(settings, verifiers)
        for task in draw_up_to(build_source(settings), "train", 70, 0):
            prompt = chat_ids(tokenizer, referee.problem(task), template)
            for error in (0, 0, 0, 1):
                reply = (
                    f"It is read off.\n\nThe answer is \\boxed{{{int(task.reference) + error}}}."
                )
                solutions.append((prompt, [*text_ids(tokenizer, reply), end]))
                solution = referee.dialect.parse_solution(reply, truncated=False)
                asked = chat_ids(tokenizer, referee.critique_prompt(task, solution), template)
                said = referee.critiques.write_critique(solution, None, None, error == 0, rng)
                if error or len(critiques) % 2 == 0:
                    critiques.append((asked, [*text_ids(tokenizer, said), end]))
    return solutions, critiques[:24]


def imitate(
    model: nn.Module, solutions: Sequence[Pair], critiques: Sequence[Pair], num_steps: int
) -> None:
    """Supervised steps on the replies, of both kinds where there are critiques."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98))
    model.train()
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / num_steps)
        _loss(model, _some(solutions, 24)).backward()
        if critiques and step % 4 == 0:  # ten times as long
            _loss(model, _some(critiques, 6)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def _loss(model: nn.Module, pairs: Sequence[Pair]) -> torch.Tensor:
    """Cross-entropy of the replies."""
    width = max(len(prompt) + len(reply) for prompt, reply in pairs)
    ids_BT = torch.zeros(len(pairs), width, dtype=torch.long)
    labels_BT, mask_BT = torch.full_like(ids_BT, IGNORED), torch.zeros_like(ids_BT)
    for row, (prompt, reply) in enumerate(pairs):
        whole = torch.tensor([*prompt, *reply])
        ids_BT[row, : len(whole)], mask_BT[row, : len(whole)] = whole, 1
        labels_BT[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    return model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss


def _some(pairs: Sequence[Pair], size: int) -> list[Pair]:
    return [pairs[i] for i in torch.randperm(len(pairs))[:size].tolist()]


@torch.no_grad()
def _is_likeliest(model: nn.Module, prompt: list[int], reply: list[int]) -> bool:
    """Whether the model would write the reply if it always took the likeliest token."""
    logits_TV = model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0]
    return logits_TV[len(prompt) - 1 : -1].argmax(-1).tolist() == reply
