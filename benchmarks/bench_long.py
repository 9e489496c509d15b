"""Long context on CPU: prefill and decode at 128k tokens, dense against sparse attention.

    python benchmarks/bench_long.py [--only-prefill dense|sparse] [--keep-prefill]

First one attention layer of DeepSeek-V3.2's own shape over a cache of 131,072 random rows: bytes
read per token, counted by the cache, and seconds, dense and sparse interleaved. Then a tiny model
in a process of its own, prefilled with 131,072 tokens in chunks, and its peak memory. Results go
to benchmarks/results/long.json. Leaves out accelerators.

Axes: B sequences, T tokens, D width.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from harness import RESULTS, ROOT, context, summarise, write_result

from pipelines.process import prepare_process

prepare_process()

import torch  # noqa: E402 - after its environment is set
from torch import Tensor  # noqa: E402

from model.attention.cache import LatentCache  # noqa: E402
from model.attention.layout import token_layout  # noqa: E402
from model.attention.rope import rotations  # noqa: E402
from model.attention.sparse import IndexQueries, SparseLatentAttention  # noqa: E402
from model.configuration import SparringSparseConfig, tiny_config, tiny_sparse_config  # noqa: E402
from model.modeling import SparringMoeForCausalLM, SparringSparseForCausalLM  # noqa: E402

NUM_TOKENS = 131072
REPEATS = 10
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 32.0, "mscale": 1.0,
    "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
}  # fmt: skip
LONG = {"rope_parameters": YARN, "max_position_embeddings": NUM_TOKENS, "num_hidden_layers": 2}
TINY = {"num_attention_heads": 2, "hidden_size": 64, "first_k_dense_replace": 1}


def published_layer(num_sequences: int) -> tuple[SparseLatentAttention, LatentCache]:
    """V3.2's attention layer in bfloat16, and a cache one token short of `NUM_TOKENS`."""
    config = SparringSparseConfig(num_hidden_layers=1, first_k_dense_replace=0, **{
        key: LONG[key] for key in ("rope_parameters", "max_position_embeddings")
    })  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    attention = SparseLatentAttention(config, 0).eval()
    cache = LatentCache(1, NUM_TOKENS)
    widths = (config.kv_lora_rank, config.qk_rope_head_dim, config.index_head_dim)
    for _ in range(16):
        cache.layers[0].append(
            *(torch.randn(num_sequences, NUM_TOKENS // 16, width) for width in widths)
        )
    cache.crop(-1)
    torch.set_default_dtype(torch.float32)
    attention.config = config
    return attention, cache


@torch.no_grad()
def decode_step(
    attention: SparseLatentAttention, cache: LatentCache, x_BTD: Tensor, kind: str
) -> dict[str, float]:
    """Decode one token: seconds of the layer and of its part that reads the cache, and bytes."""
    attention.is_sparse = kind == "sparse"
    layout = token_layout(x_BTD, None, None, cache.get_seq_length())
    turns = rotations(attention.config, layout.position_ids_BT)
    before, start, cpu = cache.bytes_read, time.perf_counter(), time.process_time()
    attention(x_BTD, turns, layout, cache)
    layer_seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    bytes_read = cache.bytes_read - before

    queries, q_latent = attention._queries(x_BTD, turns)
    latent, k_rope = attention._latents(x_BTD, turns, cached=True)
    held = cache.layers[0]
    start, cpu = time.perf_counter(), time.process_time()
    if kind == "sparse":
        index = IndexQueries(*attention.indexer.queries(x_BTD, q_latent, turns))
        attention.indexer.keys(x_BTD, turns)
        attention._attend_gathered(queries, index, layout, held)
    else:
        attention._attend(queries, latent, k_rope, layout, held)
    seconds, cpu_of_attention = time.perf_counter() - start, time.process_time() - cpu
    cache.crop(-1)
    return {
        "layer_seconds": layer_seconds, "layer_cpu_seconds": cpu_seconds,
        "attention_seconds": seconds, "attention_cpu_seconds": cpu_of_attention,
        "bytes": bytes_read,
    }  # fmt: skip


def measure_decode(num_sequences: int, threads: int) -> dict[str, object]:
    """Dense and sparse steps in turn, and their ratios."""
    torch.set_num_threads(threads)
    attention, cache = published_layer(num_sequences)
    config, steps = attention.config, {"dense": [], "sparse": []}
    x_BTD = torch.randn(num_sequences, 1, config.hidden_size, dtype=torch.bfloat16)
    for repeat in range(REPEATS + 1):
        for kind, found in steps.items():
            step = decode_step(attention, cache, x_BTD, kind)
            if repeat:  # the first warms up
                found.append(step)
    result: dict[str, object] = {
        "shape": "DeepSeek-V3.2, one layer: width 7168, 128 heads, rank 512 + 64, indexer 64 x 128,"
        " k 2048, bfloat16",
        "num_sequences": num_sequences,
        "threads": threads,
        "bytes_per_token": cache.num_bytes() / cache.get_seq_length() / num_sequences,
        "law_sparse_bytes": num_sequences * (NUM_TOKENS * 256 + config.index_topk * 1152),
        "law_dense_bytes": num_sequences * NUM_TOKENS * 1152,
    }
    for kind, found in steps.items():
        result[kind] = {key: summarise([step[key] for step in found]) for key in found[0]}
    for key in steps["dense"][0]:
        result[f"dense_over_sparse_{key}"] = (
            result["dense"][key]["median"] / result["sparse"][key]["median"]
        )
    return result


def prefill(kind: str) -> dict[str, object]:
    """Prefill a tiny model with `NUM_TOKENS` tokens in chunks and decode 16 more."""
    torch.manual_seed(0)
    if kind == "dense":
        model = SparringMoeForCausalLM(tiny_config(64, **LONG, **TINY)).eval()
    else:
        sizes = {"index_topk": 256, "index_n_heads": 4, "index_head_dim": 32}
        model = SparringSparseForCausalLM(tiny_sparse_config(64, **LONG, **TINY, **sizes)).eval()
    ids_BT = torch.randint(64, (1, NUM_TOKENS))
    start = time.perf_counter()
    outputs = model.prefill(ids_BT, chunk_tokens=2048)
    prefill_seconds = time.perf_counter() - start
    cache, decode_seconds = outputs.past_key_values, []
    with torch.no_grad():
        for _ in range(16):
            start = time.perf_counter()
            outputs = model(outputs.logits[:, -1:].argmax(-1), past_key_values=cache)
            decode_seconds.append(time.perf_counter() - start)
    return {
        "kind": kind, "num_tokens": NUM_TOKENS, "prefill_seconds": prefill_seconds,
        "decode_seconds": summarise(decode_seconds), "cache_bytes": cache.num_bytes(),
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "finite": bool(outputs.logits.isfinite().all()),
    }  # fmt: skip


def prefill_apart(kind: str) -> dict[str, object]:
    """`prefill` in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--only-prefill", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-prefill", choices=("dense", "sparse"))
    parser.add_argument("--keep-prefill", action="store_true",
                        help="measure decoding anew, keep the last result's prefill")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.only_prefill:
        print(json.dumps(prefill(arguments.only_prefill)))
        return
    threads = torch.get_num_threads()
    content = {"context": context({"torch": 0}), "threads": threads}
    former = RESULTS / "long.json"
    if arguments.keep_prefill and former.exists():
        content["prefill_128k"] = json.loads(former.read_text())["prefill_128k"]
    else:
        content["prefill_128k"] = [prefill_apart(kind) for kind in ("dense", "sparse")]
    content["decode_128k"] = [
        measure_decode(num_sequences, number)
        for number in sorted({1, threads})
        for num_sequences in (1, 4)
    ]
    write_result("long", content)
    for row in content["prefill_128k"]:
        print(
            f"{row['kind']}: prefill of 128k tokens {row['prefill_seconds']:.0f} s, decode "
            f"{row['decode_seconds']['median'] * 1e3:.1f} ms, peak {row['peak_rss_gib']:.2f} GiB"
        )
    for row in content["decode_128k"]:
        ratios = {
            key: round(value, 2) for key, value in row.items() if key.startswith("dense_over")
        }
        print(f"{row['num_sequences']} sequences, {row['threads']} threads: {ratios}")


if __name__ == "__main__":
    main()
