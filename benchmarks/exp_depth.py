"""Can routine queries do with fewer experts? Accuracy, expert FLOPs and speed by experts a token.

    python benchmarks/exp_depth.py --seeds 0 1 2

A tiny model of 16 experts, 8 a token and one shared (as many as DeepSeek-V3's), learns routine
queries (one look-up, in one of four tables of 32 values) and reasoning queries (a chain of six,
each in any of 24 tables, every intermediate value written out). It is trained plainly, or with
depth dropout: half of the sequences train with a random number of experts, 1 to 7. Then both kinds
are answered with 1 to 16 experts a token, and with the routed experts silenced. FLOPs are those of
the matrix products that the experts' modules ran, as torch counts them. A finished run is kept.
Speed is also taken of one forward pass of 1,024 tokens through a wider, untrained model: a tiny one
spends its time elsewhere. Writes benchmarks/results/depth.json and prints tables. Leaves out how a
caller tells a routine query from another.

Axes: B sequences, T tokens, L layers with experts, K experts of a token.
"""

import argparse
import json
import statistics
import time

import torch
from harness import RESULTS, context, mean_interval, write_result
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.configuration import tiny_config
from model.experts.routed import RoutedExperts
from model.modeling import SparringMoeForCausalLM

VALUES, TABLES, COMMON_TABLES = 32, 24, 4
FIRST_TABLE = VALUES
ROUTINE, CHAIN, EQUALS, END, PAD, VOCAB = (VALUES + TABLES + i for i in range(6))
NUM_STEPS = {"routine": 1, "reasoning": 6}
EXPERTS, FULL, DEPTHS = 16, 8, (1, 2, 3, 4, 6, 8, 12, 16)
BATCH, STEPS, LEARNING_RATE, GAMMA = 32, 800, 3e-3, 1e-3
NUM_QUERIES, NUM_TIMED = 512, 40
ARMS = ("plain", "depth dropout")
CONTENTS = torch.stack([
    torch.randperm(VALUES, generator=torch.Generator().manual_seed(table))
    for table in range(TABLES)
])  # fmt: skip


def queries(kind: str, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Prompts [B, T] and their answers, each ended: every intermediate value, then END."""
    steps, reasoning = NUM_STEPS[kind], kind == "reasoning"
    tables = torch.randint(
        TABLES if reasoning else COMMON_TABLES, (num, steps), generator=generator
    )
    value = torch.randint(VALUES, (num,), generator=generator)
    edge, opening = torch.ones(num, 1, dtype=torch.long), CHAIN if reasoning else ROUTINE
    prompt = torch.cat((edge * opening, FIRST_TABLE + tables, edge * EQUALS, value[:, None]), 1)
    values = []
    for table in tables.unbind(1):
        value = CONTENTS[table, value]
        values.append(value)
    return prompt, torch.cat((torch.stack(values, 1), edge * END), 1)


def training_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens padded on the right and labels, half of either kind."""
    rows, labels = [], []
    for kind in NUM_STEPS:
        prompts, answers = queries(kind, BATCH // 2, generator)
        rows += torch.cat((prompts, answers), 1).unbind()
        labels += torch.cat((torch.full_like(prompts, -100), answers), 1).unbind()
    padded = torch.nn.utils.rnn.pad_sequence
    return padded(rows, True, float(PAD)), padded(labels, True, -100.0)


def train(arm: str, seed: int) -> SparringMoeForCausalLM:
    """One model; both arms see the same batches from the same weights."""
    torch.manual_seed(seed)
    config = tiny_config(
        VOCAB, n_routed_experts=EXPERTS, num_experts_per_tok=FULL, n_group=1, topk_group=1,
        moe_intermediate_size=32, intermediate_size=64, pad_token_id=PAD, eos_token_id=END,
    )  # fmt: skip
    model = SparringMoeForCausalLM(config).train()
    generator, depths = (torch.Generator().manual_seed(seed) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS)
    for _ in range(STEPS):
        ids_BT, labels_BT = training_batch(generator)
        numbers_B = torch.full((BATCH,), FULL)
        if arm == "depth dropout":
            numbers_B[::2] = torch.randint(1, FULL, (BATCH // 2,), generator=depths)
        optimizer.zero_grad()
        model(
            input_ids=ids_BT, attention_mask=(ids_BT != PAD).long(), labels=labels_BT,
            experts_per_token=numbers_B,
        ).loss.backward()  # fmt: skip
        optimizer.step()
        schedule.step()
        model.update_router_bias(GAMMA)
    return model.eval()


def answer(
    model: SparringMoeForCausalLM, prompts: Tensor, num_tokens: int, depth: int | Tensor
) -> Tensor:
    """Greedy answers from the cache, as long as asked for; prompts may be padded on the left."""
    ids_BT = model.generate(
        prompts, attention_mask=(prompts != PAD).long(), experts_per_token=depth,
        max_new_tokens=num_tokens, do_sample=False, use_cache=True,
    )  # fmt: skip
    ids_BT = ids_BT[:, prompts.shape[1] :]
    return torch.nn.functional.pad(ids_BT, (0, num_tokens - ids_BT.shape[1]), value=PAD)


def measure_work(
    model: SparringMoeForCausalLM, prompts: Tensor, num_tokens: int, depth: int | Tensor
) -> dict[str, float]:
    """FLOPs a query of the products that ran in experts' modules, and the share of experts used."""
    seen: dict[int, list[Tensor]] = {}

    def see(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault(id(module), []).append(inputs[1])

    modules = [m for m in model.modules() if isinstance(m, RoutedExperts)]
    hooks = [module.register_forward_pre_hook(see) for module in modules]
    with FlopCounterMode(display=False) as counter:
        answer(model, prompts, num_tokens, depth)
    for hook in hooks:
        hook.remove()
    totals = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    routed = sum(n for name, n in totals.items() if name.endswith("mlp.experts"))
    shared = sum(n for name, n in totals.items() if name.endswith("mlp.shared_experts"))
    loads = [sum(load_of(ids_NK) for ids_NK in calls) for calls in seen.values()]
    rows, width = sum(load_E.sum().item() for load_E in loads), modules[0].gate_up_proj[0].numel()
    assert routed == 2 * rows * 1.5 * width, "FLOPs were counted of other rows than were routed"
    num_tokens_seen = sum(len(ids_NK) for calls in seen.values() for ids_NK in calls)
    return {
        "routed_flops": routed / len(prompts),
        "expert_flops": (routed + shared) / len(prompts),
        "utilisation_token": rows / num_tokens_seen / EXPERTS,
        "utilisation_batch": statistics.fmean((load > 0).float().mean().item() for load in loads),
    }


def load_of(ids_NK: Tensor) -> Tensor:
    """Rows of each expert [E]; -1 is an empty slot."""
    return torch.bincount(ids_NK[ids_NK >= 0], minlength=EXPERTS)


def milliseconds(
    model: SparringMoeForCausalLM, prompt: Tensor, num_tokens: int
) -> dict[int, dict[str, float]]:
    """Wall time of a whole query, prompt to last token, by depth; depths take turns."""
    spent: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    for repeat in range(NUM_TIMED + 3):
        for depth in DEPTHS:
            start = time.perf_counter()
            answer(model, prompt, num_tokens, depth)
            if repeat >= 3:  # the first ones warm up
                spent[depth].append(1000 * (time.perf_counter() - start))
    return {
        depth: {"median": statistics.median(times), "p95": statistics.quantiles(times, n=20)[-1]}
        for depth, times in spent.items()
    }


@torch.no_grad()
def measure_speed() -> dict[str, dict[str, float]]:
    """One forward pass of 8 x 128 tokens at width 512, 64 experts of 256; depths take turns."""
    config = tiny_config(
        VOCAB, hidden_size=512, intermediate_size=1024, moe_intermediate_size=256,
        n_routed_experts=64, num_experts_per_tok=FULL, n_group=1, topk_group=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model, ids_BT = SparringMoeForCausalLM(config).eval(), torch.randint(VOCAB, (8, 128))
    spent: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    for repeat in range(12):
        for depth in DEPTHS:
            start = time.perf_counter()
            model(input_ids=ids_BT, experts_per_token=depth, use_cache=False)
            if repeat >= 2:
                spent[depth].append(time.perf_counter() - start)
    full = statistics.median(spent[FULL])
    return {
        str(depth): {
            "milliseconds": 1000 * statistics.median(times),
            "share_of_full": statistics.median(times) / full,
        }
        for depth, times in spent.items()
    }


def accuracy(given: Tensor, wanted: Tensor) -> float:
    """Share of queries answered exactly, intermediate values included."""
    return (given == wanted).all(1).float().mean().item()


def measure(model: SparringMoeForCausalLM, seed: int) -> dict[str, object]:
    """Both kinds at every depth on unseen draws, then a batch of both at its own depths."""
    generator = torch.Generator().manual_seed(1000 + seed)
    found: dict[str, object] = {}
    drawn = {kind: queries(kind, NUM_QUERIES, generator) for kind in NUM_STEPS}
    for kind, (prompts, answers) in drawn.items():
        length = answers.shape[1]
        times = milliseconds(model, prompts[:1], length)
        found[kind] = {
            str(depth): {
                "accuracy": accuracy(answer(model, prompts, length, depth), answers),
                **measure_work(model, prompts[:64], length, depth),
                "milliseconds": times[depth]["median"], "milliseconds_p95": times[depth]["p95"],
            }
            for depth in DEPTHS
        }  # fmt: skip
    found["mixed"] = measure_mixed(model, drawn)
    found["silenced"] = measure_silenced(model, drawn)
    return found


@torch.no_grad()
def measure_silenced(
    model: SparringMoeForCausalLM, drawn: dict[str, tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Accuracy without any routed expert, whose weights it clears: what they are there for."""
    for module in model.modules():
        if isinstance(module, RoutedExperts):
            module.down_proj.zero_()
    return {
        kind: accuracy(answer(model, prompts, answers.shape[1], FULL), answers)
        for kind, (prompts, answers) in drawn.items()
    }


def measure_mixed(
    model: SparringMoeForCausalLM, drawn: dict[str, tuple[Tensor, Tensor]]
) -> dict[str, dict[str, float]]:
    """Both kinds in one batch, padded on the left: routine ones with 3 experts, against all with 8.

    As many queries of either kind; the work is that of the whole batch a query.
    """
    width = drawn["reasoning"][0].shape[1]
    longest = drawn["reasoning"][1].shape[1]
    half = NUM_QUERIES // 2
    counted = slice(half - 32, half + 32)
    prompts = torch.cat([
        torch.nn.functional.pad(prompts[:half], (width - prompts.shape[1], 0), value=PAD)
        for prompts, _ in drawn.values()
    ])  # fmt: skip
    found = {}
    for name, depth in {"3 or 8": 3, "8": FULL}.items():
        numbers_B = torch.tensor([depth] * half + [FULL] * half)
        given = answer(model, prompts, longest, numbers_B)
        short = drawn["routine"][1].shape[1]
        found[name] = {
            "routine accuracy": accuracy(given[:half, :short], drawn["routine"][1][:half]),
            "reasoning accuracy": accuracy(given[half:], drawn["reasoning"][1][:half]),
            **measure_work(model, prompts[counted], longest, numbers_B[counted]),
        }  # fmt: skip
    return found


def summaries(runs: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """Per arm, kind and depth, means over seeds with 95% t intervals, and shares of the full depth.

    `accuracy_kept` is accuracy over that at 8 experts; `flops_share` the same of all expert FLOPs.
    """
    result: dict[str, dict] = {}
    for arm, seeds in runs.items():
        if not seeds:
            continue
        result[arm] = {}
        for kind in NUM_STEPS:
            result[arm][kind] = {
                str(depth): _summary([run[kind] for run in seeds.values()], str(depth))
                for depth in DEPTHS
            }
    return result


def _summary(rows: list[dict[str, dict[str, float]]], depth: str) -> dict[str, dict[str, float]]:
    full = str(FULL)
    figures = {name: [row[depth][name] for row in rows] for name in rows[0][depth]}
    figures["accuracy_kept"] = [row[depth]["accuracy"] / row[full]["accuracy"] for row in rows]
    for name in ("routed_flops", "expert_flops"):
        figures[f"{name}_share"] = [row[depth][name] / row[full][name] for row in rows]
    return {name: mean_interval(values) for name, values in figures.items()}


def table(runs: dict[str, dict[str, dict]]) -> str:
    """One row an arm, kind and depth."""
    names = {
        "accuracy": ".3f", "accuracy_kept": ".3f", "routed_flops_share": ".3f",
        "expert_flops_share": ".3f", "utilisation_token": ".3f", "utilisation_batch": ".3f",
        "milliseconds": ".1f", "milliseconds_p95": ".1f",
    }  # fmt: skip
    lines = ["| arm | queries | experts | " + " | ".join(names) + " |", "|---" * 11 + "|"]
    for arm, kinds in summaries(runs).items():
        for kind, depths in kinds.items():
            for depth, row in depths.items():
                cells = [
                    f"{row[n]['mean']:{f}} [{row[n]['low']:{f}}, {row[n]['high']:{f}}]"
                    for n, f in names.items()
                ]
                lines.append(f"| {arm} | {kind} | {depth} | " + " | ".join(cells) + " |")
        lines += [
            f"{arm}, seed {s}: silenced {r['silenced']}, mixed {r['mixed']}"
            for s, r in runs[arm].items()
        ]
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, save after each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    setup = {
        "arms": ARMS, "steps": STEPS, "batch": BATCH, "learning_rate": LEARNING_RATE,
        "gamma": GAMMA, "num_steps": NUM_STEPS, "depths": DEPTHS, "threads": 1,
    }  # fmt: skip
    setup = json.loads(json.dumps(setup))
    path = RESULTS / "depth.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    runs = kept["runs"] if kept.get("setup") == setup else {arm: {} for arm in ARMS}
    speed = kept.get("speed") or measure_speed()
    about = context({"seeds": len(options.seeds)})
    for seed in options.seeds:
        for arm in ARMS:
            if str(seed) not in runs[arm]:
                start = time.perf_counter()
                model = train(arm, seed)
                seconds = time.perf_counter() - start
                runs[arm][str(seed)] = {"train_seconds": seconds, **measure(model, seed)}
            content = {"context": about, "setup": setup, "summary": summaries(runs)}
            write_result("depth", {**content, "speed": speed, "runs": runs})
    print(table(runs))
    for depth, row in speed.items():
        share, spent = row["share_of_full"], row["milliseconds"]
        print(f"1,024 tokens, {depth} experts: {spent:.0f} ms, {share:.2f} of {FULL} experts'")


if __name__ == "__main__":
    main()
