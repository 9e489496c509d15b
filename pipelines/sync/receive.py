"""The receiving half of the weight sync: it runs inside vLLM's worker, in whatever process that is.

vLLM mixes `SyncWorker`, or a class that extends it, into its worker (`worker_extension_cls`) and
reaches it by `collective_rpc`, so that the engine in the trainer's process and an API server run
the same checks. Weights arrive as an iterator of live tensors, as the path of a safetensors file in
shared memory, or as an invitation to a process group (`sync/broadcast.py`). Four checks:
  received   the fingerprint of every tensor as it arrived, before any packing, for the sender;
  poison     engine parameters and fresh memory start as NaN, so what the reload misses stays NaN;
  packed     vLLM's CPU linears keep a private packed copy: each must have been packed anew;
  stamp      empty from the first poisoned tensor until the sender has proven the result.

Leaves out everything that needs the policy: names, log-probabilities (`sync/push.py`).
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open

from pipelines.policy.fingerprint import Fingerprints, NamedTensors, fingerprint
from pipelines.policy.manifest import Manifest, checkpoint_manifest
from pipelines.sync.broadcast import received
from pipelines.sync.replica import Payload

PackedLinear = Callable[..., torch.Tensor]


class SyncWorker:
    """Methods that vLLM's worker gains; none of their names may be one of its own.

    Attributes:
        sync_stamp: names the proven weights; empty where nothing was proven since the start.
    """

    sync_stamp = ""
    sync_received = ""  # the stamp that came with the weights which the engine holds

    def sync_state(self) -> dict[str, object]:
        """Which weights this worker vouches for; any answer shows that the engine's loop runs."""
        import vllm

        return {"stamp": self.sync_stamp, "pid": os.getpid(), "vllm": vllm.__version__}

    def sync_model(self) -> dict[str, object]:
        """What the engine was started from: dtype, longest sequence, tensor names and shapes."""
        config = self.model_config  # type: ignore[attr-defined]
        return {
            "model": config.model,
            "dtype": str(config.dtype).removeprefix("torch."),
            "max_model_len": config.max_model_len,
            "logprobs_mode": str(config.logprobs_mode),
            "manifest": {n: list(shape) for n, shape in _own_manifest(config.model).items()},
        }

    def sync_receive(self, weights: Payload, stamp: str) -> dict[str, object]:
        """Poison, reload and repack; the stamp stays empty until `sync_certify`.

        Args:
            weights: named tensors, the path of a safetensors file, or an invitation to a group.
            stamp: the only one that these weights can be certified with.

        Returns:
            "received", a fingerprint by name, "stale", the engine's tensors that kept their values,
            and "error", vLLM's own where it could not load them (else empty).
        """
        self.sync_stamp = self.sync_received = ""
        module = self.get_model()  # type: ignore[attr-defined]
        packed = _packed_linears(module)
        _poison(module)
        arrived: Fingerprints = {}
        try:
            with _fresh_memory_is_nan():
                self.sync_load(_fingerprinted(_named(weights), arrived))
        except Exception as error:  # any of vLLM's: the sender knows which tensor was the wrong one
            return {"received": arrived, "stale": [], "error": f"{type(error).__name__}: {error}"}
        _repack_cpu_experts(module)
        _repack_tied_heads(module, packed)
        stale = [n for n, p in module.named_parameters() if torch.isnan(p).any().item()]
        stale += [n for n, linear in _packed_linears(module).items() if linear is packed.get(n)]
        self.sync_received = stamp
        return {"received": arrived, "stale": stale, "error": ""}

    def sync_load(self, tensors: NamedTensors) -> None:
        """Give the tensors to vLLM's own layer-wise reload."""
        self.reload_weights(weights_iterator=tensors)  # type: ignore[attr-defined]

    def sync_certify(self, stamp: str) -> None:
        """Stamp the weights that the sender has proven, unless others have come since."""
        self.sync_stamp = stamp if stamp == self.sync_received else ""

    def sync_furthest(self, weights: Payload, num: int) -> list[list[object]]:
        """The engine's parameters furthest from `weights`: [largest difference, name] each.

        Only where the engine keeps the checkpoint's name and shape.
        """
        own = dict(self.get_model().named_parameters())  # type: ignore[attr-defined]
        scored = []
        for name, tensor in _named(weights):
            twin = own.get(name)
            if twin is not None and twin.shape == tensor.shape:
                difference = (twin.float() - tensor.detach().to(twin.device).float()).abs().max()
                scored.append((difference.item(), name))
        return [[difference, name] for difference, name in sorted(scored, reverse=True)[:num]]


def _own_manifest(model: str) -> Manifest:
    """Names and shapes of the engine's own checkpoint; none where it is not a folder here."""
    return checkpoint_manifest(Path(model)) if Path(model).is_dir() else {}


def _named(weights: Payload) -> NamedTensors:
    if isinstance(weights, dict):
        yield from received(weights)
        return
    if not isinstance(weights, str):
        yield from weights
        return
    with safe_open(weights, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - a safetensors handle, not a dict
            yield name, opened.get_tensor(name)


def _fingerprinted(tensors: NamedTensors, arrived: Fingerprints) -> NamedTensors:
    for name, tensor in tensors:
        arrived[name] = fingerprint(tensor)
        yield name, tensor.detach()


@torch.no_grad()
def _poison(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.fill_(float("nan"))


@contextmanager
def _fresh_memory_is_nan() -> Iterator[None]:
    """Fill memory that torch allocates with NaN, so that a half-loaded layer cannot look loaded."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def _packed_linears(module: torch.nn.Module) -> dict[str, PackedLinear]:
    """By name, the closures in which vLLM's CPU linears keep their packed weights."""
    found = {name: vars(part).get("cpu_linear") for name, part in module.named_modules()}
    return {n: f for n, f in found.items() if f is not None and f is not torch.nn.functional.linear}


def _repack_tied_heads(module: torch.nn.Module, packed: Mapping[str, PackedLinear]) -> None:
    """Repack a head that shares another module's weight (CPU only).

    No tensor is sent for it, so vLLM's reload leaves the packed copy of the old weights in place.
    """
    owners = {id(p): n for n, p in module.named_parameters()}  # the first owner of a shared one
    for name, linear in _packed_linears(module).items():
        part = module.get_submodule(name)
        if linear is packed.get(name) and owners[id(part.weight)] != f"{name}.weight":
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(part, remove_weight=False)


@torch.no_grad()
def _repack_cpu_experts(module: torch.nn.Module) -> None:
    """Repack fused experts that vLLM's reload left in checkpoint layout (CPU only).

    vLLM packs them when a model is first loaded, and its layer-wise reload does not: without this
    the engine is silently wrong, by 4.3 nats on a trained model.
    """
    if torch.accelerator.is_available():
        return
    from vllm import _custom_ops

    repack: Callable[[torch.Tensor, str], torch.Tensor] = _custom_ops.cpu_prepack_moe_weight
    for name, parameter in module.named_parameters():
        if name.endswith(("experts.w13_weight", "experts.w2_weight")):
            layer = module.get_submodule(name.rpartition(".")[0])
            kernel = layer.quant_method.moe_kernel.fused_experts
            parameter.copy_(repack(parameter.clone(), kernel.isa))
