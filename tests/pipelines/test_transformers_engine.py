"""Sampling without vLLM: the log-probabilities that are told are the policy's own.

Axes: B sequences, V vocabulary.
"""

import pytest
import torch
from pipeline_cases import random_llama, random_moe

from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.transformers_engine import TransformersEngine, _ChosenLogprobs

TOKENIZER = character_tokenizer()
PROMPTS = [[5, 9, 30], [40, 7, 8, 21], [5, 9, 30], [12]]
EXACT = 1e-5  # nats, float32


@pytest.mark.parametrize("make", [random_llama, random_moe])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_logprobs_of_samples_are_the_policys_at_that_temperature(
    make: object, temperature: float
) -> None:
    """At 0, where the likeliest token is certain, they are those of temperature 1."""
    policy = make(TOKENIZER)  # type: ignore[operator]
    engine = TransformersEngine(policy, (TOKENIZER.eos_token_id,), TOKENIZER.pad_token_id, 96)
    drawn = engine.generate(PROMPTS, Sampling(24, temperature), [1, 2, 3, 4])
    with torch.no_grad():  # scoring knows no temperature: the head's weights are divided by it
        policy.get_output_embeddings().weight = torch.nn.Parameter(
            policy.get_output_embeddings().weight / (temperature or 1.0)
        )
    whole = [[*p, *one.token_ids] for p, one in zip(PROMPTS, drawn, strict=True)]
    for prompt, one, scores in zip(PROMPTS, drawn, policy_logprobs(policy, whole), strict=True):
        assert one.logprobs == pytest.approx(scores[len(prompt) - 1 :], abs=EXACT)


def test_one_steps_logits_are_held_at_a_time() -> None:
    """Those of a whole batch are 80 GB at 128 completions of 1024 tokens of a usual vocabulary."""
    chosen, ids_BT = _ChosenLogprobs(1.0), torch.zeros(2, 1, dtype=torch.long)
    for step in range(5):
        scores_BV = torch.randn(2, 7, generator=torch.Generator().manual_seed(step))
        assert chosen(ids_BT, scores_BV) is scores_BV
        held = [t for t in vars(chosen).values() if isinstance(t, torch.Tensor)]
        assert [t.shape for t in held] == [(2, 7)]
        ids_BT = torch.cat([ids_BT, scores_BV.argmax(-1, keepdim=True)], dim=1)
    assert chosen.logprobs(ids_BT).shape == (2, 5)
