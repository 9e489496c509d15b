"""Does FP8 training follow bf16 training? Arms x paired seeds of a tiny model, resumable.

    OMP_NUM_THREADS=1 python benchmarks/exp_fp8.py

Arms: `fp32`; `bf16` (autocast, float32 masters, torch's AdamW); `fp8`, the same with DeepSeek-V3's
blockwise products, emulated, and bf16 moments; `unscaled`, the same with every scale 1. A seed
gives its arms the same language, initial weights and batches. The language is a random Markov
chain that the token before the last steers: attention must be used, and a perfect model's loss
(`floor`) is far from 0.
Writes benchmarks/results/fp8.json after each run. Leaves out tuning: one setting, for bf16.

Axes: B sequences, T tokens, V tokens of the vocabulary, H halves of it.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator

import torch
from harness import RESULTS, context, write_result
from scipy import stats
from torch import Tensor

from model.adamw import BFloat16AdamW
from model.configuration import tiny_config
from model.convert_fp8 import convert_to_fp8
from model.fp8.quantize import Fp8Recipe, Underflow
from model.modeling import SparringMoeForCausalLM

ARMS = ("bf16", "fp8", "unscaled", "fp32")
VOCABULARY, HALVES, LENGTH, BATCH = 16, 2, 32, 16
HELD_OUT = 64  # sequences
LAST_STEPS, EVALUATE_EVERY = 100, 10
PEAK_RATE, WARMUP = 2e-3, 40
SHAPE = {
    "hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 128,
    "num_hidden_layers": 2, "n_routed_experts": 4, "kv_lora_rank": 128, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32, "v_head_dim": 64, "n_group": 1, "topk_group": 1,
}  # fmt: skip


class Language:
    """Tokens drawn given the last, and which half of the vocabulary the one before it is in."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        shape = (HALVES, VOCABULARY, VOCABULARY)
        self.next_HVV = (2 * torch.randn(shape, generator=self.generator)).softmax(-1)

    def batch(self, size: int) -> Tensor:
        """Sequences [B, T]."""
        tokens = list(torch.randint(0, VOCABULARY, (2, size), generator=self.generator))
        while len(tokens) < LENGTH:
            chances_BV = self.chances(tokens[-2], tokens[-1])
            tokens.append(torch.multinomial(chances_BV, 1, generator=self.generator)[:, 0])
        return torch.stack(tokens, 1)

    def chances(self, before: Tensor, last: Tensor) -> Tensor:
        """Of each token to come next: one more axis, V."""
        return self.next_HVV[before * HALVES // VOCABULARY, last]

    def floor(self, ids_BT: Tensor) -> float:
        """Loss of a model that knows the language; the second token is uniform."""
        chances_BTV = self.chances(ids_BT[:, :-2], ids_BT[:, 1:-1])
        logs_BT = chances_BTV.gather(-1, ids_BT[:, 2:, None])[..., 0].log()
        return ((math.log(VOCABULARY) - logs_BT.sum(1)) / (LENGTH - 1)).mean().item()


def build(arm: str, seed: int, underflow: Underflow) -> SparringMoeForCausalLM:
    """The seed's model, converted if the arm says so."""
    torch.manual_seed(seed)
    model = SparringMoeForCausalLM(tiny_config(VOCABULARY, **SHAPE))
    if arm in ("fp8", "unscaled"):
        convert_to_fp8(model, Fp8Recipe(scaled=arm == "fp8"), underflow)
    return model


def optimizer_of(arm: str, model: SparringMoeForCausalLM) -> torch.optim.Optimizer:
    kind = BFloat16AdamW if arm in ("fp8", "unscaled") else torch.optim.AdamW
    return kind(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)


def rate(step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine to 0, as a share of the peak."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    done = (step - WARMUP) / (num_steps - WARMUP)
    return 0.5 * (1 + math.cos(math.pi * done))


def loss_of(model: SparringMoeForCausalLM, arm: str, ids_BT: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=arm != "fp32"):
        return model(input_ids=ids_BT, labels=ids_BT).loss


@torch.no_grad()
def held_out_loss(model: SparringMoeForCausalLM, arm: str, ids_BT: Tensor) -> float:
    model.eval()
    loss = loss_of(model, arm, ids_BT).item()
    model.train()
    return loss


def train(arm: str, seed: int, num_steps: int) -> dict[str, object]:
    """One run: its losses, gradients lost, and CPU seconds."""
    underflow, language = Underflow(), Language(seed)
    model = build(arm, seed, underflow).train()
    held_BT = language.batch(HELD_OUT)
    optimizer = optimizer_of(arm, model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, num_steps))
    started, losses, held_out = time.process_time(), [], []
    for step in range(1, num_steps + 1):
        loss = loss_of(model, arm, language.batch(BATCH))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        model.update_router_bias(0.001)
        losses.append(loss.item())
        if step > num_steps - LAST_STEPS and step % EVALUATE_EVERY == 0:
            held_out.append(held_out_loss(model, arm, held_BT))
    return {
        "arm": arm, "seed": seed, "floor": language.floor(held_BT),
        "held_out": statistics.fmean(held_out), "held_out_each": held_out, "train_first": losses[0],
        "train_last": statistics.fmean(losses[-LAST_STEPS:]), "underflow": underflow.share,
        "gradients_counted": int(underflow.nonzero), "cpu_seconds": time.process_time() - started,
    }  # fmt: skip


def interval(values: list[float]) -> dict[str, object]:
    """Mean with its 95% t interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None, "values": values}
    spread = statistics.stdev(values) / math.sqrt(len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * spread
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": values}


def summary(rows: list[dict]) -> dict[str, dict[str, object]]:
    """Each arm against bf16 of the same seed: relative differences of the held-out loss."""
    base = {row["seed"]: row["held_out"] for row in rows if row["arm"] == "bf16"}
    table = {}
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm and row["seed"] in base]
        signed = [row["held_out"] / base[row["seed"]] - 1 for row in own]
        if own:
            table[arm] = {
                "seeds": [row["seed"] for row in own],
                "loss": interval([row["held_out"] for row in own]),
                "difference": interval(signed),
                "absolute_difference": interval([abs(value) for value in signed]),
                "underflow": statistics.fmean(row["underflow"] for row in own),
                "cpu_seconds": statistics.fmean(row["cpu_seconds"] for row in own),
            }
    return table


def markdown(table: dict[str, dict]) -> Iterator[str]:
    """The summary as lines of a table."""
    yield "| arm | seeds | held-out loss | difference to bf16 | its magnitude | gradients lost |"
    yield "|---|---|---|---|---|---|"
    for arm, row in table.items():
        cells = [f"{row['loss']['mean']:.4f}"]
        for key in ("difference", "absolute_difference"):
            mean, low, high = (row[key][part] for part in ("mean", "low", "high"))
            around = "" if low is None else f" [{low:+.2%}, {high:+.2%}]"
            cells.append("-" if arm == "bf16" else f"{mean:+.2%}{around}")
        cells.append(f"{row['underflow']:.2%}" if arm in ("fp8", "unscaled") else "-")
        yield f"| {arm} | {len(row['seeds'])} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    setting = {"steps": options.steps, "shape": SHAPE, "batch": BATCH, "length": LENGTH}
    file = RESULTS / "fp8.json"
    former = json.loads(file.read_text()) if file.exists() else {}
    rows = former.get("runs", []) if former.get("setting") == setting else []
    done = {(row["arm"], row["seed"]) for row in rows}
    started = context({"seeds": len(options.seeds)})

    def keep(rows: list[dict]) -> None:
        content = {"setting": setting, "summary": summary(rows), "runs": rows}
        write_result("fp8", {**started, **content})

    for arm, seed in ((arm, seed) for seed in options.seeds for arm in options.arms):
        if (arm, seed) in done:
            continue
        rows.append(train(arm, seed, options.steps))
        print(json.dumps(rows[-1]), flush=True)
        keep(rows)
    keep(rows)
    print("\n".join(markdown(summary(rows))))


if __name__ == "__main__":
    main()
