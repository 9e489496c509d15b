"""Does the selection bias keep experts evenly loaded? Arms x seeds on skewed data, resumable.

    python benchmarks/exp_balance.py --seeds 0 1 2 3 4

A text is a walk in one of eight bigram languages; languages and words have Zipf's frequencies, so
that a few experts of the tiny model serve most tokens if nothing holds them apart. Each arm trains
from the same weights on the same batches, its learning rate falling to 0; its load is then taken on
texts it has not seen. A finished run is kept. Writes benchmarks/results/balance.json and prints a
table. The data were chosen on seed 0, which is among those
reported, the final rates on seed 100.

Axes: B texts, T tokens, L layers with experts, K experts of a token.
"""

import argparse
import json
import statistics
import time

import torch
from harness import RESULTS, context, mean_interval, write_result
from torch import Tensor

from model.configuration import tiny_config
from model.experts.balance import balance_metrics
from model.modeling import SparringMoeForCausalLM

VOCAB, LANGUAGES, SUCCESSORS = 64, 8, 4
BATCH, LENGTH, STEPS, HELD_OUT = 16, 24, 500, 512
LEARNING_RATE = 3e-3
ARMS: dict[str, dict[str, float]] = {
    "none": {"gamma": 0.0, "alpha": 0.0},
    "bias": {"gamma": 1e-2, "alpha": 0.0},
    "bias, gamma decays": {"gamma": 2e-2, "last_gamma": 0.0, "alpha": 0.0},
    "bias, the paper's gamma": {"gamma": 1e-3, "alpha": 0.0},
    "sequence-wise loss": {"gamma": 0.0, "alpha": 1e-2},
}
SHOWN = ("max_over_mean", "dead_experts", "utilisation_effective", "within_text", "loss")


class Languages:
    """Bigram languages over one vocabulary: of frequency rank^-2, of words of rank^-1."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        words = torch.arange(1.0, VOCAB + 1) ** -1
        successors = torch.multinomial(
            words, LANGUAGES * VOCAB * SUCCESSORS, replacement=True, generator=self.generator
        )
        self.next_token = successors.view(LANGUAGES, VOCAB, SUCCESSORS)
        self.share = torch.arange(1.0, LANGUAGES + 1) ** -2

    def draw(self, num_texts: int) -> Tensor:
        """Fresh texts [B, T]."""
        language_B = torch.multinomial(
            self.share, num_texts, replacement=True, generator=self.generator
        )
        tokens = [torch.randint(VOCAB, (num_texts,), generator=self.generator)]
        for _ in range(LENGTH - 1):
            branch_B = torch.randint(SUCCESSORS, (num_texts,), generator=self.generator)
            tokens.append(self.next_token[language_B, tokens[-1], branch_B])
        return torch.stack(tokens, 1)


@torch.no_grad()
def measure(model: SparringMoeForCausalLM, texts_BT: Tensor) -> dict[str, object]:
    """Loss and load on texts; the worst layer's figures come first, then each layer's."""
    outputs = model.eval()(input_ids=texts_BT, labels=texts_BT, record=True, use_cache=False)
    num_experts = model.config.n_routed_experts
    layers = []
    for ids_BTK in outputs.routed_experts.long().unbind(2):
        load_BE = torch.nn.functional.one_hot(ids_BTK, num_experts).sum((1, 2))
        metrics = balance_metrics(load_BE.sum(0), texts_BT.numel())
        metrics["within_text"] = (load_BE.max(1).values / load_BE.float().mean(1)).mean().item()
        layers.append(metrics)
    worst = {
        name: (min if name.startswith("utilisation") else max)(layer[name] for layer in layers)
        for name in layers[0]
    }
    return {**worst, "loss": outputs.loss.item(), "layers": layers}


def train(
    seed: int, gamma: float, alpha: float, last_gamma: float | None = None
) -> dict[str, object]:
    """One run: its held-out figures after training, and its training load every 50 steps.

    Args:
        last_gamma: what gamma falls to, linearly; it is constant if None.
    """
    torch.manual_seed(seed)
    config = tiny_config(VOCAB, n_routed_experts=16, aux_loss_alpha=alpha)
    model, languages = SparringMoeForCausalLM(config).train(), Languages(seed)
    held_out_BT = languages.draw(HELD_OUT)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    course, start = [], time.perf_counter()
    for step in range(1, STEPS + 1):
        texts_BT = languages.draw(BATCH)
        optimizer.zero_grad()
        model(input_ids=texts_BT, labels=texts_BT).loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            course.append(max(m["max_over_mean"] for m in model.balance_metrics().values()))
        change = 0.0 if last_gamma is None else (step - 1) / (STEPS - 1) * (last_gamma - gamma)
        if gamma:
            model.update_router_bias(gamma + change)
        model.reset_router_load()
    seconds = time.perf_counter() - start
    return {
        **measure(model, held_out_BT), "batch_max_over_mean_every_50_steps": course,
        "seconds": seconds,
    }  # fmt: skip


def summaries(runs: dict[str, dict[str, dict]]) -> dict[str, dict[str, dict[str, float]]]:
    """Per arm and figure, the mean over seeds with its 95% t interval."""
    return {
        arm: {name: mean_interval([run[name] for run in seeds.values()]) for name in SHOWN}
        for arm, seeds in runs.items()
        if seeds
    }


def table(runs: dict[str, dict[str, dict]]) -> str:
    """Arms as rows; max over seeds of max/mean beside the means, for it is what must hold."""
    lines = ["| arm | worst seed's max/mean | " + " | ".join(SHOWN) + " |"]
    lines.append("|---" * (len(SHOWN) + 2) + "|")
    for arm, figures in summaries(runs).items():
        cells = [f"{f['mean']:.3f} [{f['low']:.3f}, {f['high']:.3f}]" for f in figures.values()]
        worst = max(run["max_over_mean"] for run in runs[arm].values())
        lines.append(f"| {arm} | {worst:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, save after each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    setup = {
        "arms": ARMS, "steps": STEPS, "batch": BATCH, "length": LENGTH, "held_out": HELD_OUT,
        "learning_rate": LEARNING_RATE, "threads": 1,
    }  # fmt: skip
    path = RESULTS / "balance.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    runs = kept["runs"] if kept.get("setup") == setup else {arm: {} for arm in ARMS}
    about = context({"seeds": len(options.seeds)})
    for seed in options.seeds:
        for arm, rates in ARMS.items():
            if str(seed) not in runs[arm]:
                runs[arm][str(seed)] = train(seed, **rates)
                content = {"context": about, "setup": setup, "summary": summaries(runs)}
                write_result("balance", {**content, "runs": runs})
    print(table(runs))
    print(
        f"{statistics.fmean(r['seconds'] for a in runs.values() for r in a.values()):.1f} s a run"
    )


if __name__ == "__main__":
    main()
