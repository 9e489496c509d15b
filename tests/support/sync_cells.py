"""One process of the proof that perturbed weights arrive; `tests/end_to_end/test_sync_cells.py`
starts it.

Every kind of policy in turn: wrapped by Accelerate, redrawn and stepped five times on batches that
differ between processes, synced each time into an engine of the process's own. Writes what it
measured; judges nothing.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from pipeline_cases import random_llama, random_moe, redraw, redraw_adapter, save
from weights import make_weights_matter

from pipelines.policy.manifest import checkpoint_manifest
from pipelines.policy.moe import freeze_multi_token_layers
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import policy_tensors, weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import SyncedEngine
from pipelines.rollouts.servers.start import open_engine
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.vllm_engine import VllmEngine
from pipelines.settings.tables import RolloutTable
from pipelines.sync.agreement import largest_difference
from pipelines.sync.push import WeightSync

Policy = torch.nn.Module
EXACT = 1e-5  # nats, float32
TOKENIZER = character_tokenizer()
PROBES = torch.randint(
    3, len(TOKENIZER), (4, 32), generator=torch.Generator().manual_seed(3)
).tolist()
TARGETS = [
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("kv_a_proj_with_mqa", "kv_b_proj"),
]
# Which of a base's tensors the adapter moves; PEFT takes the last three for our fused experts.
ADAPTED = {
    "moe": lambda n: "_proj" in n and (".self_attn." in n or ".mlp.experts." in n),
    "dense": lambda n: "_proj" in n,
}


def build(kind: str) -> Policy:
    """A policy whose weights matter: our model with a multi-token layer, or a tied Llama."""
    if kind == "dense":
        return random_llama(TOKENIZER)
    return random_moe(TOKENIZER, num_nextn_predict_layers=1)


def start_engine(placement: str, directory: Path, accelerator: Accelerator) -> SyncedEngine:
    settings = RolloutTable(
        placement=placement, max_model_len=64, kv_cache_gib=0.05, max_num_seqs=8,
        request_timeout_seconds=200,
    )  # fmt: skip
    spec = EngineSpec(directory, settings, "float32", (TOKENIZER.eos_token_id,))
    if placement == "colocated":
        return VllmEngine(spec)
    place = accelerator.process_index, accelerator.num_processes
    return open_engine(directory.name, spec, *place)


def prove(
    policy: Policy,
    sync: WeightSync,
    accelerator: Accelerator,
    perturb: Callable[[Policy, int], object],
    moves: Callable[[str], bool],
) -> dict[str, list]:
    """Five syncs: how far the engine was before and after each, and the hash of the weights."""
    freeze_multi_token_layers(policy)
    trained = [p for p in policy.parameters() if p.requires_grad]
    prepared, optimizer = accelerator.prepare(policy, torch.optim.SGD(trained, lr=1e-2))
    own = torch.Generator().manual_seed(accelerator.process_index)
    found: dict[str, list] = {"before": [], "after": [], "weights": [], "stepped": []}
    for seed in range(11, 16):
        kept = {name: tensor.clone() for name, tensor in policy_tensors(policy)}
        perturb(policy, seed)
        for name, tensor in policy_tensors(policy):
            moved = (
                (tensor != kept[name]).float().mean().item()
            )  # a few may round to what they were
            assert moved > 0.99 if moves(name) else moved == 0, f"{name}: {moved:.4f} of it moved"
        redrawn = weights_hash(policy)
        ids_BT = torch.randint(3, len(TOKENIZER), (2, 16), generator=own).to(accelerator.device)
        accelerator.backward(prepared(input_ids=ids_BT).logits.square().mean())
        optimizer.step(), optimizer.zero_grad()
        found["before"].append(difference(policy, sync))
        sync.push(accelerator.unwrap_model(prepared), seed)
        found["after"].append(difference(policy, sync))
        pushed = sync.engine.weights
        found["weights"].append(pushed.hash)
        found["stepped"].append(pushed.hash != redrawn and pushed.version == seed)
    return found


def difference(policy: Policy, sync: WeightSync) -> float:
    """The largest over the engine's replicas (nats), measured without the sync's own check."""
    ours = policy_logprobs(policy, PROBES)
    theirs = [replica.score(PROBES) for replica in sync.engine.replicas]
    return max(largest_difference(ours, scores)[0] for scores in theirs)


def main(placement: str, folder: Path) -> None:
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    kinds = ("moe", "dense")
    if accelerator.is_main_process:
        for kind in kinds:
            save(build(kind), folder / kind)
    accelerator.wait_for_everyone()
    engines = {kind: start_engine(placement, folder / kind, accelerator) for kind in kinds}
    found: dict[str, object] = {"world": accelerator.num_processes}
    for kind, engine in engines.items():
        manifest = checkpoint_manifest(folder / kind)
        if placement == "server":
            engine.await_ready(manifest)
        sync = WeightSync(engine, manifest, PROBES, agreement_every=1, agreement_threshold=EXACT)
        redraw_all = make_weights_matter if kind == "moe" else redraw
        base = build(kind).to(accelerator.device)
        found[kind] = prove(base, sync, accelerator, redraw_all, lambda name: True)
        # PEFT changes the configuration that it is given.
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules=TARGETS)
        adapted = get_peft_model(build(kind), lora).to(accelerator.device)
        found[f"{kind}, LoRA"] = prove(adapted, sync, accelerator, redraw_adapter, ADAPTED[kind])
        engine.close()
    (folder / f"found_{accelerator.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
