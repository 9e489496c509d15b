"""Verified weight sync: the policy's tensors into a vLLM engine, failing closed.

One naming serves save and sync: `model.checkpoint.named_checkpoint_tensors` for our model, merged
names for LoRA, plain HF names otherwise. Multi-token layers are not sent: no engine here holds
them. Six checks, each of which stops the run:
  manifest   the names and shapes sent are exactly those of the checkpoint the engine started from;
  poison     engine parameters and fresh memory start as NaN, so what the reload misses stays NaN;
  packed     vLLM's CPU linears keep a private packed copy: each must have been packed anew;
  canary     the engine's log-probabilities of one short sequence are finite (a NaN may be packed);
  probe      after syncs 1, 2 and every k-th, engine and policy must agree on log-probabilities;
  version    every generation asserts that the engine holds the policy's current weights version.
"""

import hashlib
import json
import logging
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer, ParamWrapper
from transformers import PreTrainedModel

from model.checkpoint import multi_token_prefixes, named_checkpoint_tensors, split_experts
from model.modeling import SparringMoeForCausalLM
from pipelines.auxiliary import moe_of
from pipelines.process import UnprovenSyncError
from pipelines.rollout import VllmEngine, policy_logprobs

logger = logging.getLogger(__name__)
NamedTensors = Iterator[tuple[str, torch.Tensor]]
Manifest = dict[str, tuple[int, ...]]
PackedLinear = Callable[..., torch.Tensor]
CANARY_TOKENS = 8


def policy_tensors(policy: PreTrainedModel | PeftModel) -> NamedTensors:
    """Yield every tensor of a policy under its checkpoint name, LoRA merged into temporaries.

    Those of multi-token layers are among them, which `served_tensors` leaves out.
    """
    if isinstance(policy, PeftModel):
        base = policy.get_base_model()
        merged = _without_tied(base, _merged_tensors(base, policy.active_adapter))
        if not isinstance(base, SparringMoeForCausalLM):
            yield from merged
            return
        for name, tensor in merged:  # one by one: a merged tensor lives until the next
            yield from split_experts({name: tensor})
    elif isinstance(policy, SparringMoeForCausalLM):
        yield from named_checkpoint_tensors(policy)
    else:
        yield from _without_tied(policy, iter(policy.state_dict().items()))


def served_tensors(policy: PreTrainedModel | PeftModel) -> NamedTensors:
    """`policy_tensors` of what an engine runs: without the multi-token layers of our model."""
    moe = moe_of(policy)
    if moe is None:
        yield from policy_tensors(policy)
        return
    layers = (moe.config.num_hidden_layers, moe.config.num_nextn_predict_layers)
    left_out = multi_token_prefixes(*layers)
    for name, tensor in policy_tensors(policy):
        if not name.startswith(left_out):
            yield name, tensor


def check_lora(policy: PeftModel) -> None:
    """Refuse adapters that cannot be merged by name, before anything is started.

    Raises:
        ValueError: an adapter is not plain LoRA on a linear layer.
    """
    base = policy.get_base_model()
    if policy.peft_config[policy.active_adapter].modules_to_save:
        raise ValueError("lora.modules_to_save is not served by the sync: remove it")
    tied = base.all_tied_weights_keys if base.config.tie_word_embeddings else {}
    for name, module in base.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        plain = isinstance(module, LoraLinear | ParamWrapper) and not module.lora_variant
        if not plain or {f"{name}.weight"} & {*tied, *tied.values()}:
            raise ValueError(
                f"lora: the adapter on {name} ({type(module).__name__}) is not plain LoRA on an "
                "untied linear layer, so the sync cannot merge it: leave it out of "
                "lora.target_modules and use no variant"
            )


def _without_tied(policy: PreTrainedModel, tensors: NamedTensors) -> NamedTensors:
    tied = policy.all_tied_weights_keys if policy.config.tie_word_embeddings else {}
    for name, tensor in tensors:
        if name not in tied:
            yield name, tensor


def _merged_tensors(base: PreTrainedModel, adapter: str) -> NamedTensors:
    """W + scale * B A per adapted layer; the base stays untouched, so nothing is rounded twice."""
    adapted = {
        _unwrapped(f"{name}.{_adapted_parameter(module)}"): module
        for name, module in base.named_modules()
        if isinstance(module, LoraLayer)
    }
    for wrapped, tensor in base.state_dict().items():
        name = _unwrapped(wrapped)
        if name in adapted:
            delta = adapted[name].get_delta_weight(adapter)
            yield name, tensor + delta.to(tensor.dtype)
        elif ".lora_" not in name:
            yield name, tensor


def _unwrapped(name: str) -> str:
    return name.replace(".base_layer", "")


def _adapted_parameter(layer: LoraLayer) -> str:
    return layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"


def weights_hash(policy: PreTrainedModel | PeftModel) -> str:
    """SHA-256 over names and bytes of every tensor of the policy, hex."""
    digest = hashlib.sha256()
    for name, tensor in policy_tensors(policy):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def checkpoint_manifest(directory: Path) -> Manifest:
    """Names and shapes of what an engine runs of a safetensors checkpoint, from the headers alone.

    Raises:
        ValueError: no safetensors file in the directory, or one that was cut short.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{directory} has no .safetensors file: save the checkpoint as safetensors"
        )
    manifest: Manifest = {}
    for file in files:
        manifest |= {name: tuple(entry["shape"]) for name, entry in _header(file).items()}
    config = json.loads((directory / "config.json").read_text())
    if config.get("num_nextn_predict_layers"):
        counts = config["num_hidden_layers"], config["num_nextn_predict_layers"]
        left_out = multi_token_prefixes(*counts)
        return {name: shape for name, shape in manifest.items() if not name.startswith(left_out)}
    return manifest


def _header(file: Path) -> dict[str, dict[str, list[int]]]:
    """The tensors' entries in a safetensors header, whose data must all be there."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            entries = json.loads(stream.read(min(length, size)))
        entries.pop("__metadata__", None)
        whole = size == 8 + length + max(entry["data_offsets"][1] for entry in entries.values())
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{file} is cut short or no safetensors file: save or copy it again")
    return entries


@dataclass
class WeightSync:
    """Moves one policy's weights into one engine and proves it.

    Args:
        engine: the receiver.
        manifest: what the engine was started from, from `checkpoint_manifest`.
        probe_sequences: token-id sequences on which both sides must agree.
        probe_every: syncs between probes, after the second.
        probe_threshold: largest allowed difference of log-probabilities, nats.
    """

    engine: VllmEngine
    manifest: Manifest
    probe_sequences: Sequence[Sequence[int]]
    probe_every: int
    probe_threshold: float
    num_syncs: int = 0
    probe_difference: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: {"sync": 0.0, "probe": 0.0})

    def push(self, policy: PreTrainedModel | PeftModel, version: int) -> None:
        """Send the weights, check them, and stamp the engine with their version.

        Raises:
            UnprovenSyncError: a check failed; the engine's version is then -1: nothing can be
                sampled from it.
        """
        start = time.perf_counter()
        self.engine.version = -1
        self.reload(served_tensors(policy))
        self._canary()
        self.num_syncs += 1
        self.seconds["sync"] += time.perf_counter() - start
        if self.num_syncs <= 2 or self.num_syncs % self.probe_every == 0:
            start = time.perf_counter()
            self.probe(policy)
            self.seconds["probe"] += time.perf_counter() - start
        self.engine.version = version

    def reload(self, tensors: NamedTensors) -> None:
        """Poison, reload, repack, and check names and NaNs; see the module's docstring."""
        module = self.engine.model()
        packed = _packed_linears(module)
        _poison(module)
        sent: Manifest = {}
        try:
            with _fresh_memory_is_nan():
                self._collective_reload(_recorded(tensors, sent))
        except Exception:  # not Ctrl-C, which may well come half-way
            _check_manifest(sent, self.manifest)  # says more than vLLM's own error, if it fails
            raise
        _check_manifest(sent, self.manifest)
        _repack_cpu_experts(module)
        _repack_tied_heads(module, packed)
        stale = [n for n, p in module.named_parameters() if torch.isnan(p).any().item()]
        stale += [n for n, linear in _packed_linears(module).items() if linear is packed.get(n)]
        if stale:
            raise UnprovenSyncError(
                f"the engine did not update {len(stale)} tensors, first {stale[:4]}"
            )
        self.engine.llm.reset_prefix_cache()

    def _collective_reload(self, tensors: NamedTensors) -> None:
        self.engine.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})

    def _canary(self) -> None:
        scores = self.engine.score([self.probe_sequences[0][:CANARY_TOKENS]])[0]
        if not all(map(math.isfinite, scores)):
            raise UnprovenSyncError(
                "the engine did not update a part of its packed tensors: its log-probabilities are "
                f"{scores}"
            )

    def probe(self, policy: PreTrainedModel | PeftModel) -> float:
        """Largest difference of log-probabilities between engine and policy (nats).

        Raises:
            UnprovenSyncError: it exceeds the threshold; names the place that differs most.
        """
        ours = policy_logprobs(policy, self.probe_sequences)
        theirs = self.engine.score(self.probe_sequences)
        self.probe_difference, sequence, position = largest_difference(ours, theirs)
        if not self.probe_difference <= self.probe_threshold:
            raise UnprovenSyncError(
                f"log-probability probe after sync {self.num_syncs}: engine and policy differ by "
                f"{self.probe_difference:.3g} nats (rollout.probe_threshold = "
                f"{self.probe_threshold:g}), most at "
                f"token {position} of probe {sequence}; suspect "
                f"{', '.join(self.suspects(policy)) or 'none named'}"
            )
        return self.probe_difference

    def suspects(self, policy: PreTrainedModel | PeftModel, num: int = 4) -> list[str]:
        """Engine parameters whose values differ most from the policy's, where shapes allow it."""
        engine = dict(self.engine.model().named_parameters())
        scored = []
        for name, tensor in served_tensors(policy):
            twin = engine.get(name)
            if twin is not None and twin.shape == tensor.shape:
                difference = (twin.float() - tensor.detach().float()).abs().max().item()
                scored.append((difference, name))
        worst = sorted(scored, reverse=True)[:num]
        return [f"{name} (max difference {d:.2g})" for d, name in worst if d > 0]


def largest_difference(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> tuple[float, int, int]:
    """Where two sets of log-probabilities differ most: nats, sequence, token position.

    A difference that is not a number counts as infinite: NaN compares as neither larger nor
    smaller, and would pass for agreement.
    """
    return max(
        (math.inf if math.isnan(a - b) else abs(a - b), sequence, position + 1)
        for sequence, (row_a, row_b) in enumerate(zip(ours, theirs, strict=True))
        for position, (a, b) in enumerate(zip(row_a, row_b, strict=True))
    )


def _recorded(tensors: NamedTensors, sent: Manifest) -> NamedTensors:
    for name, tensor in tensors:
        if name in sent:
            raise UnprovenSyncError(f"tensor {name} was sent twice")
        sent[name] = tuple(tensor.shape)
        yield name, tensor.detach()


def _check_manifest(sent: Manifest, expected: Manifest) -> None:
    missing = sorted(expected.keys() - sent.keys())
    extra = sorted(sent.keys() - expected.keys())
    reshaped = sorted(n for n in sent.keys() & expected.keys() if sent[n] != expected[n])
    if missing or extra or reshaped:
        raise UnprovenSyncError(
            f"the policy's tensors are not the engine's: {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}, {len(reshaped)} of another shape {reshaped[:3]}"
        )


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
