"""What bench_model.py compares: our model, transformers', and the bare matrix products of both.

The two models share one set of weights. `products` lists every matrix product of a forward pass,
attention's two included (the causal half), and `Products` runs them as `torch.mm` on weights of
the same number and size, into memory that is already there. Leaves out timing.

Axes: B sequences, T tokens a sequence, M rows of a product, X its inner and Y its outer width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.deepseek_v3 import DeepseekV3Config, DeepseekV3ForCausalLM

from model.attention.cache import LatentCache
from model.configuration import SparringMoeConfig
from model.modeling import SparringMoeForCausalLM

SEED = 0


def bench_config(layers: int = 8, heads: int = 8) -> SparringMoeConfig:
    """A model of 196M parameters, DeepSeek-V3's parts at width 512.

    With 16 heads they are twice as wide together as the model, near DeepSeek-V3's 2.3.
    """
    return SparringMoeConfig(
        vocab_size=6144, hidden_size=512, intermediate_size=1536, moe_intermediate_size=256,
        num_hidden_layers=layers, first_k_dense_replace=1, n_routed_experts=64,
        num_experts_per_tok=4, n_group=8, topk_group=4, num_attention_heads=heads, q_lora_rank=None,
        kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64,
        max_position_embeddings=8192,
    )  # fmt: skip


def our_model(config: SparringMoeConfig, dtype: torch.dtype) -> SparringMoeForCausalLM:
    """Ours, freshly initialised."""
    torch.manual_seed(SEED)
    return SparringMoeForCausalLM(config).to(dtype).train()


def their_model(config: SparringMoeConfig, dtype: torch.dtype) -> DeepseekV3ForCausalLM:
    """Transformers' model, with its default expert implementation and its own initialisation."""
    torch.manual_seed(SEED)
    return DeepseekV3ForCausalLM(DeepseekV3Config(**config.to_dict())).to(dtype).train()


def share_weights(theirs: DeepseekV3ForCausalLM, ours: SparringMoeForCausalLM) -> None:
    """Let both models hold the same tensors; the names in memory are the same."""
    theirs.load_state_dict(ours.state_dict(), assign=True)
    for parameter in theirs.parameters():
        parameter.requires_grad_()


def tokens(config: SparringMoeConfig, shape_BT: tuple[int, int]) -> Tensor:
    """Random tokens, so that the routing of random weights is roughly even."""
    generator = torch.Generator("cpu").manual_seed(SEED)  # the same on every device
    drawn_BT = torch.randint(config.vocab_size, shape_BT, generator=generator, device="cpu")
    return drawn_BT.to(torch.get_default_device())


@torch.no_grad()
def forward(model: torch.nn.Module, ids_BT: Tensor) -> float:
    """The loss without gradients, as an evaluation takes it."""
    return model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss.item()


def forward_backward(model: torch.nn.Module, ids_BT: Tensor) -> float:
    """The loss and fresh gradients, as a training step takes them."""
    model.zero_grad(set_to_none=True)
    loss = model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
    loss.backward()
    return loss.item()


def filled_cache(
    model: torch.nn.Module, num_sequences: int, context: int, dtype: torch.dtype
) -> LatentCache | DynamicCache:
    """The model's default cache holding `context` tokens of noise, in place of a long prefill.

    Both caches hold the same tokens: transformers keeps the two features of a rotated pair half
    a width apart, we keep them side by side.
    """
    config, ours = model.config, isinstance(model, SparringMoeForCausalLM)
    cache = LatentCache(config.num_hidden_layers) if ours else DynamicCache(config=config)
    generator = torch.Generator("cpu").manual_seed(SEED)
    options = {"device": torch.get_default_device(), "dtype": dtype}

    def noise(width: int) -> Tensor:
        shape = (num_sequences, context, width)
        return torch.randn(shape, generator=generator, device="cpu").to(**options)

    for layer in range(config.num_hidden_layers):
        latent, key = noise(config.kv_lora_rank), noise(config.qk_rope_head_dim)
        if not ours:
            latent, key = latent[:, None], torch.cat((key[..., ::2], key[..., 1::2]), -1)[:, None]
        cache.update(latent, key, layer)
    return cache


@torch.inference_mode()
def decode(model: torch.nn.Module, ids_B1: Tensor, cache: LatentCache | DynamicCache) -> Tensor:
    """One token for each sequence; logits [B, 1, V]."""
    return model(input_ids=ids_B1, past_key_values=cache, use_cache=True).logits


@dataclass(frozen=True)
class Product:
    """`count` products of [M, X] by [X, Y]; `batched` if both factors are activations."""

    name: str
    count: int
    m: int
    x: int
    y: int
    batched: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.count * self.m * self.x * self.y


def products(config: SparringMoeConfig, shape_BT: tuple[int, int]) -> list[Product]:
    """Every matrix product of a forward pass, experts evenly used."""
    num_sequences, num_tokens = shape_BT
    n, d, heads = num_sequences * num_tokens, config.hidden_size, config.num_attention_heads
    layers, dense = config.num_hidden_layers, config.first_k_dense_replace
    moe, num_experts = layers - dense, config.n_routed_experts
    rows = n * config.num_experts_per_tok // num_experts
    width, shared = config.moe_intermediate_size, config.n_shared_experts
    latent, rope = config.kv_lora_rank, config.qk_rope_head_dim
    nope, value = config.qk_nope_head_dim, config.v_head_dim
    pairs = num_sequences * heads * layers
    return [
        Product("query", layers, n, d, heads * (nope + rope)),
        Product("latent", layers, n, d, latent + rope),
        Product("keys and values", layers, n, latent, heads * (nope + value)),
        Product("attention logits", pairs, num_tokens, nope + rope, num_tokens // 2, True),
        Product("attention context", pairs, num_tokens, num_tokens // 2, value, True),
        Product("attention output", layers, n, heads * value, d),
        Product("dense gate and up", 2 * dense, n, d, config.intermediate_size),
        Product("dense down", dense, n, config.intermediate_size, d),
        Product("router", moe, n, d, num_experts),
        Product("experts gate and up", moe * num_experts, rows, d, 2 * width),
        Product("experts down", moe * num_experts, rows, width, d),
        Product("shared gate and up", 2 * moe, n, d, shared * width),
        Product("shared down", moe, n, shared * width, d),
        Product("head", 1, n, d, config.vocab_size),
    ]


class Products:
    """The products with memory to run in: as many weights and weight gradients as the model."""

    def __init__(self, listed: list[Product], dtype: torch.dtype) -> None:
        self.flops = sum(product.flops for product in listed)
        self.work = [(product, _operands(product, dtype)) for product in listed]

    def forward(self) -> None:
        for product, (left, right, out, _, _) in self.work:
            for i in range(product.count):
                torch.mm(left, right[i % len(right)].T, out=out)

    def forward_backward(self) -> None:
        """Three times the flops: the product, and the gradients of its two factors."""
        self.forward()
        for product, (left, right, out, grad_left, grad_right) in self.work:
            for i in range(product.count):
                torch.mm(out, right[i % len(right)], out=grad_left)
                torch.mm(out.T, left, out=grad_right[i % len(right)])


def _operands(product: Product, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Left [M, X], right [copies, Y, X], out [M, Y], and the gradients of left and right."""
    copies = 1 if product.batched else product.count
    left = torch.randn(product.m, product.x).to(dtype)
    right = (torch.randn(copies, product.y, product.x) * product.x**-0.5).to(dtype)
    out = torch.randn(product.m, product.y).to(dtype)
    return left, right, out, torch.empty_like(left), torch.zeros_like(right)
