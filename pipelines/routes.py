"""Which experts a sampler chose for every token, so that training can see and replay them.

A vLLM engine in this process is watched while it generates: `RouteRecorder` reads each step's
expert ids beside vLLM's own account of whose tokens they are. On an accelerator vLLM returns the
ids itself (`ReturnedRoutes`), transformers' generation tells them a pass (`pass_recorder`).
Routes travel with the tokens they belong to and are refused where those do not match. How they are
replayed is in `replay.py`.

Axes: R requests, T tokens of a sequence, N tokens of a step, S slots of the KV cache, L layers with
routed experts, K experts of a token, B sequences of
a pass.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from transformers import PretrainedConfig

from model.decoder import DecoderOutput
from model.modeling import SparringMoeForCausalLM
from pipelines.process import UnprovenSyncError

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

UNKNOWN = -1
MIXTURES = ("deepseek_v3", "deepseek_v32")  # model types of our checkpoints


@dataclass(frozen=True)
class Routes:
    """The experts of a sequence's tokens: all but the last, which no sampler ever runs.

    Attributes:
        token_ids_T: the tokens that were routed.
        experts_TLK: their experts, in no order.
    """

    token_ids_T: np.ndarray
    experts_TLK: np.ndarray

    def __post_init__(self) -> None:
        assert len(self.token_ids_T) == len(self.experts_TLK), "a route a token"


def checked_routes(
    whose: str, token_ids_T: np.ndarray, experts_TLK: np.ndarray, sequence: Sequence[int]
) -> Routes:
    """The routes of a sequence's tokens but the last.

    Raises:
        UnprovenSyncError: they are another sequence's, or a token has none.
    """
    wanted = np.asarray(sequence[:-1])
    if not np.array_equal(token_ids_T, wanted):
        raise UnprovenSyncError(
            f"the routes of {whose} belong to {len(token_ids_T)} tokens that are not its "
            f"{len(wanted)}: they were shifted or swapped with another request's"
        )
    missing = np.flatnonzero((experts_TLK < 0).all(-1).any(-1))
    if len(missing):
        raise UnprovenSyncError(
            f"{len(missing)} of {len(wanted)} tokens of {whose} have no routes, first {missing[0]}"
        )
    return Routes(token_ids_T.copy(), experts_TLK.copy())


class RouteSource(Protocol):
    """What tells the routes of the requests that an engine has finished."""

    def recording(self, num_requests: int, max_tokens: int) -> AbstractContextManager[None]: ...

    def routes(self, output: "RequestOutput") -> Routes: ...


def sequence_of(output: "RequestOutput") -> list[int]:
    """A finished request's prompt and completion."""
    return [*output.prompt_token_ids, *output.outputs[0].token_ids]


def expert_dtype(num_experts: int) -> np.dtype:
    """The smallest integers that hold every expert's id and -1."""
    return np.dtype(np.int8 if num_experts <= 128 else np.int16)


class RouteRecorder:
    """Watches the routers of a vLLM model that runs eagerly in this process.

    Each step's tokens are told apart by the runner's own batch: request, position, and slot of the
    KV cache. A token whose keys came from the prefix cache was not run for this request, so its
    routes are those of the run that filled its slot; so too after a preemption.
    """

    def __init__(self, runner: "GPUModelRunner") -> None:
        from vllm.model_executor.layers.fused_moe.layer import MoERunner

        model = runner.get_model()
        layers = [module for module in model.modules() if isinstance(module, MoERunner)]
        self.routers = [m.router for m in sorted(layers, key=lambda layer: layer.layer_id)]
        self.batch, self.runner = runner.input_batch, runner
        (self.block_table,) = self.batch.block_table.block_tables
        num_slots = runner.kv_cache_config.num_blocks * self.block_table.kv_cache_block_size
        router = self.routers[0]
        self.per_token = (len(self.routers), router.top_k)
        self.dtype = expert_dtype(router.global_num_experts)
        self.slot_tokens_S = np.full(num_slots, UNKNOWN, np.int32)
        self.slot_experts_SLK = np.full((num_slots, *self.per_token), UNKNOWN, self.dtype)

    @contextmanager
    def recording(self, num_requests: int, max_tokens: int) -> Iterator[None]:
        """Record what is generated within the block; afterwards ask `routes` for it.

        Args:
            num_requests: that will be made.
            max_tokens: of the longest sequence.
        """
        shape = (num_requests, max_tokens)
        self.rows: dict[str, int] = {}  # a request's row in the three arrays below
        self.known_R = np.zeros(num_requests, np.int64)  # positions of a request that were recorded
        self.tokens_RT = np.full(shape, UNKNOWN, np.int32)
        self.experts_RTLK = np.full((*shape, *self.per_token), UNKNOWN, self.dtype)
        for rank, router in enumerate(self.routers):
            router.set_capture_fn(partial(self._capture, rank))
        try:
            yield
        finally:
            for router in self.routers:
                router.set_capture_fn(None)

    def routes(self, output: "RequestOutput") -> Routes:
        """A finished request's routes.

        Raises:
            UnprovenSyncError: the request was not recorded, or not all of it.
        """
        whose, row = f"request {output.request_id}", self.rows.get(output.request_id)
        if row is None:
            raise UnprovenSyncError(f"no step of {whose} was recorded")
        known = self.known_R[row]
        tokens_T, experts_TLK = self.tokens_RT[row, :known], self.experts_RTLK[row, :known]
        return checked_routes(whose, tokens_T, experts_TLK, sequence_of(output))

    def _capture(self, rank: int, chosen_NK: torch.Tensor) -> None:
        """Called by the router of each layer, in order, once a step."""
        if rank == 0:
            num_tokens = int(self.runner.query_start_loc.np[self.batch.num_reqs])
            self.step_NLK = np.full((num_tokens, *self.per_token), UNKNOWN, self.dtype)
        self.step_NLK[:, rank] = chosen_NK[: len(self.step_NLK)].cpu().numpy()
        if rank == len(self.routers) - 1:
            self._note_step()

    def _note_step(self) -> None:
        num_requests = self.batch.num_reqs
        bounds = self.runner.query_start_loc.np[: num_requests + 1]
        num_tokens = bounds[-1]
        positions_N = self.runner.positions[:num_tokens].cpu().numpy()
        tokens_N = self.runner.input_ids.gpu[:num_tokens].cpu().numpy()
        slots_N = self.block_table.slot_mapping.gpu[:num_tokens].cpu().numpy()
        self.slot_tokens_S[slots_N] = tokens_N
        self.slot_experts_SLK[slots_N] = self.step_NLK
        rows_R = np.array([self._row(request_id) for request_id in self.batch.req_ids])
        firsts_R, counts_R = positions_N[bounds[:-1]], np.diff(bounds)
        for place in np.flatnonzero(firsts_R != self.known_R[rows_R]):
            self._read_slots(place, rows_R[place], firsts_R[place])
        rows_N = np.repeat(rows_R, counts_R)
        self.tokens_RT[rows_N, positions_N] = tokens_N
        self.experts_RTLK[rows_N, positions_N] = self.step_NLK
        self.known_R[rows_R] = firsts_R + counts_R

    def _row(self, request_id: str) -> int:
        """vLLM appends random characters to the id that its outputs carry."""
        return self.rows.setdefault(request_id.rpartition("-")[0], len(self.rows))

    def _read_slots(self, place: int, row: int, num_cached: int) -> None:
        """Take over what other runs left in the slots of a request's cached tokens."""
        size = self.block_table.block_size
        positions_T = np.arange(num_cached)
        blocks_T = self.block_table.block_table.np[place, positions_T // size]
        slots_T = blocks_T * size + positions_T % size
        self.tokens_RT[row, :num_cached] = self.slot_tokens_S[slots_T]
        self.experts_RTLK[row, :num_cached] = self.slot_experts_SLK[slots_T]


class ReturnedRoutes:
    """Routes that vLLM's V2 model runner returns with each request, on accelerators."""

    def __init__(self, num_dense: int) -> None:
        self.num_dense = num_dense  # layers without experts: the first ones, with empty rows

    @contextmanager
    def recording(self, num_requests: int, max_tokens: int) -> Iterator[None]:
        """Nothing to prepare."""
        yield

    def routes(self, output: "RequestOutput") -> Routes:
        """A finished request's routes.

        Raises:
            UnprovenSyncError: vLLM returned none, or not one a token.
        """
        sequence = sequence_of(output)
        returned_TLK = output.outputs[0].routed_experts
        if returned_TLK is None or len(returned_TLK) < len(sequence) - 1:
            found = 0 if returned_TLK is None else len(returned_TLK)
            raise UnprovenSyncError(
                f"vLLM returned routes of {found} tokens for request {output.request_id}, which "
                f"has {len(sequence) - 1}"
            )
        own_TLK = returned_TLK[: len(sequence) - 1, self.num_dense :].astype(np.int16)
        return Routes(np.asarray(sequence[:-1], np.int32), own_TLK)


def returned_option(config: PretrainedConfig, routing_replay: bool) -> dict[str, bool]:
    """What vLLM must be told at its start so that it returns routes; nothing on CPU.

    vLLM refuses it there, and `RouteRecorder` takes its place.
    """
    wanted = routing_replay and config.model_type in MIXTURES and torch.accelerator.is_available()
    return {"enable_return_routed_experts": True} if wanted else {}


def route_source(
    config: PretrainedConfig,
    returned: dict[str, bool],
    runner: Callable[[], "GPUModelRunner"] | None,
) -> RouteSource | None:
    """Where an engine of this process tells its routes; None if it has none to tell.

    Args:
        config: the model's.
        returned: `returned_option` of it.
        runner: gives the runner of a model that runs eagerly; None for a compiled one, whose
            routers call nobody.
    """
    if config.model_type not in MIXTURES:
        return None
    if returned:
        return ReturnedRoutes(config.first_k_dense_replace)
    if runner is None or torch.accelerator.is_available():
        return None
    return RouteRecorder(runner())


@contextmanager
def pass_recorder(moe: SparringMoeForCausalLM) -> Iterator[list[np.ndarray]]:
    """The expert ids [B, T, L, K] of each of our model's forward passes within the block.

    They must be asked for: `record=True`, which `generate` hands on.
    """
    dtype = expert_dtype(moe.config.n_routed_experts)
    passes: list[np.ndarray] = []

    def note(_model: torch.nn.Module, _inputs: tuple, outputs: DecoderOutput) -> None:
        passes.append(outputs.routed_experts.cpu().numpy().astype(dtype))

    handle = moe.model.register_forward_hook(note)
    try:
        yield passes
    finally:
        handle.remove()


def generated_routes(
    passes: Sequence[np.ndarray],
    width: int,
    prompts: Sequence[Sequence[int]],
    sequences: Sequence[list[int]],
) -> list[Routes]:
    """Each sequence's routes, from the passes of one generation over prompts padded to a width.

    Raises:
        UnprovenSyncError: a token has none.
    """
    experts_BTLK = np.concatenate(passes, axis=1)
    found = []
    for row, (prompt, sequence) in enumerate(zip(prompts, sequences, strict=True)):
        first = width - len(prompt)
        own_TLK = experts_BTLK[row, first : first + len(sequence) - 1]
        tokens_T = np.asarray(sequence[: len(own_TLK)], np.int32)
        found.append(checked_routes(f"row {row}", tokens_T, own_TLK, sequence))
    return found
