"""A policy's log-probabilities of given sequences, without gradients.

Leaves out an engine's (`rollouts/engine.py`) and those that training needs
(`training/policy_pass.py`).

Axes: T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Precision = Literal["own", "float32", "bfloat16"]
CHUNK_TOKENS = 1024  # whose logits are there at once


@torch.no_grad()
def policy_logprobs(
    policy: PreTrainedModel, sequences: Sequence[Sequence[int]], precision: Precision = "own"
) -> list[list[float]]:
    """Score sequences with the policy: log-probabilities of the tokens after the first (nats).

    Args:
        policy: whose.
        sequences: token ids.
        precision: "own" computes as the policy does; "float32" throughout in float32, whatever the
            weights' type; "bfloat16" under autocast.
    """
    training = policy.training
    policy.eval()
    with _computing(policy, precision):
        scores = [_logprobs(policy, ids) for ids in sequences]
    policy.train(training)
    return scores


def _logprobs(policy: PreTrainedModel, ids: Sequence[int]) -> list[float]:
    """One sequence's, a chunk of tokens at a time: logits are wider than anything else."""
    ids_1T = torch.tensor([list(ids)], device=policy.device)
    cache, scores = None, list[float]()
    for first in range(0, len(ids) - 1, CHUNK_TOKENS):
        chunk_1T = ids_1T[:, first : min(first + CHUNK_TOKENS, len(ids) - 1)]
        going_on = first + CHUNK_TOKENS < len(ids) - 1 or cache is not None
        out = policy(input_ids=chunk_1T, past_key_values=cache, use_cache=going_on)
        cache = out.past_key_values if going_on else None
        targets_T1 = ids_1T[0, first + 1 : first + 1 + chunk_1T.shape[1]].unsqueeze(-1)
        logits_TV: Tensor = out.logits[0].float()
        scores += logits_TV.log_softmax(-1).gather(-1, targets_T1).squeeze(-1).tolist()
    return scores


@contextmanager
def _computing(policy: PreTrainedModel, precision: Precision) -> Iterator[None]:
    if precision == "own":
        yield
        return
    computing: AbstractContextManager[object] = nullcontext()
    if precision == "bfloat16":  # each weight is cast when it is used, and none is kept
        device = policy.device.type
        computing = torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False)
    with _forward_of_its_class(policy), computing:
        if precision == "bfloat16":
            yield
        else:
            with _widened(policy):
                yield


@contextmanager
def _forward_of_its_class(policy: nn.Module) -> Iterator[None]:
    """Set aside the forward that Accelerate puts on a model, which switches autocast on."""
    wrapped = policy.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            policy.__dict__["forward"] = wrapped


@contextmanager
def _widened(policy: nn.Module) -> Iterator[None]:
    """Compute in float32: while a layer runs its weights are, so that no second model is held."""
    lists = [part for part in policy.modules() if isinstance(part, nn.ModuleList)]
    layers = {layer for layers in lists for layer in layers}
    narrow: list[list[tuple[nn.Parameter, Tensor]]] = []

    def widen(module: nn.Module, *_: object) -> None:
        own = module.parameters(recurse=module in layers)
        narrow.append([
            (p, p.data) for p in own if p.is_floating_point() and p.dtype != torch.float32
        ])  # fmt: skip
        for parameter, data in narrow[-1]:
            parameter.data = data.float()

    def restore(*_: object) -> None:
        for parameter, data in narrow.pop():
            parameter.data = data

    handles = []
    for module in policy.modules():
        handles.append(module.register_forward_pre_hook(widen))
        handles.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
