"""Where a sampled token's time goes in vLLM on CPU: compiled code, or the Python around it.

    python benchmarks/exp_decode.py [--precision bfloat16] [--compiled]

The weights, prompts and batch are those of `bench_rollout.py`. The first figure is without the
profiler; the split is the profiler's, which makes Python look slower than it is. Writes nothing.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

from rollout_models import SIZES, make_checkpoint
from rollout_variants import GROUP, MAX_PROMPT, Judge

from pipelines.process import prepare_process

TOKENS, NUM_BATCHES = 128, 5


def main() -> None:
    """Sample some batches, print milliseconds a token and the costliest calls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--completions", type=int, default=32)
    parser.add_argument("--model", choices=SIZES, default="small")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    prepare_process()
    from transformers import AutoTokenizer

    from pipelines.rollouts.engine import Sampling
    from pipelines.rollouts.spec import EngineSpec
    from pipelines.rollouts.vllm_engine import VllmEngine
    from pipelines.settings.tables import RolloutTable

    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(folder, "moe", options.model, None)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        table = RolloutTable(max_model_len=TOKENS + MAX_PROMPT, compile=options.compiled)
        engine = VllmEngine(
            EngineSpec(Path(folder), table, options.precision, (tokenizer.eos_token_id,))
        )
    asked = Judge(options.completions // GROUP).prompts
    prompts = [tokenizer(prompt)["input_ids"] for prompt in asked for _ in range(GROUP)]
    seconds = []
    for batch in range(NUM_BATCHES):
        seeds = [batch * len(prompts) + index for index in range(len(prompts))]
        start = time.perf_counter()
        engine.generate(prompts, Sampling(TOKENS), seeds)
        seconds.append(time.perf_counter() - start)
    with cProfile.Profile() as profile:
        engine.generate(prompts, Sampling(TOKENS), seeds)
    stats = pstats.Stats(profile)
    compiled = sum(row[2] for (file, _, _), row in stats.stats.items() if file == "~")
    print(f"{1e3 * min(seconds) / TOKENS:.1f} ms a token of {len(prompts)} sequences, best batch")
    print(f"under the profiler {stats.total_tt:.2f} s, of which {compiled:.2f} s in built-in calls")
    stats.sort_stats("tottime").print_stats(12)


if __name__ == "__main__":
    main()
