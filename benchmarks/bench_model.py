"""The model core against transformers' DeepSeek-V3 and against its own matrix products.

    python benchmarks/bench_model.py [--repeats 10] [--quick] [--only steps decode memory]
        [--accelerator --topic model_gpu]

    ours         SparringMoeForCausalLM
    theirs       transformers' DeepseekV3ForCausalLM, with its default experts and, where another
                 is faster, with the fastest of its implementations (measured first)
    products     every matrix product of the model as `torch.mm` (`model_variants.products`)

All run in turn in one process, on the same weights and tokens, with the threads and the allocator
that `prepare_process` sets up for every program of this project. Results must agree, or the run
stops. Memory is measured in a process of its own for each case: the peak above the weights. On an
accelerator everything lies there, and a turn ends when its work is done.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from harness import context, summarise, write_result

from pipelines.process import prepare_process

prepare_process()

import torch  # noqa: E402 - after its environment is set
from model_variants import (  # noqa: E402
    SEED,
    Products,
    bench_config,
    decode,
    filled_cache,
    forward,
    forward_backward,
    our_model,
    products,
    share_weights,
    their_model,
    tokens,
)

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = ((8, 128), (2, 1024))
STEPS = {"forward": forward, "forward+backward": forward_backward}
CONTEXTS, DECODE_BATCH = (128, 1024, 4096), 8
MANY_HEADS = 16  # the widths' ratio of DeepSeek-V3; decoding is measured with both
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}
# Share of the logits' norm; in bf16 some tokens round to other experts.
LOGIT_TOLERANCE = {"fp32": 1e-4, "bf16": 0.5}


def take_turns(
    variants: dict[str, Callable[[], object]], repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each variant, run in turn, whoever starts changing every time."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(-warmup, repeats):
        shift = repeat % len(variants)
        for name in [*variants][shift:] + [*variants][:shift]:
            start = time.perf_counter()
            variants[name]()
            wait()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def wait() -> None:
    """Until an accelerator that holds the tensors has done what was asked of it."""
    if torch.get_default_device().type != "cpu":
        torch.accelerator.synchronize()


def report(title: str, seconds: dict[str, list[float]], unit: float) -> dict[str, object]:
    """Print and return one row: medians, and each variant's time over ours, turn by turn."""
    row: dict[str, object] = {"seconds": {name: summarise(s) for name, s in seconds.items()}}
    text = f"{title:<32}"
    for name, values in seconds.items():
        of = row["seconds"][name]  # type: ignore[index]
        text += f"  {name} {unit * of['median']:.3g} [{unit * of['q1']:.3g}, {unit * of['q3']:.3g}]"
        if name != "ours":
            pairs = zip(values, seconds["ours"], strict=True)
            ratio = summarise([theirs / ours for theirs, ours in pairs])
            row[f"{name} / ours"] = ratio
            text += f" = {ratio['median']:.2f}x ours"
    print(text, flush=True)
    return row


def fastest_implementation(theirs: torch.nn.Module) -> tuple[str, dict[str, float]]:
    """Their quickest experts over a forward and backward pass of 64 tokens, and all times.

    Few tokens, because `batched_mm` copies an expert's weights for each of them.
    """
    seconds, default = {}, theirs.config._experts_implementation
    ids_BT = tokens(theirs.config, (1, 64))
    for name in IMPLEMENTATIONS:
        theirs.set_experts_implementation(name)
        forward(theirs, ids_BT)
        seconds[name] = take_turns({name: lambda: forward_backward(theirs, ids_BT)}, 1, 0)[name][0]
    theirs.set_experts_implementation(default)
    theirs.zero_grad(set_to_none=True)
    return min(seconds, key=seconds.__getitem__), seconds


def bench_steps(kind: str, shapes: Sequence[tuple[int, int]], repeats: int) -> dict[str, object]:
    """Forward, and forward with backward, in one type."""
    config, dtype = bench_config(), TYPES[kind]
    ours, theirs = our_model(config, dtype), their_model(config, dtype)
    share_weights(theirs, ours)
    default = theirs.config._experts_implementation
    best, times = fastest_implementation(theirs)
    result: dict[str, object] = {"default": default, "fastest": best, "implementations": times}
    print(f"{kind}: transformers' default experts {default}, fastest {best}", flush=True)
    names = {"theirs": default} | ({"theirs, fastest": best} if best != default else {})
    for shape_BT in shapes:
        ids_BT = tokens(config, shape_BT)
        bare = Products(products(config, shape_BT), dtype)
        for step, function in STEPS.items():
            losses: dict[str, float] = {}

            def run(name: str, function=function, ids_BT=ids_BT, losses=losses) -> None:  # type: ignore[no-untyped-def]
                if name in names:
                    theirs.set_experts_implementation(names[name])
                losses[name] = function(theirs if name in names else ours, ids_BT)

            variants = {name: lambda name=name, run=run: run(name) for name in ("ours", *names)}
            bound = bare.forward if step == "forward" else bare.forward_backward
            seconds = take_turns(variants | {"products": bound}, repeats)
            spread = max(losses.values()) - min(losses.values())
            assert spread <= LOSS_TOLERANCE[kind], f"the models do not agree: {losses}"
            title = f"{kind} {shape_BT[0]}x{shape_BT[1]} {step}"
            result[title] = report(title, seconds, 1)
            result[title]["product_flops"] = bare.flops * (3 if step != "forward" else 1)  # type: ignore[index]
        ours.zero_grad(set_to_none=True)
        theirs.zero_grad(set_to_none=True)
    return result


def bench_decode(
    kind: str, contexts: Sequence[int], repeats: int, heads: int = 8
) -> dict[str, object]:
    """One more token for each of 8 sequences, with each model's default cache."""
    config, dtype = bench_config(heads=heads), TYPES[kind]
    ours, theirs = our_model(config, dtype).eval(), their_model(config, dtype).eval()
    share_weights(theirs, ours)
    result: dict[str, object] = {}
    ids_B1 = tokens(config, (DECODE_BATCH, 1))
    for length in contexts:
        caches = [filled_cache(model, DECODE_BATCH, length, dtype) for model in (ours, theirs)]
        logits = decode(ours, ids_B1, caches[0]).float(), decode(theirs, ids_B1, caches[1]).float()
        apart = ((logits[0] - logits[1]).norm() / logits[1].norm()).item()
        assert apart <= LOGIT_TOLERANCE[kind], f"decoded logits differ by {apart:.2g} of their norm"
        variants = {
            "ours": lambda caches=caches: decode(ours, ids_B1, caches[0]),
            "theirs": lambda caches=caches: decode(theirs, ids_B1, caches[1]),
        }
        title = f"{kind} decode at {length}, {heads} heads, ms"
        result[title] = report(title, take_turns(variants, repeats), 1000)
        result[title]["logits_apart"] = apart  # type: ignore[index]
        result[title]["cache"] = [type(cache).__name__ for cache in caches]  # type: ignore[index]
    return result


def peak_above_weights(variant: str, kind: str, shape_BT: tuple[int, int]) -> float:
    """MB by which a training step raises this process's peak of resident memory."""
    config = bench_config()
    model = (our_model if variant == "ours" else their_model)(config, TYPES[kind])
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    forward(model, tokens(config, (1, 8)))  # what is loaded once: kernels, thread pools
    if torch.get_default_device().type != "cpu":
        return _peak_on_accelerator(model, tokens(config, shape_BT))
    before = _resident_bytes("VmRSS")
    forward_backward(model, tokens(config, shape_BT))
    peak = _resident_bytes("VmHWM")
    assert weights < before < peak, "the peak lay before the step"
    return (peak - before) / 1e6


def _peak_on_accelerator(model: torch.nn.Module, ids_BT: torch.Tensor) -> float:
    """MB by which a training step raises the peak of what the accelerator holds."""
    wait()
    torch.accelerator.reset_peak_memory_stats()
    before = torch.accelerator.memory_allocated()
    forward_backward(model, ids_BT)
    wait()
    return (torch.accelerator.max_memory_allocated() - before) / 1e6


def _resident_bytes(field: str) -> int:
    """Now (VmRSS) or at most (VmHWM). getrusage would count what the parent held when it forked."""
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def bench_memory(kinds: Sequence[str], shapes: Sequence[tuple[int, int]]) -> dict[str, object]:
    """Peak memory of one training step, gradients included, each in a fresh process."""
    result: dict[str, object] = {}
    for kind in kinds:
        for shape_BT in shapes:
            title = f"{kind} {shape_BT[0]}x{shape_BT[1]} peak above weights, MB"
            found = {}
            for variant in ("ours", "theirs"):
                case = [variant, kind, *map(str, shape_BT)]
                command = [sys.executable, __file__, "--memory-case", *case]
                if torch.get_default_device().type != "cpu":
                    command.append("--accelerator")
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[variant] = float(done.stdout)
            result[title] = found
            print(f"{title:<40}  ours {found['ours']:.0f}  theirs {found['theirs']:.0f}"
                  f" = {found['theirs'] / found['ours']:.2f}x ours", flush=True)  # fmt: skip
    return result


def device_name() -> str:
    """Where the tensors lie: "cpu", or the accelerator's product name."""
    if torch.get_default_device().type == "cpu":
        return "cpu"
    return str(torch.get_device_module().get_device_name())


def main() -> None:
    """Run what was asked for, print the rows, write results/model.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10, help="measured turns of each variant")
    parser.add_argument("--quick", action="store_true", help="2 turns, 8x128 and 128 tokens only")
    parser.add_argument("--only", nargs="+", choices=("steps", "decode", "memory"),
                        default=("steps", "decode", "memory"))  # fmt: skip
    parser.add_argument("--types", nargs="+", choices=[*TYPES], default=[*TYPES])
    parser.add_argument("--topic", default="model", help="name of the result file")
    parser.add_argument("--accelerator", action="store_true", help="not on the CPU")
    parser.add_argument("--memory-case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.accelerator:
        torch.set_default_device(torch.accelerator.current_accelerator())
    if options.memory_case:
        variant, kind, *shape = options.memory_case
        print(peak_above_weights(variant, kind, (int(shape[0]), int(shape[1]))))
        return
    repeats = 2 if options.quick else options.repeats
    shapes, contexts = (SHAPES[:1], CONTEXTS[:1]) if options.quick else (SHAPES, CONTEXTS)
    content = context({"weights, tokens, caches": SEED})
    content |= {
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "device": device_name(),
        "decode_batch": DECODE_BATCH,
    }
    content["parameters"] = sum(
        p.numel() for p in our_model(bench_config(), torch.bfloat16).parameters()
    )
    print(f"{content['parameters'] / 1e6:.0f}M parameters, {content['threads']} threads, "
          f"{repeats} turns: median [quartiles]; seconds", flush=True)  # fmt: skip
    if "steps" in options.only:
        content["steps"] = {kind: bench_steps(kind, shapes, repeats) for kind in options.types}
        write_result(options.topic, content)  # what is cut off later keeps what it has
    if "decode" in options.only:
        content["decode"] = {
            kind: bench_decode(kind, contexts, repeats)
            | bench_decode(kind, contexts[-1:], repeats, MANY_HEADS)
            for kind in options.types
        }
        write_result(options.topic, content)
    if "memory" in options.only:
        content["memory"] = bench_memory(options.types, shapes)
    print(f"written: {write_result(options.topic, content)}")


if __name__ == "__main__":
    main()
