"""Does routing replay bring sampler and policy together in bfloat16? Settings x seeds, resumable.

    python pipelines/sft.py --config configs/tiny.toml
    python benchmarks/exp_replay.py --seeds 0 1 2

Two bases: `demo`, the demo's cold start (two layers of 8 experts, top 2), rewarded by its verifier;
and `deep`, random weights that matter (five layers of 16 experts, top 4), rewarded for digits. Two
precisions: `bf16`, where both sides hold bfloat16 weights, and `mixed`, where the policy keeps
float32 weights and computes under bfloat16 autocast. In each setting the learner trains with and
without replay, and at every step the same rollouts are also scored the other way. Writes
benchmarks/results/replay.json and docs/replay.png. Leaves out the critic, and any tuning.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP / "benchmarks")]

from harness import context, write_result  # noqa: E402

from pipelines.process import prepare_process  # noqa: E402

SETTINGS = {"deep, bf16": 5e-4, "demo, bf16": 1e-4, "deep, mixed": 1e-4}  # learning rates
STEPS_PER_BLOCK = 10
OTHER = "the other way"  # what the step's rollouts give when they are scored so
DEEP = {"hidden_size": 128, "num_hidden_layers": 6, "n_routed_experts": 16,
        "num_experts_per_tok": 4}  # fmt: skip


def play(job: tuple[str, bool, int], steps: int, folder: Path, path: Path) -> None:
    """Train one arm in a process of its own; writes one row a step."""
    prepare_process()
    import torch
    from transformers import set_seed

    from pipelines.game.bout import RoundPlan, Start
    from pipelines.game.curriculum import build_source
    from pipelines.game.learner import LearnerGame
    from pipelines.game.referee import Referee
    from pipelines.rollouts.sample import Scored
    from pipelines.settings.load import load_settings
    from rewards.verifiers import Verifiers

    setting, replayed, seed = job
    kind, precision = setting.split(", ")
    torch.set_num_threads(1)
    set_seed(seed)
    settings = load_settings(
        TOP / "configs" / "tiny.toml", [f"run.seed={seed}", "pointing.source=none"]
    )
    source, rows = build_source(settings), []

    def digits(indices, samples):  # type: ignore[no-untyped-def]
        found = [sum(map(str.isdigit, s.text)) / max(len(s.text), 1) for s in samples]
        return [Scored(share) for share in found]

    with closing(Verifiers(settings.rewards.timeout_seconds)) as verifiers:
        referee = Referee(settings, verifiers)
        role = build(setting, precision, replayed, seed, steps, folder / kind, rows)
        game, num = LearnerGame(referee, role, None), role.prompts_per_block(STEPS_PER_BLOCK)
        for block in range(steps // STEPS_PER_BLOCK):
            tasks = source.draw("train", num, seed * 10**6 + block)
            if kind == "demo":
                game.play([Start(task) for task in tasks], RoundPlan(block, False, 1.0))
            else:
                role.play([referee.problem(task) for task in tasks], digits, f"block {block}")
    path.write_text(json.dumps(rows) + "\n")


def make_deep(folder: Path) -> None:
    """A deeper mixture whose experts differ as much as any two matrices."""
    prepare_process()
    sys.path.append(str(TOP / "tests" / "support"))
    from pipeline_cases import random_moe, save

    from pipelines.policy.tokenizer import character_tokenizer

    save(random_moe(character_tokenizer(), **DEEP), folder)


def build(setting, precision, replayed, seed, steps, base, rows):  # type: ignore[no-untyped-def]
    """A learner that trains in one precision and samples in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import model  # noqa: F401  registers our classes
    from pipelines.policy.manifest import checkpoint_manifest
    from pipelines.rollouts.sampler import Sampler
    from pipelines.rollouts.spec import EngineSpec
    from pipelines.rollouts.vllm_engine import VllmEngine
    from pipelines.settings.tables import RolloutTable
    from pipelines.sync.push import WeightSync
    from pipelines.training.mismatch import logprob_mismatch
    from pipelines.training.replay import Replaying, lay_out
    from pipelines.training.role_spec import RoleSpec
    from pipelines.training.trainer import RoleTrainer

    class BothWays(RoleTrainer):
        """Scores its rollouts once more, the other way."""

        def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
            output = super()._generate_and_score_completions(inputs)
            ids_BT = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
            mask_BT = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
            drawn = self.block.current.completions
            routes_BTLK = lay_out([c.routes for c in drawn], ids_BT, mask_BT)
            other = self.model if self.spec.routing_replay else Replaying(self.model, routes_BTLK)
            with torch.no_grad():
                given = (ids_BT, mask_BT, output["completion_ids"].shape[1])
                logprobs_BT = self._get_per_token_logps_and_entropies(other, *given)[0]
            self.other_way = logprob_mismatch(
                logprobs_BT, output["sampling_per_token_logps"], output["completion_mask"],
                self.accelerator.gather,
            )  # fmt: skip
            return output

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    policy = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(base)
    table = RolloutTable(max_model_len=192, kv_cache_gib=0.1)
    engine = VllmEngine(EngineSpec(base, table, "bfloat16", (tokenizer.eos_token_id,)))
    probes = [tokenizer("a3b7c9d9\na3=30\nb7=01\n")["input_ids"]]
    manifest = checkpoint_manifest(base)
    sync = WeightSync(engine, manifest, probes, 20, None, dtype=torch.bfloat16)
    args = _grpo_config(setting, precision, seed)

    def note(row: dict[str, object]) -> None:
        kept = {k: v for k, v in row.items() if k.startswith(("rollout/", "reward/", "time/"))}
        rows.append(kept | {OTHER: role.other_way})

    limits = (args.max_completion_length, args.temperature)
    sampler = Sampler("learner", engine, tokenizer, seed, *limits, policy, sync)
    spec = RoleSpec("learner", args, run_steps=steps, routing_replay=replayed)
    role = BothWays(spec, policy, sampler, note)
    return role


def _grpo_config(setting: str, precision: str, seed: int):  # type: ignore[no-untyped-def]
    import torch
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=tempfile.gettempdir(), seed=seed, per_device_train_batch_size=16,
        num_generations=8, learning_rate=SETTINGS[setting], lr_scheduler_type="constant", beta=0.0,
        bf16=precision == "mixed", gradient_checkpointing=False, report_to="none",
        save_strategy="no", logging_steps=1, shuffle_dataset=False, use_vllm=False, max_steps=1,
        max_completion_length=24 if setting.startswith("deep") else 48, temperature=1.0,
        disable_tqdm=True, use_cpu=not torch.accelerator.is_available(),
    )  # fmt: skip


def summary(rows: dict[bool, list[list[dict]]]) -> dict[str, object]:
    """Means over steps and seeds of one precision, and replay's cut between arms and within."""

    def mean(key: str, replayed: bool) -> list[float]:
        return [statistics.fmean(row[key] for row in run) for run in rows[replayed]]

    def cut(key: str) -> dict[str, object]:
        arms = [mean(key, False), mean(key, True)]
        within = [
            1 - sum(row[key] for row in run) / sum(row[OTHER][key] for row in run)
            for run in rows[True]
        ]
        return {
            "without": arms[0], "with": arms[1],
            "cut_between_arms": 1 - statistics.fmean(arms[1]) / statistics.fmean(arms[0]),
            "cut_same_rollouts": within,
        }  # fmt: skip

    kinds = ("rollout/mismatch_mean", "rollout/mismatch_kl", "rollout/mismatch_max")
    experts = {str(r): mean("rollout/other_experts", r) for r in (False, True)}
    last = {str(r): [statistics.fmean(x["reward/mean"] for x in run[-20:]) for run in rows[r]]
            for r in (False, True)}  # fmt: skip
    return {kind: cut(kind) for kind in kinds} | {
        "tokens_with_other_experts": experts, "reward_of_the_last_20_steps": last,
    }  # fmt: skip


def draw(results: dict[str, dict[bool, list[list[dict]]]]) -> None:
    """Mean difference over steps: every seed thin, their mean thick."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(4.6 * len(results), 3), squeeze=False)
    for axis, (setting, arms) in zip(axes[0], results.items(), strict=True):
        for replayed, colour in ((False, "#b34700"), (True, "#1f6f8b")):
            runs = [[row["rollout/mismatch_mean"] for row in run] for run in arms[replayed]]
            for run in runs:
                axis.plot(run, color=colour, linewidth=0.4, alpha=0.5)
            mean = [statistics.fmean(step) for step in zip(*runs, strict=True)]
            label = "routes replayed" if replayed else "routed anew"
            axis.plot(mean, color=colour, linewidth=1.4, label=label)
        axis.set(title=setting, xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mean |policy - sampler|, nats a token")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(TOP / "docs" / "replay.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--base", type=Path, default=TOP / "runs" / "tiny-base")
    parser.add_argument("--folder", type=Path, default=TOP / "runs" / "exp-replay")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    run_in_child(make_deep, options.folder / "deep")
    shutil.copytree(options.base, options.folder / "demo", dirs_exist_ok=True)
    results: dict[str, dict[bool, list[list[dict]]]] = {}
    for setting in options.settings:
        for seed in options.seeds:
            for replayed in (False, True):
                name = f"{setting}, {'replay' if replayed else 'own'}, {seed}.json"
                path = options.folder / name.replace(", ", "-")
                if not path.exists():
                    run_in_child(
                        play, (setting, replayed, seed), options.steps, options.folder, path
                    )
                if not path.exists():
                    raise SystemExit(f"{name} failed, see above")
                arms = results.setdefault(setting, {False: [], True: []})
                arms[replayed].append(json.loads(path.read_text()))
                print(f"{name}: done", flush=True)
        publish(results, options.steps, options.seeds)


def run_in_child(work: Callable[..., None], *args: object) -> None:
    """A process a job: engines of one process share their parallel groups to its end."""
    child = multiprocessing.get_context("fork").Process(target=work, args=args)
    child.start()
    child.join()


def publish(results: dict, steps: int, seeds: list[int]) -> None:
    """Write what is there so far."""
    summaries = {setting: summary(arms) for setting, arms in results.items()}
    shared = {"steps": steps, "completions_a_step": 16, "learning_rates": SETTINGS}
    numbered = {f"run {index}": seed for index, seed in enumerate(seeds)}
    curves = {
        setting: {str(r): [[round(x["rollout/mismatch_mean"], 8) for x in run] for run in runs]
                  for r, runs in arms.items()}
        for setting, arms in results.items()
    }  # fmt: skip
    write_result("replay", context(numbered) | shared | {"summary": summaries, "curves": curves})
    draw(results)
    print(json.dumps(summaries, indent=1))


if __name__ == "__main__":
    main()
