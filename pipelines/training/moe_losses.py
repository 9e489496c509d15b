"""What a mixture of experts adds to TRL's trainers: its own losses, and how even its load is.

TRL computes its losses from the backbone's hidden states, and of auxiliary losses it knows
Mixtral's, from router logits. Ours come with the backbone's output, already weighted: they are
taken from there and added to TRL's loss. Where there are labels, as in the cold start, the
multi-token layers get them, and their loss is one of these; GRPO has none and leaves those layers
as they are. The selection bias moves after each step.

Axes: E experts, B sequences, T tokens.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import Trainer

from model.decoder import DecoderOutput
from model.modeling import SparringMoeForCausalLM
from pipelines.policy.moe import Policy, moe_of

LOSSES = ("aux_loss", "indexer_loss")  # fields of DecoderOutput


@contextmanager
def collected_losses(
    moe: SparringMoeForCausalLM, labels_BT: Tensor | None = None
) -> Iterator[dict[str, list[Tensor]]]:
    """The auxiliary losses, by name, of every pass with gradients within the block."""
    found: defaultdict[str, list[Tensor]] = defaultdict(list)

    def hand_over(_module: nn.Module, inputs: tuple, options: dict) -> tuple[tuple, dict]:
        return inputs, {**options, "labels": labels_BT}

    def collect(_module: nn.Module, _inputs: tuple, outputs: DecoderOutput) -> None:
        if not torch.is_grad_enabled():
            return
        losses = {name: outputs.get(name) for name in LOSSES}
        if outputs.predictions:
            losses["mtp_loss"] = moe.mtp_loss(outputs.predictions, labels_BT)
        for name, loss in losses.items():
            if loss is not None:
                found[name].append(loss)

    handles = [
        moe.model.register_forward_pre_hook(hand_over, with_kwargs=True),
        moe.model.register_forward_hook(collect),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def add_auxiliary_losses(
    trainer: Trainer,
    compute_loss: Callable[..., Tensor | tuple[Tensor, object]],
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    return_outputs: bool,
    num_items_in_batch: Tensor | int | None,
) -> Tensor | tuple[Tensor, object]:
    """A TRL trainer's loss plus the model's auxiliary losses.

    Each is a mean over a micro-batch, and an optimizer step takes their mean over its
    micro-batches, however TRL normalises the rest.

    Args:
        trainer: whose `compute_loss` is overridden by this.
        compute_loss: its own, of the base class.
        model: the rest are the arguments of that method.
    """
    given = (model, inputs, return_outputs, num_items_in_batch)
    moe = moe_of(trainer.accelerator.unwrap_model(model))
    if moe is None:
        return compute_loss(*given)
    with collected_losses(moe, inputs.get("labels")) as found:
        computed = compute_loss(*given)
    loss, *outputs = computed if return_outputs else (computed,)
    for name, values in found.items():
        value = torch.stack(values).mean()
        loss = loss + value / _micro_batches_to_divide_by(trainer, num_items_in_batch)
        logged = trainer.accelerator.gather_for_metrics(value.detach()).mean().item()
        trainer._metrics["train"][name].append(logged)
    return (loss, *outputs) if return_outputs else loss


def _micro_batches_to_divide_by(trainer: Trainer, num_items_in_batch: Tensor | int | None) -> int:
    """1 where `Trainer.training_step` itself divides what `compute_loss` returns."""
    counted = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
    divided_later = not counted and trainer.compute_loss_func is None
    return 1 if divided_later else trainer.current_gradient_accumulation_steps


def has_auxiliary_losses(policy: nn.Module) -> bool:
    """Whether a pass of the policy has losses of its own."""
    moe = moe_of(policy)
    if moe is None:
        return False
    return moe.config.aux_loss_alpha > 0 or moe.config.model_type == "deepseek_v32"


class ExpertLoad:
    """Tokens that each routed expert got since the last `take`, by layer."""

    def __init__(self) -> None:
        self.by_layer: dict[int, Tensor] = {}

    def add(self, loads: Mapping[int, Tensor]) -> None:
        """Add loads [E] by layer."""
        for layer, load_E in loads.items():
            self.by_layer[layer] = self.by_layer.get(layer, 0) + load_E

    def take(self) -> dict[int, Tensor]:
        """The loads, [E] by layer, and count anew."""
        taken, self.by_layer = self.by_layer, {}
        return taken


def balance_experts(policy: Policy, load: ExpertLoad, bias_rate: float) -> dict[str, object]:
    """After an optimizer step: count the tokens per expert, and move the biases towards balance.

    Returns:
        How even the load was; empty without experts.
    """
    moe = moe_of(policy)
    if moe is None:
        return {}
    balance = summarised_balance(moe.balance_metrics())
    load.add(moe.router_load())
    if bias_rate > 0:
        moe.update_router_bias(bias_rate)
    moe.reset_router_load()
    return balance


def summarised_balance(layers: Mapping[int, Mapping[str, float]]) -> dict[str, object]:
    """A step's row: the worst layer's violation, all dead experts, mean shares, and each layer.

    Args:
        layers: `SparringMoeForCausalLM.balance_metrics`.

    Returns:
        Nothing if no layer counted a token.
    """
    if not layers:
        return {}
    rows = list(layers.values())
    shares = ("utilisation_token", "utilisation_batch", "utilisation_effective")
    return {
        "moe/max_over_mean": max(row["max_over_mean"] for row in rows),
        "moe/max_violation": max(row["max_violation"] for row in rows),
        "moe/dead_experts": sum(row["dead_experts"] for row in rows),
        **{f"moe/{name}": sum(row[name] for row in rows) / len(rows) for name in shares},
        "moe/layers": {
            str(layer): {name: round(value, 4) for name, value in row.items()}
            for layer, row in layers.items()
        },
    }
