"""Which experts a sampler chose for every token, so that training can see and replay them.

On CPU a vLLM engine, in this process or in a server's, is watched by `recorder.RouteRecorder` while
it generates (`RecordedRoutes`); on an accelerator vLLM returns the ids itself (`ReturnedRoutes`);
our own model records them in each forward pass (`pass_recorder`). Routes travel with the tokens
they belong to and are refused where those do not match. Leaves out how they are replayed
(`training/replay.py`).

Axes: T tokens of a sequence, L layers with routed experts, K experts of a token, B sequences of a
pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers import PretrainedConfig

from model.decoder import DecoderOutput
from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UnprovenSyncError
from pipelines.rollouts.recorder import expert_dtype, unpack

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
        assert len(self.token_ids_T) == len(self.experts_TLK), "one route per token"


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


@dataclass(frozen=True)
class Finished:
    """A request that an engine has answered.

    Attributes:
        request: the id that its engine gave it.
        sequence: its prompt and completion.
        returned_TLK: the routes that vLLM returned with it, where it was asked to.
    """

    request: str
    sequence: list[int]
    returned_TLK: np.ndarray | None


class Watched(Protocol):
    """An engine whose worker can be asked; every `Replica` is one."""

    def call(self, method: str, **kwargs: object) -> list[dict]: ...


class RouteSource(Protocol):
    """Where the routes of the requests come from that an engine has finished."""

    def begin(self, engine: Watched) -> None:
        """Before the requests; their routes must be fetched after them."""
        ...

    def routes(self, engine: Watched, finished: Sequence[Finished]) -> list[Routes]: ...


class RecordedRoutes:
    """Routes that the recorder in the engine's worker has seen (CPU)."""

    def begin(self, engine: Watched) -> None:
        engine.call("watch_routes")

    def routes(self, engine: Watched, finished: Sequence[Finished]) -> list[Routes]:
        """Fetch them; the worker forgets them.

        Raises:
            UnprovenSyncError: a request was not recorded, or not all of it.
        """
        requests = [one.request for one in finished]
        recorded = engine.call("take_routes", requests=requests)[0]["routes"]
        found = []
        for one, packed in zip(finished, recorded, strict=True):
            if packed is None:
                raise UnprovenSyncError(f"no step of request {one.request} was recorded")
            tokens_T, experts_TLK = unpack(packed["tokens"]), unpack(packed["experts"])
            whose = f"request {one.request}"
            found.append(checked_routes(whose, tokens_T, experts_TLK, one.sequence))
        return found


class ReturnedRoutes:
    """Routes that vLLM's V2 model runner returns with each request, on accelerators."""

    def __init__(self, num_dense: int) -> None:
        self.num_dense = num_dense  # layers without experts: the first ones, with empty rows

    def begin(self, engine: Watched) -> None:
        """Nothing to prepare."""

    def routes(self, engine: Watched, finished: Sequence[Finished]) -> list[Routes]:
        """What came with the answers.

        Raises:
            UnprovenSyncError: vLLM returned none, or not one per token.
        """
        return [self._own(one) for one in finished]

    def _own(self, one: Finished) -> Routes:
        num = len(one.sequence) - 1
        if one.returned_TLK is None or len(one.returned_TLK) < num:
            found = 0 if one.returned_TLK is None else len(one.returned_TLK)
            raise UnprovenSyncError(
                f"vLLM returned routes of {found} tokens for request {one.request}, which has {num}"
            )
        own_TLK = one.returned_TLK[:num, self.num_dense :].astype(np.int16)
        return Routes(np.asarray(one.sequence[:-1], np.int32), own_TLK)


def returned_option(config: PretrainedConfig, routing_replay: bool) -> dict[str, bool]:
    """The option with which vLLM must be started so that it returns routes; none on CPU.

    vLLM refuses it there, and `RecordedRoutes` take their place.
    """
    wanted = routing_replay and _routes(config) and torch.accelerator.is_available()
    return {"enable_return_routed_experts": True} if wanted else {}


def route_source(config: PretrainedConfig, routing_replay: bool, eager: bool) -> RouteSource | None:
    """Where the routes of a vLLM engine, here or as a server, come from; None if it has none.

    Args:
        config: the model's.
        routing_replay: whether it was asked to return them, where it can.
        eager: whether the model runs eagerly: a compiled one's routers cannot be watched.
    """
    if not _routes(config):
        return None
    if returned_option(config, routing_replay):
        return ReturnedRoutes(config.first_k_dense_replace)
    return None if torch.accelerator.is_available() or not eager else RecordedRoutes()


def _routes(config: PretrainedConfig) -> bool:
    """Whether a layer of the decoder has experts."""
    mixture = config.model_type in MIXTURES
    return mixture and config.first_k_dense_replace < config.num_hidden_layers


@contextmanager
def pass_recorder(moe: SparringMoeForCausalLM) -> Iterator[list[np.ndarray]]:
    """The expert ids [B, T, L, K] of each of our model's forward passes within the block.

    The passes must ask for them with `record=True`, which `generate` hands on.
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
