"""What a token of a completion costs as completions grow to 8,192 tokens: seconds, memory, shares.

    python benchmarks/bench_completion.py [--lengths 512 1024 2048 4096 8192]

A whole run of `pipelines/rl.py` at each length, in a process of its own on one thread: two learner
steps of eight completions of exactly that length, a critic that reads them, monitor, records. A
thread reads the main thread's stack a hundred times a second while the round is played, and books
each sight to what was computed: the engine, the models, or the function of ours that was at work.
Then each function that reads a completion alone, on a solution in plain words of as many tokens.
Results go to benchmarks/results/completion.json, the plot to docs/completion.png. Attention is
quadratic in any engine; the tiny model has little of it. Leaves out accelerators.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Self

from harness import ROOT, context, write_result

LENGTHS = (512, 1024, 2048, 4096, 8192)
NUM_COMPLETIONS, NUM_STEPS, REPEATS = 8, 2, 3

INTERVAL_SECONDS = 0.01
OURS = tuple(f"{ROOT}/{package}/" for package in ("pipelines", "rewards", "critic", "data"))
ENGINE = ("/vllm/", "vllm_engine.py")
MODELS = ("/torch/nn/", "/torch/autograd/", "/torch/optim/", f"{ROOT}/model/", "modeling_")
LIBRARIES = ("/trl/", "/transformers/", "/accelerate/", "/peft/")
LOOP = "pipelines/rl.py"
# What the loop calls for a round.
STAGES = ("play", "train", "gate", "__call__", "probe", "check", "after", "commit")


def work(length: int, folder: Path) -> dict[str, object]:
    """One run at one length, watched."""
    from rollout_models import make_checkpoint

    from pipelines.process import prepare_process
    from pipelines.rl import main

    prepare_process()
    base = folder / "base"
    make_checkpoint(str(base), "dense", "tiny", None)
    settings = {
        "run.directory": folder / "run", "run.rounds": 1,
        "learner.model": base, "critic.model": base,
        "learner.steps_per_round": NUM_STEPS, "critic.steps_per_round": 0,
        "critic.imitation_steps": 0, "learner.max_completion_length": length,
        "learner.grpo.per_device_train_batch_size": NUM_COMPLETIONS,
        "learner.grpo.num_generations": 4, "learner.grpo.learning_rate": 1e-6,
        "critic.max_completion_length": 32, "critic.critiques_per_audit": 1,
        "rollout.max_model_len": 2 * length + 1024, "rollout.kv_cache_gib": 0.5,
        "evaluate.num_tasks": 1, "evaluate.num_samples": 2, "evaluate.num_probe_tasks": 4,
        "evaluate.num_audit_tasks": 1, "pointing.reset_share": 0,
    }  # fmt: skip
    given = ["--config", str(ROOT / "configs" / "tiny.toml")]
    given += [f"{key}={value}" for key, value in settings.items()]
    with Watch() as watch:
        status = main(given)
    assert status == 0, f"the run at {length} tokens ended with status {status}"
    rows = list(map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines()))
    steps = [row for row in rows if row["kind"] == "step"]
    return {
        "seconds": {
            key: [row[key] for row in steps]
            for key in steps[0] if key.startswith("time/") and key.count("/") == 1
        },
        "lengths": [row["rollout/mean_length"] for row in steps],
        "sights": watch.sights,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


class Watch:
    """Reads the main thread's stack while it is inside; counts what was seen in the rounds."""

    def __init__(self) -> None:
        self.sights = Counter[str]()
        self._done, self._main = threading.Event(), threading.get_ident()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_SECONDS):
            place = booked(sys._current_frames().get(self._main))
            if place:
                self.sights[place] += 1


def booked(frame: FrameType | None) -> str:
    """What a stack computes: "engine", "models", "TRL", or the innermost function of ours.

    "" where no round is played.
    """
    place, in_round = "", False
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if any(part in path for part in ENGINE):
            place = "engine"
        elif any(part in path for part in MODELS) and place != "engine":
            place = "models"
        elif not place and any(part in path for part in LIBRARIES):
            place = "TRL"
        elif not place and path.startswith(OURS):
            place = f"{Path(path).relative_to(ROOT)}: {name}"
        if path.endswith(LOOP) and name == "self_play":
            return place if in_round else ""
        in_round = name in STAGES
        frame = frame.f_back
    return ""


def alone(length: int) -> dict[str, float]:
    """Seconds of each function that reads a completion, on plain words of so many tokens."""
    from transformers import AutoTokenizer

    from critic.format import critique_dialect
    from data.contamination import Contamination
    from data.dedup import DuplicateIndex
    from pipelines.policy.chat import reply_text, text_ids
    from pipelines.training.advantages import token_ends
    from rewards.dialect import dialect

    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer())
    text = solution(length, tokenizer)
    ids = text_ids(tokenizer, text)[:length]
    free, judge = dialect("free"), critique_dialect("free")
    read = free.parse_solution(text, truncated=False)
    marks = judge.write_critique(read, None, None, True, random.Random(0))
    index, evaluation = DuplicateIndex(), Contamination([solution(64, tokenizer, seed=1)])
    index.add("How many?", text)
    calls: dict[str, Callable[[], object]] = {
        "text to tokens": lambda: text_ids(tokenizer, text),
        "tokens to text": lambda: reply_text(tokenizer, ids),
        "cut into steps": lambda: free.parse_solution(text, truncated=False),
        "a token's place in the text": lambda: token_ends(tokenizer, ids),
        "the critic's prompt": lambda: judge.render_prompt("How many?", text),
        "read a critique": lambda: judge.parse(marks, read, truncated=False),
        "duplicates": lambda: index.find("How many?", text),
        "decontamination": lambda: evaluation.overlap(text),
    }
    found = {}
    for name, call in calls.items():
        call()
        spent = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            call()
            spent.append(time.perf_counter() - started)
        found[name] = min(spent)
    return found


def solution(num_tokens: int, tokenizer: object, seed: int = 0) -> str:
    """Paragraphs of sums in plain words, of about so many tokens, with an answer in a box."""
    rng, paragraphs, total = random.Random(seed), list[str](), 0
    size = 0
    while size < num_tokens:
        more = rng.randrange(2, 90)
        paragraphs.append(
            f"Next there are {more} more of them, so that {total} + {more} = {total + more}."
        )
        total += more
        size += len(tokenizer(paragraphs[-1])["input_ids"]) + 1
    return "\n\n".join([*paragraphs, f"The answer is \\boxed{{{total}}}."])


def make_tokenizer() -> str:
    """SmolLM2's tokenizer, which a package ships; see `pipelines/smollm2.py`."""
    base = ROOT / "runs" / "smollm2-base"
    subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / "smollm2.py"), "--out", str(base)], check=True
    )
    return str(base)


def start(length: int) -> dict[str, object]:
    """A run at one length in a process of its own, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        given = ["--worker", str(length), folder]
        done = subprocess.run(
            [sys.executable, __file__, *given], check=False, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        path = Path(folder) / "found.json"
        if done.returncode or not path.exists():
            raise SystemExit(f"the run at {length} tokens failed:\n{done.stdout[-2000:]}")
        return json.loads(path.read_text())


def shares(found: Mapping) -> list[tuple[str, float]]:
    """The functions of ours by their share of the rounds, the greatest first."""
    total = sum(found["sights"].values())
    own = {name: n / total for name, n in found["sights"].items() if ": " in name}
    return sorted(own.items(), key=lambda item: -item[1])


def show(results: Mapping[int, Mapping]) -> None:
    """One row a length, then the functions alone."""
    for length, found in results.items():
        seconds = found["seconds"]
        tokens = NUM_COMPLETIONS * length / 1000
        steps = "  ".join(
            f"{key.removeprefix('time/')} {1000 * min(values) / tokens:.1f}"
            for key, values in seconds.items()
        )
        greatest = ", ".join(f"{name} {share:.1%}" for name, share in shares(found)[:3])
        print(f"{length:>6} tokens: ms per 1,000 tokens: {steps}; peak {found['peak_mib']:.0f} MiB")
        print(f"        of the rounds: {greatest}")
        for name, spent in found["alone"].items():
            print(f"        {name:<28} {1000 * spent / (length / 1000):.2f} ms per 1,000 tokens")


def draw(results: Mapping[int, Mapping]) -> None:
    """Seconds of a step and memory over length; a line through the shortest run's cost a token."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    lengths = list(results)
    for key in results[lengths[0]]["seconds"]:
        own = [min(found["seconds"][key]) for found in results.values()]
        axes[0].plot(lengths, own, marker="o", label=key.removeprefix("time/"))
    axes[0].set_ylabel("seconds of a learner step, 8 completions")
    axes[1].plot(lengths, [found["peak_mib"] / 1024 for found in results.values()], marker="o")
    axes[1].set_ylabel("peak memory of the run, GiB")
    axes[1].set_ylim(bottom=0)
    for name in results[lengths[0]]["alone"]:
        own = [1000 * found["alone"][name] for found in results.values()]
        axes[2].plot(lengths, own, marker="o", label=name)
    axes[2].set_ylabel("ms for one completion")
    for axis in axes:
        axis.set_xlabel("tokens of a completion")
    axes[0].legend(fontsize=6)
    axes[2].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "completion.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--worker", nargs=2, metavar=("LENGTH", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        length, folder = int(options.worker[0]), Path(options.worker[1])
        found = work(length, folder) | {"alone": alone(length)}
        (folder / "found.json").write_text(json.dumps(found))
        return
    results: dict[int, Mapping] = {}
    for length in options.lengths:
        results[length] = start(length)
        show({length: results[length]})
    write_result("completion", context({"run": 0}) | {"lengths": results})
    draw(results)


if __name__ == "__main__":
    main()
