"""What it saves to read once what prompts have in common: passes with gradients, shared and whole.

    python benchmarks/bench_prompts.py [--repeats 5] [--threads 2]

A model of SmolLM2-135M's widths, 12 layers of its 30, with random weights and a LoRA adapter on all
its matrices. Batches, laid out as TRL lays them out: 4 prompts with 8 completions each of 24
tokens, as a micro-batch of configs/smollm2.toml has them; 8 prompts that only begin alike, with one
completion of 45 tokens each, as its critic's imitation has them. Both variants are the trainer's
own `LengthSorted`, run in turn; their log-probabilities must agree, or the run stops. Results go to
benchmarks/results/prompts.json. Leaves out sampling, the optimizer, and longer prompts, of which
whole sequences take more memory than 10 GB.

Axes: B sequences, T tokens.
"""

import argparse
import time

from harness import context, summarise, write_result

from pipelines.process import prepare_process

prepare_process()

import torch  # noqa: E402 - after its environment is set
from peft import LoraConfig, get_peft_model  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from pipelines.policy.moe import Policy  # noqa: E402
from pipelines.training.lengths import Costs, LengthSorted  # noqa: E402

SEED, PROMPTS, GROUP, COMPLETION = 0, 4, 8, 24
LENGTHS = (20, 80, 150)  # of prompts, tokens
CRITIQUES, OPENING, OWN, CRITIQUE = 8, 190, 60, 45
TOLERANCE = 1e-4  # nats
MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def policy() -> Policy:
    """SmolLM2-135M's widths, adapted."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=12,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    lora = LoraConfig(r=16, target_modules=MATRICES, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # is 0 at first
            torch.nn.init.normal_(parameter, std=0.02)
    return adapted


def grouped(num_prompt: int) -> dict[str, Tensor]:
    """Groups with prompts of so many tokens."""
    torch.manual_seed(SEED)
    prompts_BT = torch.randint(49152, (PROMPTS, num_prompt)).repeat_interleave(GROUP, 0)
    return batch(prompts_BT, COMPLETION)


def critiques() -> dict[str, Tensor]:
    """Different prompts with one opening."""
    torch.manual_seed(SEED)
    opening_BT = torch.randint(49152, (1, OPENING)).expand(CRITIQUES, -1)
    return batch(torch.cat([opening_BT, torch.randint(49152, (CRITIQUES, OWN))], 1), CRITIQUE)


def batch(prompts_BT: Tensor, num_completion: int) -> dict[str, Tensor]:
    """A completion of random tokens after each."""
    num_prompt = prompts_BT.shape[1]
    ids_BT = torch.cat([prompts_BT, torch.randint(49152, (len(prompts_BT), num_completion))], 1)
    labels_BT = ids_BT.clone()
    labels_BT[:, :num_prompt] = -100
    mask_BT = torch.ones_like(ids_BT)
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


def seconds(model: LengthSorted, inputs: dict[str, Tensor]) -> tuple[float, Tensor]:
    """Of a pass with gradients, and its log-probabilities."""
    start = time.perf_counter()
    output = model(**inputs, fused_lm_head=True)
    output.log_probs.sum().backward()
    return time.perf_counter() - start, output.log_probs.detach()


def main() -> None:
    """Print and write a row for each batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="measured turns of each variant")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    content = context({"weights, tokens": SEED}) | vars(options)
    model, rows = policy(), {}
    costs = Costs.of(model, model.config.num_hidden_layers)
    batches = {f"groups with prompts of {num} tokens": grouped(num) for num in LENGTHS}
    batches |= {f"different prompts of {OPENING + OWN} tokens, {OPENING} alike": critiques()}
    for title, inputs in batches.items():
        taken = {"whole": list[float](), "shared": list[float]()}
        for repeat in range(-1, options.repeats):
            found = {}
            for name in taken:
                shared_by = model.config if name == "shared" else None
                spent, found[name] = seconds(
                    LengthSorted(model, lambda x: x, shared_by, costs), inputs
                )
                if repeat >= 0:
                    taken[name].append(spent)
            apart = (found["whole"] - found["shared"]).abs().max().item()
            assert apart <= TOLERANCE, f"the two differ by {apart} nats"
        ratio = summarise([w / s for w, s in zip(taken["whole"], taken["shared"], strict=True)])
        rows[title] = {n: summarise(v) for n, v in taken.items()} | {"ratio": ratio}
        print(f"{title}: whole {summarise(taken['whole'])['median']:.2f} s, "
              f"shared {summarise(taken['shared'])['median']:.2f} s, {ratio['median']:.2f} times "
              f"[{ratio['q1']:.2f}, {ratio['q3']:.2f}]", flush=True)  # fmt: skip
    print(f"written: {write_result('prompts', content | {'rows': rows})}")


if __name__ == "__main__":
    main()
