"""The pass that scores a batch of rollouts is the pass that is learned from.

Over rollouts of another engine TRL runs the policy twice: without gradients for the importance
ratio, then with gradients for the loss. Where a generation batch is one micro-batch of one update
the weights are the same and so are the numbers: the first pass keeps its graph and the second is
left out. (A completion that is masked out in between counts in the experts' load.) Leaves out what
is done with the numbers (TRL's losses, `training/replay.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipelines.policy.moe import moe_of


@dataclass(frozen=True)
class Kept:
    """A pass with gradients over a generation batch, in the batch's order before its shuffle."""

    input_ids_BT: Tensor
    logprobs_BT: Tensor
    entropies_BT: Tensor


class OnePass:
    """Put before GRPOTrainer: see the module's docstring."""

    _scores = False  # while rollouts are scored with gradients
    _kept: Kept | None = None
    _rows_B: Tensor | None = None  # of the micro-batch whose loss is computed

    def _keeps_its_pass(self) -> bool:
        args = self.args
        reuse = args.steps_per_generation * self.num_iterations
        return (
            reuse == args.gradient_accumulation_steps == 1
            and self.vllm_importance_sampling_correction
            and not args.gradient_checkpointing  # which TRL sets aside while it scores
            and not self.aux_loss_enabled
            and not _has_auxiliary_losses(self.policy)
        )

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        self._kept, self._scores = None, self._keeps_its_pass()
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._scores = False
        ids_BT = output["completion_ids"]
        return output | {"row": torch.arange(len(ids_BT), device=ids_BT.device)}

    def _compute_loss(self, model, inputs):  # type: ignore[no-untyped-def]
        self._rows_B = inputs["row"]
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._rows_B, self._kept = None, None

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ):  # type: ignore[no-untyped-def]
        score = super()._get_per_token_logps_and_entropies
        given = (input_ids, attention_mask, logits_to_keep)
        kept = self._kept
        if self._rows_B is not None and kept is not None:
            assert torch.equal(input_ids, kept.input_ids_BT[self._rows_B]), "another batch's pass"
            return kept.logprobs_BT[self._rows_B], kept.entropies_BT[self._rows_B], None
        if not (self._scores and kept is None and model is self.model):
            return score(model, *given, *args, **kwargs)
        with torch.enable_grad():
            logprobs_BT, entropies_BT, _ = score(
                self.model_wrapped, *given, *args, compute_entropy=True, **kwargs
            )
        self._kept = Kept(input_ids, logprobs_BT, entropies_BT)
        return logprobs_BT.detach(), None, None


def _has_auxiliary_losses(policy: nn.Module) -> bool:
    """Whether a pass of our model has losses of its own, which `training/moe_losses.py` takes from
    it."""
    moe = moe_of(policy)
    if moe is None:
        return False
    return moe.config.aux_loss_alpha > 0 or moe.config.model_type == "deepseek_v32"
