"""Watches the routers of a vLLM model from inside vLLM's worker, in whatever process that is.

`RouteRecorder` reads each step's expert ids beside vLLM's own account of whose tokens they are. It
is reached through `rollouts/worker.py`, so that the engine in the trainer's process and a server
are watched alike, and hands routes over as text that JSON carries. Only on CPU: on accelerators
vLLM returns routes itself. Leaves out what is made of them, and whether they are believed
(`rollouts/routes.py`).

Axes: R requests, T tokens of a sequence, N tokens of a step, S slots of the KV cache, L layers with
routed experts, K experts of a token.
"""

import base64
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


UNKNOWN = -1
Packed = dict[str, object]  # an array as JSON carries it


def expert_dtype(num_experts: int) -> np.dtype:
    """The smallest integers that hold every expert's id and -1."""
    return np.dtype(np.int8 if num_experts <= 128 else np.int16)


def pack(array: np.ndarray) -> Packed:
    """An array as text, with what `unpack` needs to know of it."""
    data = base64.b64encode(np.ascontiguousarray(array)).decode()
    return {"data": data, "shape": list(array.shape), "dtype": array.dtype.name}


def unpack(packed: Packed) -> np.ndarray:
    """The array that was packed; it cannot be written to."""
    data = np.frombuffer(base64.b64decode(packed["data"]), packed["dtype"])  # type: ignore
    return data.reshape(packed["shape"])  # type: ignore[call-overload, no-any-return]


class RouteRecorder:
    """Watches the routers of a vLLM model that runs eagerly in this process.

    The runner's own batch says whose each step's tokens are: request, position, and slot of the KV
    cache. A token whose keys came from the prefix cache was not run for this request, so its
    routes are those of the run that filled its slot; so too after a preemption.

    What is recorded lives from `start` to `take`, however many requests come in between.
    """

    def __init__(self, runner: "GPUModelRunner") -> None:
        from vllm.model_executor.layers.fused_moe.layer import MoERunner

        model = runner.get_model()
        layers = [module for module in model.modules() if isinstance(module, MoERunner)]
        self.routers = [m.router for m in sorted(layers, key=lambda layer: layer.layer_id)]
        self.batch, self.runner = runner.input_batch, runner
        (self.block_table,) = self.batch.block_table.block_tables
        router = self.routers[0]
        self.per_token = (len(self.routers), router.top_k)
        self.dtype = expert_dtype(router.global_num_experts)

    def start(self) -> None:
        """Record from here on; the prefix cache must be empty, and what was recorded is dropped."""
        block_size = self.block_table.kv_cache_block_size
        num_slots = self.runner.kv_cache_config.num_blocks * block_size
        self.slot_tokens_S = np.full(num_slots, UNKNOWN, np.int32)
        self.slot_experts_SLK = np.full((num_slots, *self.per_token), UNKNOWN, self.dtype)
        self.rows: dict[str, int] = {}  # a request's row in the three arrays below
        shape = (self.runner.max_num_reqs, self.runner.max_model_len)
        self.known_R = np.zeros(shape[0], np.int64)  # positions of a request that were recorded
        self.tokens_RT = np.empty(shape, np.int32)  # memory is used only where it is written
        self.experts_RTLK = np.empty((*shape, *self.per_token), self.dtype)
        for moe_layer, router in enumerate(self.routers):
            router.set_capture_fn(partial(self._capture, moe_layer))

    def take(self, requests: Sequence[str]) -> list[dict[str, Packed] | None]:
        """Stop, hand over the tokens and experts of some requests, and forget all.

        Args:
            requests: ids as vLLM's outputs carry them.

        Returns:
            "tokens" [T] and "experts" [T, L, K], packed; None for a request that no step ran.
        """
        for router in self.routers:
            router.set_capture_fn(None)
        packed = [self._packed(self.rows.get(request)) for request in requests]
        self.rows = {}
        del self.slot_tokens_S, self.slot_experts_SLK
        del self.known_R, self.tokens_RT, self.experts_RTLK
        return packed

    def _packed(self, row: int | None) -> dict[str, Packed] | None:
        if row is None:
            return None
        known = self.known_R[row]
        experts_TLK = self.experts_RTLK[row, :known]
        return {"tokens": pack(self.tokens_RT[row, :known]), "experts": pack(experts_TLK)}

    def _capture(self, moe_layer: int, chosen_NK: torch.Tensor) -> None:
        """Called by the router of each layer with experts, in order, once per step."""
        if moe_layer == 0:
            num_tokens = int(self.runner.query_start_loc.np[self.batch.num_reqs])
            self.step_NLK = np.full((num_tokens, *self.per_token), UNKNOWN, self.dtype)
        self.step_NLK[:, moe_layer] = chosen_NK[: len(self.step_NLK)].cpu().numpy()
        if moe_layer == len(self.routers) - 1:
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
        row = self.rows.setdefault(request_id.rpartition("-")[0], len(self.rows))
        if row == len(self.known_R):
            self.known_R = np.concatenate([self.known_R, np.zeros_like(self.known_R)])
            self.tokens_RT = _doubled(self.tokens_RT)
            self.experts_RTLK = _doubled(self.experts_RTLK)
        return row

    def _read_slots(self, place: int, row: int, num_cached: int) -> None:
        """Take over what other runs left in the slots of a request's cached tokens."""
        size = self.block_table.block_size
        positions_T = np.arange(num_cached)
        blocks_T = self.block_table.block_table.np[place, positions_T // size]
        slots_T = blocks_T * size + positions_T % size
        self.tokens_RT[row, :num_cached] = self.slot_tokens_S[slots_T]
        self.experts_RTLK[row, :num_cached] = self.slot_experts_SLK[slots_T]


def _doubled(rows_R: np.ndarray) -> np.ndarray:
    return np.concatenate([rows_R, np.empty_like(rows_R)])
