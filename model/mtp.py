"""Multi-token prediction: layers that each look one token further (arXiv:2412.19437, section 2.2).

    hidden states of the model, of tokens 1..T      embeddings of tokens 2..T
                        |                                       |
                      hnorm                                   enorm
                        +---------------- eh_proj -------------+
                                             |
                     decoder layer -> norm -> shared head -> tokens 3..T+1

Layer k of D predicts token i + k + 1 from the hidden state of token i at depth k - 1 and the
embeddings of tokens i + 1 to i + k; embedding and head are the model's own. Training only: leaves
out speculative decoding, which the serving engines do with these same weights.

Axes: B sequences, T tokens, U tokens that have a target at this depth, N tokens as one
axis, D width, P half of a head's rotated features, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.attention.layout import TokenLayout
from model.configuration import SparringMoeConfig
from model.experts.routing import Routing
from model.layers import DecoderLayer
from model.norm import RMSNorm

IGNORED = -100  # the label of a token on which no loss is wanted


@dataclass
class Prediction:
    """One depth: normed hidden states [B, U, D], their targets [B, U], and what the layer cost."""

    states_BUD: Tensor
    targets_BU: Tensor
    balance_loss: Tensor | None
    indexer_loss: Tensor | None


class MultiTokenLayer(DecoderLayer):
    """A decoder layer on the projected pair of a hidden state and a later token's embedding.

    The projection reads the embedding first, as DeepSeek's released weights do, where Eq. 21
    writes it second.
    """

    def __init__(self, config: SparringMoeConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = RMSNorm(width, eps)
        self.hnorm = RMSNorm(width, eps)
        self.eh_proj = nn.Linear(2 * width, width, bias=False)
        self.shared_head = nn.ModuleDict({"norm": RMSNorm(width, eps)})

    def forward(  # type: ignore[override]
        self,
        previous_BUD: Tensor,
        embedded_BUD: Tensor,
        rotations_BU1P: Tensor,
        layout: TokenLayout,
        routing: Routing | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Eqs. 21-22, and the norm before the shared head; then as `DecoderLayer`."""
        pair = torch.cat((self.enorm(embedded_BUD), self.hnorm(previous_BUD)), -1)
        x_BUD, *losses = super().forward(self.eh_proj(pair), rotations_BU1P, layout, routing)
        return self.shared_head["norm"](x_BUD), *losses


def predict_further(
    layers: Iterable[nn.Module],
    states_BTD: Tensor,
    embedded_BTD: Tensor,
    labels_BT: Tensor,
    rotations_BT1P: Tensor,
    layout: TokenLayout,
    *,
    counts: bool,
) -> Iterator[Prediction]:
    """Run the multi-token layers of a pass over whole sequences, each on the last one's states.

    The first layer reads the model's hidden states after the final norm, and the next ones their
    predecessor's after its norm: what `hnorm` of the released weights was trained on
    (https://github.com/ROCm/ATOM/pull/1764, https://github.com/vllm-project/vllm/pull/47448).

    A token counts at depth k if it and the k + 1 after it are real and of one document; the
    others are masked out of the targets and of the load. These layers route by themselves, to the
    config's number of experts: no rollout engine records ids for them, so none are replayed.
    """
    num_tokens = states_BTD.shape[1]
    for depth, layer in enumerate(layers, start=1):
        num_inputs = num_tokens - depth - 1
        if num_inputs < 1:
            return
        together_BU = _together(layout, labels_BT, depth + 1)
        states_BTD, balance_loss, indexer_loss = layer(
            states_BTD[:, :num_inputs],
            embedded_BTD[:, depth : depth + num_inputs],
            rotations_BT1P[:, :num_inputs],
            layout.first(num_inputs),
            Routing(together_BU.shape, real_N=together_BU.flatten(), counts=counts),
        )
        targets_BU = labels_BT[:, depth + 1 :].masked_fill(~together_BU, IGNORED)
        yield Prediction(states_BTD, targets_BU, balance_loss, indexer_loss)


def multi_token_loss(
    predictions: list[Prediction],
    head: nn.Module,
    loss_function: Callable[..., Tensor],
    num_items: int | Tensor,
) -> Tensor:
    """Mean over depths of the cross-entropy (Eqs. 24-25), before the weight lambda.

    Args:
        predictions: of each depth.
        head: the model's own.
        loss_function: the language model's.
        num_items: what the language model's loss is divided by (the T of Eq. 24); every depth
            divides by it too, though it has fewer targets.
    """
    losses = []
    for prediction in predictions:
        logits_BUV = head(prediction.states_BUD)
        losses.append(
            loss_function(
                logits=logits_BUV,
                labels=None,
                shift_labels=prediction.targets_BU,
                vocab_size=logits_BUV.shape[-1],
                num_items_in_batch=num_items,
            )
        )
    return torch.stack(losses).mean()


def _together(layout: TokenLayout, like_BT: Tensor, distance: int) -> Tensor:
    """Whether each token and the one `distance` after it are real and of one document: [B, U]."""
    positions_BT = layout.position_ids_BT.expand(like_BT.shape)
    starts_BT = torch.zeros_like(positions_BT)
    starts_BT[:, 1:] = positions_BT[:, 1:] <= positions_BT[:, :-1]
    document_BT = starts_BT.cumsum(1)
    real_BT = layout.real_N.view(like_BT.shape)
    together_BU = document_BT[:, :-distance] == document_BT[:, distance:]
    return together_BU & real_BT[:, :-distance] & real_BT[:, distance:]
