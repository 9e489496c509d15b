"""The routed experts: gated feed-forwards, each applied to the tokens routed to it.

`reference_experts` is the definition; `sorted_experts` and `grouped_experts` compute the same
fast. Which of them runs follows from device and type, or is fixed by `set_experts_path`, and is
logged. Expert -1 is an empty slot: no path computes anything for it. Leaves out FP8.

Axes: N tokens, K experts of a token, D model width, I expert width, E experts.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoint.naming import join_experts
from model.configuration import SparringMoeConfig
from model.experts.grouped import grouped_experts
from model.experts.sorted import sorted_experts

logger = logging.getLogger(__name__)


def reference_experts(
    x_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_E2ID: Tensor, down_EDI: Tensor
) -> Tensor:
    """Sum over a token's experts of weight * down(silu(gate x) * up x), as written."""
    out_ND = torch.zeros_like(x_ND)
    for expert in range(gate_up_E2ID.shape[0]):
        token, slot = torch.where(chosen_NK == expert)
        gate, up = F.linear(x_ND[token], gate_up_E2ID[expert]).chunk(2, dim=-1)
        y = F.linear(F.silu(gate) * up, down_EDI[expert]) * weights_NK[token, slot, None]
        out_ND = out_ND.index_add(0, token, y.to(x_ND.dtype))
    return out_ND


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "reference": reference_experts,
    "sorted": sorted_experts,
    "grouped": grouped_experts,
}


def choose_path(path: str | None, device: str, dtype: torch.dtype, widths: tuple[int, int]) -> str:
    """The path that computes experts of one type and two widths on one device: `path` if given.

    Sorted rows serve every device and type. Grouped products are faster where they are one
    kernel: in bf16 on an accelerator, with rows of whole 16 bytes.

    Raises:
        ValueError: no such path, or it cannot run there.
    """
    _check_name(path)
    types = (torch.bfloat16, torch.float32) if device == "cpu" else (torch.bfloat16,)
    fits = dtype in types and not any(width * dtype.itemsize % 16 for width in widths)
    if path is None:
        path = "grouped" if device != "cpu" and fits else "sorted"
    elif path == "grouped" and not fits:
        raise ValueError(
            f"the 'grouped' experts cannot run in {dtype} of widths {widths} on {device}: they "
            f"need {' or '.join(map(str, types))} and rows of whole 16 bytes; use 'sorted'"
        )
    _log_path(path, device, dtype)
    return path


def set_experts_path(model: nn.Module, path: str | None) -> None:
    """Fix the path of every layer's experts; None lets device and type decide.

    Raises:
        ValueError: no such path.
    """
    _check_name(path)
    for module in model.modules():
        if isinstance(module, RoutedExperts):
            module.path = path


def _check_name(path: str | None) -> None:
    if path is not None and path not in PATHS:
        raise ValueError(f"the experts have no path {path!r}: use one of {[*PATHS]}, or None")


@cache  # one line per process and choice, not one per layer and step
def _log_path(path: str, device: str, dtype: torch.dtype) -> None:
    logger.info("routed experts: the %s path, for %s on %s", path, dtype, device)


class RoutedExperts(nn.Module):
    """All experts of a layer, fused into two parameters; on disk they are split by expert."""

    def __init__(self, config: SparringMoeConfig) -> None:
        super().__init__()
        num_experts, width = config.n_routed_experts, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * width, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, config.hidden_size, width))
        self.path: str | None = None  # see `choose_path`
        self.fp8: Callable[..., Tensor] | None = None  # set by `convert_to_fp8`

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """As torch's. Names on disk serve too: transformers' trainer resumes with those."""
        missing_keys += join_experts(state_dict, prefix, dict(self.named_parameters()))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def forward(self, x_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor) -> Tensor:
        gate_up_E2ID, down_EDI = self.gate_up_proj, self.down_proj
        device = x_ND.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            x_ND = x_ND.to(dtype)
            if self.fp8 is None:  # FP8 quantises the master weights
                gate_up_E2ID, down_EDI = gate_up_E2ID.to(dtype), down_EDI.to(dtype)
        with torch.autocast(device, enabled=False):
            if self.fp8 is not None:
                _log_path("fp8", device, x_ND.dtype)
                return self.fp8(x_ND, chosen_NK, weights_NK, gate_up_E2ID, down_EDI)
            path = choose_path(self.path, device, x_ND.dtype, down_EDI.shape[1:])
            return PATHS[path](x_ND, chosen_NK, weights_NK, gate_up_E2ID, down_EDI)
