"""AdamW with its two moments in bfloat16, as DeepSeek-V3 keeps them (arXiv:2412.19437, 3.3.3).

Half the optimizer's memory: 4 bytes per parameter in place of 8. The step itself is computed in
float32, on float32 (master) parameters. torch's AdamW keeps its moments in the parameter's type,
torchao's keep 8 bits or fewer, and TransformerEngine's runs on GPUs only. Leaves out AMSGrad,
foreach and fused variants.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Rounding to nearest swallows a change of less than 2^-9 of the second moment. With a larger beta2
# it would not decay: one great gradient would stop a parameter for good.
MAX_BETA2 = 0.99


class BFloat16AdamW(torch.optim.Optimizer):
    """Decoupled weight decay (arXiv:1711.05101), moments in bfloat16.

    Args:
        params: as for any optimizer.
        lr: learning rate.
        betas: decays of the moments; DeepSeek-V3 trains with (0.9, 0.95).
        eps: added to the root of the second moment.
        weight_decay: share of each parameter taken off per step, times the learning rate.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        params: object,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        if lr < 0 or eps <= 0 or weight_decay < 0 or not 0 <= betas[0] < 1:
            raise ValueError(
                f"lr and weight_decay must be at least 0, eps positive and beta1 in [0, 1), got "
                f"lr={lr}, weight_decay={weight_decay}, eps={eps}, betas={betas}"
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)  # type: ignore[arg-type]
        self.register_load_state_dict_post_hook(_restore_types)

    def add_param_group(self, param_group: dict) -> None:
        """As torch's; a group may have settings of its own."""
        super().add_param_group(param_group)
        _check_beta2(self.param_groups[-1]["betas"][1])

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter with a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict) -> None:
        state, grad = self.state[parameter], parameter.grad.float()
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] += 1
        (beta1, beta2), lr = group["betas"], group["lr"]
        mean = state["exp_avg"].float().lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].float().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)
        root = square.div_(1 - beta2 ** state["step"]).sqrt_().add_(group["eps"])
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.addcdiv_(mean, root, value=-lr / (1 - beta1 ** state["step"]))


def _check_beta2(beta2: float) -> None:
    if not 0 <= beta2 <= MAX_BETA2:
        raise ValueError(
            f"beta2 must lie in [0, {MAX_BETA2}], got {beta2}: bfloat16 rounds away the "
            "slow decay of the second moment; DeepSeek-V3 trains with 0.95"
        )


def _restore_types(optimizer: torch.optim.Optimizer) -> None:
    """Loading a state turns it into the parameters' type; what was bfloat16 loses nothing back."""
    for group in optimizer.param_groups:
        if "betas" not in group:
            raise ValueError("the optimizer state has no betas: it was saved by another optimizer")
        _check_beta2(group["betas"][1])
    for state in optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = state[name].to(torch.bfloat16)
