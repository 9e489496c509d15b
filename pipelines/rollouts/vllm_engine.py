"""A vLLM engine in this process.

Leaves out what it is started with (`rollouts/spec.py`) and what runs inside vLLM's worker
(`rollouts/worker.py`).
"""

import importlib.util
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.errors import UserError, as_user_error
from pipelines.policy.fingerprint import UNPROVEN
from pipelines.rollouts.concurrency import adaptive_concurrency
from pipelines.rollouts.engine import Completion, Sampling, check_prompts
from pipelines.rollouts.pressure import PreemptionCount
from pipelines.rollouts.routes import Finished
from pipelines.rollouts.spec import EngineSpec
from pipelines.sync.proof import Proof
from pipelines.sync.replica import check_stamp

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.v1.core.sched.scheduler import Scheduler

logger = logging.getLogger(__name__)
# Collecting one engine tears down the parallel groups that all engines of the process share, so
# none is collected before the process ends.
_ENGINES: list["LLM"] = []


class VllmEngine:
    """A vLLM engine in this process.

    Args:
        spec: the checkpoint, and how it is served.
    """

    reissued: Sequence[int] = ()

    def __init__(self, spec: EngineSpec) -> None:
        os.environ.update(spec.attention.environment)
        from vllm import LLM, envs

        envs.disable_envs_cache()  # an earlier engine's environment
        self.spec = spec
        self.weights, self.label = UNPROVEN, "the engine"
        self.replicas = [self]
        threads = torch.get_num_threads()
        rng = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        _make_group_for_experts()
        # A model that vLLM does not know, too little memory, a context beyond the model's.
        with as_user_error(f"vLLM cannot serve {spec.directory}", ValueError):
            self.llm: LLM = LLM(
                model=str(spec.directory),
                skip_tokenizer_init=True,
                **spec.options,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                # With several processes each holds a whole engine beside its share of the batch.
                distributed_executor_backend="external_launcher" if _world_size() > 1 else "uni",
            )
        random.setstate(rng[0]), np.random.set_state(rng[1]), torch.set_rng_state(rng[2])
        torch.set_num_threads(threads)
        _ENGINES.append(self.llm)
        self.concurrency = adaptive_concurrency(spec.settings, PreemptionCount(self._scheduler))

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion per prompt, each with its own seed: a batch is reproducible."""
        from vllm import SamplingParams

        check_prompts(prompts, sampling.max_tokens, self.spec.settings.max_model_len)
        check_stamp(self, self.weights.stamp)
        self.reset_prefix_cache()  # a cached prefix rounds otherwise: a resumed run has none
        params = [
            SamplingParams(
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=seed,
                logprobs=0,
                detokenize=False,
                stop_token_ids=list(self.spec.end_ids),
            )
            for seed in seeds
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        source = self.spec.route_source if sampling.routes else None
        if source is None:
            return [_completion(output) for output in self._run(inputs, params)]
        source.begin(self)
        outputs = self._run(inputs, params)
        routes = source.routes(self, [_finished(output) for output in outputs])
        return [replace(_completion(o), routes=r) for o, r in zip(outputs, routes, strict=True)]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of each sequence's tokens after the first (nats)."""
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=1, temperature=1.0, seed=0, prompt_logprobs=0, detokenize=False
        )
        inputs = [{"prompt_token_ids": list(ids)} for ids in sequences]
        outputs = self._run(inputs, params)
        return [
            [
                entry[token].logprob
                for token, entry in zip(ids[1:], out.prompt_logprobs[1:], strict=True)
            ]
            for ids, out in zip(sequences, outputs, strict=True)
        ]

    def _run(
        self, inputs: list[dict[str, list[int]]], params: "SamplingParams | list[SamplingParams]"
    ) -> list["RequestOutput"]:
        """Generate without touching torch's random state.

        vLLM draws from it even where every request has its seed, so that one call more or less
        would reorder the batches that TRL shuffles, and a resumed run would not be the same run.
        """
        engine, scheduler = self.llm.llm_engine, self._scheduler
        finished: list[RequestOutput] = []
        with torch.random.fork_rng(devices=[]):
            self.llm.enqueue(inputs, params, use_tqdm=False)
            while engine.has_unfinished_requests():
                scheduler.max_num_active_reqs = self.concurrency.limit
                finished += [output for output in engine.step() if output.finished]
                self.concurrency.poll(len(scheduler.running))
        return sorted(finished, key=lambda output: int(output.request_id))

    @property
    def _scheduler(self) -> "Scheduler":
        return self.llm.llm_engine.engine_core.engine_core.scheduler

    def close(self) -> None:
        """Nothing: an engine lives as long as its process."""

    # -- the sync's side --------------------------------------------------------------------------

    def call(self, method: str, **kwargs: object) -> list[dict]:
        """Call a method of `RolloutWorker` in this process."""
        return self.llm.collective_rpc(method, kwargs=kwargs)

    def reset_prefix_cache(self) -> None:
        self.llm.reset_prefix_cache()

    def publish(self, proof: Proof) -> None:
        """Nothing is copied: the worker reads the live tensors."""
        proof.prove(self, proof.tensors, lost=False)


def require_vllm() -> None:
    """Fail early and clearly where `rollout.engine = "vllm"` cannot work.

    Raises:
        UserError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            'rollout.engine = "vllm" but vLLM is not installed: install the extra sparring[cpu] or '
            'sparring[gpu], or set rollout.engine="transformers"'
        )


def _make_group_for_experts() -> None:
    """Let an engine have experts, also after one without.

    vLLM makes their group with a process's first engine, if that has some, and never later.
    """
    from vllm.distributed import parallel_state as state

    if state._EP is not None or not state.model_parallel_is_initialized():
        return
    tensor = state.get_tp_group()
    ranks = torch.arange(torch.distributed.get_world_size()).reshape(-1, tensor.world_size)
    backend = torch.distributed.get_backend(tensor.device_group)
    local_rank = state.get_world_group().local_rank
    state._EP = state.init_model_parallel_group(
        ranks.tolist(), local_rank, backend, group_name="ep"
    )


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _completion(output: "RequestOutput") -> Completion:
    (sampled,) = output.outputs
    ids = list(sampled.token_ids)
    logprobs = [entry[token].logprob for token, entry in zip(ids, sampled.logprobs, strict=True)]
    return Completion(ids, logprobs, sampled.finish_reason == "length")


def _finished(output: "RequestOutput") -> Finished:
    (sampled,) = output.outputs
    sequence = [*output.prompt_token_ids, *sampled.token_ids]
    return Finished(output.request_id, sequence, sampled.routed_experts)
