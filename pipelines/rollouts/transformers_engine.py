"""Sampling by transformers' `generate` from the policy itself, where there is no vLLM.

The model's own decode and cache do the work (`model/`); there are no weights to sync. A prompt that
is asked for several times is read once. Leaves out vLLM (`rollouts/vllm_engine.py`,
`rollouts/servers/engine.py`).

Axes: B prompts, U distinct prompts, T tokens, V vocabulary.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from pipelines.policy.fingerprint import UNPROVEN
from pipelines.policy.moe import routing_of
from pipelines.policy.scoring import policy_logprobs
from pipelines.rollouts.engine import Completion, Sampling, check_prompts, completion_seed
from pipelines.rollouts.routes import generated_routes, pass_recorder


class TransformersEngine:
    """Sampling by transformers' `generate` from the policy itself: no weights to sync.

    Args:
        policy: what samples, as it is at each call.
        end_ids: the token ids that end a completion, any of them.
        pad_id: the token id that fills up shorter prompts.
        max_model_len: the most tokens of a prompt with its completion.
        max_num_seqs: the most completions sampled at a time.
    """

    reissued: Sequence[int] = ()
    concurrency = None  # a wave's completions share one generator, so that its size cannot change

    def __init__(
        self,
        policy: PreTrainedModel,
        end_ids: Sequence[int],
        pad_id: int,
        max_model_len: int,
        max_num_seqs: int = 128,
    ) -> None:
        self.policy, self.end_ids, self.pad_id = policy, tuple(end_ids), pad_id
        self.max_model_len, self.max_num_seqs = max_model_len, max_num_seqs
        self.weights = UNPROVEN

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion per prompt, at most `max_num_seqs` at a time, seeded together."""
        check_prompts(prompts, sampling.max_tokens, self.max_model_len)
        size = self.max_num_seqs
        starts = range(0, len(prompts), size)
        batches = [(prompts[i : i + size], seeds[i : i + size]) for i in starts]
        return [done for batch in batches for done in self._generate(batch[0], sampling, batch[1])]

    def _generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        ids_BT, mask_BT = self._padded(prompts)
        width = ids_BT.shape[1]
        training, greedy = self.policy.training, sampling.temperature == 0
        choice = {} if greedy else {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        self.policy.eval()
        moe = routing_of(self.policy) if sampling.routes else None
        record = {} if moe is None else {"record": True}
        recording = contextlib.nullcontext([]) if moe is None else pass_recorder(moe)
        chosen = _ChosenLogprobs(sampling.temperature or 1.0)
        with torch.random.fork_rng(), _plain_generation(self.policy), recording as passes:
            rows_B, cache = self._read_once(prompts, **record)
            torch.manual_seed(completion_seed(*seeds))
            ids_BT = self.policy.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                past_key_values=cache,
                max_new_tokens=sampling.max_tokens,
                do_sample=not greedy,
                **choice,
                eos_token_id=list(self.end_ids),
                pad_token_id=self.pad_id,
                use_cache=True,
                logits_processor=LogitsProcessorList([chosen]),
                **record,
            )
        self.policy.train(training)
        new, logprobs = ids_BT[:, width:].tolist(), chosen.logprobs(ids_BT).tolist()
        done = [self._trim(ids, lps) for ids, lps in zip(new, logprobs, strict=True)]
        if moe is None:
            return done
        whole = [[*p, *c.token_ids] for p, c in zip(prompts, done, strict=True)]
        if cache is not None:
            passes[0] = passes[0][rows_B.cpu().numpy()]
        routes = generated_routes(passes, width, prompts, whole)
        return [replace(c, routes=r) for c, r in zip(done, routes, strict=True)]

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, [B, T] each, padded on the left."""
        width = max(len(prompt) for prompt in prompts)
        ids = [[self.pad_id] * (width - len(p)) + list(p) for p in prompts]
        mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
        return tuple(torch.tensor(rows, device=self.policy.device) for rows in (ids, mask))

    def _read_once(
        self, prompts: Sequence[Sequence[int]], **record: bool
    ) -> tuple[Tensor, Cache | None]:
        """A cache of the prompts but their last tokens, for which each distinct one is read once.

        Returns:
            Each prompt's place among the distinct ones, [B], and the cache; None where there is
            nothing to gain.
        """
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        place = {prompt: row for row, prompt in enumerate(distinct)}
        rows_B = torch.tensor([place[tuple(p)] for p in prompts], device=self.policy.device)
        ids_UT, mask_UT = self._padded(distinct)
        if len(distinct) == len(prompts) or ids_UT.shape[1] == 1:
            return rows_B, None
        read = {
            "input_ids": ids_UT[:, :-1],
            "attention_mask": mask_UT[:, :-1],
            "position_ids": (mask_UT.cumsum(-1) - 1).clamp(min=0)[:, :-1],
        }
        cache = self.policy(**read, use_cache=True, **record).past_key_values
        cache.batch_select_indices(rows_B)
        return rows_B, cache

    def _trim(self, ids: list[int], logprobs: list[float]) -> Completion:
        end = next((place for place, i in enumerate(ids, start=1) if i in self.end_ids), None)
        if end is None:
            return Completion(ids, logprobs, truncated=True)
        return Completion(ids[:end], logprobs[:end], truncated=False)

    def close(self) -> None:
        """Nothing to end."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of each sequence's tokens after the first (nats)."""
        return policy_logprobs(self.policy, sequences)


class _ChosenLogprobs(LogitsProcessor):
    """Notes each sampled token's log-probability, so that one step's logits are held and no more.

    Which token was sampled shows when the next one is asked for.

    Args:
        temperature: of the samples, which is applied after this.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature, self._chosen = temperature, list[Tensor]()
        self._step_BV: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._choose(input_ids)
        self._step_BV = (scores.float() / self.temperature).log_softmax(-1)
        return scores

    def logprobs(self, ids_BT: Tensor) -> Tensor:
        """Those of all tokens that were sampled, [B, T], given the sequences at the end."""
        self._choose(ids_BT)
        return torch.stack(self._chosen, dim=1)

    def _choose(self, ids_BT: Tensor) -> None:
        if self._step_BV is not None:
            self._chosen.append(self._step_BV.gather(-1, ids_BT[:, -1:]).squeeze(-1))


@contextlib.contextmanager
def _plain_generation(policy: PreTrainedModel) -> Iterator[None]:
    """Set aside the checkpoint's own generation settings, on which `generate` would fall back.

    Instruct models ship top-k, penalties and the like; any of them reshapes the distribution whose
    log-probabilities we report.
    """
    own = policy.generation_config
    policy.generation_config = GenerationConfig()
    try:
        yield
    finally:
        policy.generation_config = own
