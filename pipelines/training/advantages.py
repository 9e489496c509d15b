"""From what a game says of a batch to the advantage of each completion or token.

    reward             outcome   TRL's, normalised within the group; exactly 0 without signal
    first flaw         -penalty  on the flawed step's tokens; 0 before and after it
    none located       -penalty  on how it ends, where the group failed whole and others' flaws are
    rewards of steps   + (r - b) on each step's own tokens; b is the group's mean

The verifier pays, the critic points: a located first flaw takes the place of a failure's outcome,
so that a sound prefix is not punished and a group that failed whole still carries signal (after
VPPO, arXiv:2601.18984). The penalty is a constant for each token of the flawed step, whatever the
number of steps: splitting or padding them does not pay. Nor does failing where nobody can say how,
by leaving a step out: it would else be the only failure of a lost group that costs nothing. Pure
functions; leaves out TRL's normalisation and loss, who may locate a flaw (`game/pointing.py`), and
the rewards (`game/`).

Axes: B completions, groups adjacent; T tokens of a completion; N groups; G completions of a group.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipelines.policy.chat import reply_text
from pipelines.rollouts.sample import Scored, StepSignal

WINDOW_TOKENS = 8  # that a token's text may depend on; a character has at most four bytes


def advantages(
    outcome_B: Tensor,
    scored: Sequence[Scored],
    group_size: int,
    flaw_penalty: float = 1.0,
    token_ends_BT: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Outcome, first flaw and steps in one advantage.

    Args:
        outcome_B: the outcomes' advantages.
        scored: what the game says of each completion.
        group_size: G.
        flaw_penalty: what each token of a located first flaw loses, 0 or more.
        token_ends_BT: `token_ends` of each completion; None where no completion has steps.

    Returns:
        [B], or [B, T] with `token_ends_BT`; 0 where a reward is masked, and where all rewards of a
        group are equal and no flaw is located.
    """
    rewards_B = rewards(scored).to(outcome_B.device)
    is_flat_N = spread(rewards_B.view(-1, group_size)) == 0
    is_masked_B = rewards_B.isnan()
    is_silent_B = is_flat_N.repeat_interleave(group_size) | is_masked_B
    outcome_B = outcome_B.masked_fill(is_silent_B, 0.0)
    if token_ends_BT is None:
        return outcome_B
    result_BT = outcome_B.unsqueeze(1).repeat(1, len(token_ends_BT[0]))
    baselines_N = step_baselines(scored, group_size)
    groups = [scored[first : first + group_size] for first in range(0, len(scored), group_size)]
    is_lost_N = [
        flat and any(own.flaw is not None and own.reward is not None for own in group)
        for flat, group in zip(is_flat_N.tolist(), groups, strict=True)
    ]
    for row, (own, ends) in enumerate(zip(scored, token_ends_BT, strict=True)):
        flaw = own.flaw or (own.ending if is_lost_N[row // group_size] else None)
        if flaw is not None:
            result_BT[row] = 0.0
            result_BT[row, tokens_of(flaw, ends)] = -flaw_penalty
        for step in own.steps:
            value = step.value - baselines_N[row // group_size]
            result_BT[row, tokens_of((step.start, step.end), ends)] += value
    return result_BT.masked_fill(is_masked_B.unsqueeze(1), 0.0)


def rewards(scored: Sequence[Scored]) -> Tensor:
    """Each completion's reward, NaN where it is masked. Shape [B]."""
    return torch.tensor([math.nan if own.reward is None else own.reward for own in scored])


def spread(rewards_NG: Tensor) -> Tensor:
    """Max minus min over each group's counted (non-NaN) rewards, 0 where none is. Shape [N]."""
    low = torch.nan_to_num(rewards_NG, nan=torch.inf).amin(1)
    high = torch.nan_to_num(rewards_NG, nan=-torch.inf).amax(1)
    return torch.where(high > low, high - low, torch.zeros_like(high))


def step_baselines(scored: Sequence[Scored], group_size: int) -> list[float]:
    """Each group's mean step reward, in which a solution counts once whatever its number of steps.

    Equal rewards are their own mean exactly, so that they carry no signal; masked completions do
    not count.
    """
    baselines = []
    for first in range(0, len(scored), group_size):
        counted = [own for own in scored[first : first + group_size] if own.reward is not None]
        means = [_mean(own.steps) for own in counted if own.steps]
        equal = bool(means) and min(means) == max(means)
        baselines.append(means[0] if equal else math.fsum(means) / max(len(means), 1))
    return baselines


def _mean(steps: Sequence[StepSignal]) -> float:
    values = [step.value for step in steps]
    return values[0] if min(values) == max(values) else math.fsum(values) / len(values)


def tokens_of(span: tuple[int, int], ends: Sequence[int]) -> list[int]:
    """The tokens that write any of the characters [start, end), given ends that never fall.

    An end beyond the text includes the token that ends it: the first after the last character that
    writes nothing.
    """
    start, end = span
    first, last = bisect_right(ends, start), bisect_left(ends, end)
    touching = range(first, min(last + 1, len(ends)) if end else first)
    own = [t for t in touching if ends[t] > (ends[t - 1] if t else 0)]
    if ends and end > ends[-1]:
        ending = bisect_left(ends, ends[-1]) + 1 if ends[-1] else 0
        own += [ending] if ending < len(ends) else []
    return own


def ends_by_row(
    tokenizer: PreTrainedTokenizerBase, scored: Sequence[Scored], ids_BT: Tensor
) -> list[list[int]]:
    """`token_ends` of the completions that have steps or may have a flaw; zeros for the others."""
    rows = zip(scored, ids_BT.tolist(), strict=True)
    return [
        token_ends(tokenizer, ids) if own.steps or own.flaw or own.ending else [0] * len(ids)
        for own, ids in rows
    ]


def token_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """For each token the number of characters decoded up to and with it.

    A token is decoded together with a few before it, on which its text may depend: a space that
    begins a text is dropped, and one character may take several tokens, the first of which has it.
    So the work grows with the number of tokens, not with its square.
    """
    ends, end, lead_in = list[int](), 0, 0  # in characters
    for place in range(len(ids)):
        if place % WINDOW_TOKENS == 0:
            first = max(place - WINDOW_TOKENS, 0)
            lead_in = end - _num_characters(tokenizer, ids[first:place])
        end = lead_in + _num_characters(tokenizer, ids[first : place + 1])
        ends.append(end)
    for place in range(len(ends) - 2, -1, -1):  # an incomplete character may decode to several
        ends[place] = min(ends[place], ends[place + 1])
    return ends


def _num_characters(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    return len(reply_text(tokenizer, ids))
