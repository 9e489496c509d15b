"""A policy's log-probabilities of given sequences, without gradients.

Leaves out an engine's (`rollouts/engine.py`) and those that training needs
(`training/policy_pass.py`).
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def policy_logprobs(
    policy: PreTrainedModel, sequences: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Score sequences with the policy: log-probabilities of the tokens after the first (nats)."""
    training = policy.training
    policy.eval()
    scores = []
    for ids in sequences:
        ids_1T = torch.tensor([list(ids)], device=policy.device)
        logits_TV = policy(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
        targets_T1 = ids_1T[0, 1:].unsqueeze(-1)
        scores.append(logits_TV.log_softmax(-1).gather(-1, targets_T1).squeeze(-1).tolist())
    policy.train(training)
    return scores
