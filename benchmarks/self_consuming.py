"""Fine-tuning on one's own samples, generation after generation: the smallest real loop.

    python benchmarks/self_consuming.py --base BASE --out OUT --mix own [table.key=value ...]

Each generation samples fresh training tasks from the policy, makes a data set of them (`MIXES`),
trains the policy on it with TRL's SFTTrainer, and reads a gold probe as a guarded run does
(`pipelines/guard/`). Held-out accuracy, and the divergence from the base, are of other tasks and
other samples. OUT/metrics.jsonl has a row per generation, as a run has per round. Nothing is halted
here: `exp_monitor.py` replays the decisions.
"""

import argparse
import json
import math
import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from datasets import Dataset
from harness import ROOT
from mixes import MIXES, Attempt, kept, row_of
from transformers import set_seed
from trl import SFTConfig

from critic.monitor.decide import begin, check, wants_more
from critic.monitor.replay import COLD_START, first_row, readings_row
from critic.monitor.settings import MonitorSettings
from critic.monitor.state import MonitorState
from data.records import Task
from pipelines.game.curriculum import build_source
from pipelines.game.referee import Referee, verifiers_of
from pipelines.guard.gold import GoldProbe, end_ids
from pipelines.policy.checkpoint import load_model, load_tokenizer
from pipelines.rollouts.engine import Sampling, completion_seed
from pipelines.rollouts.sample import Sample
from pipelines.rollouts.transformers_engine import TransformersEngine
from pipelines.run.cold_start import ColdStartTrainer
from pipelines.settings.load import load_settings
from pipelines.settings.tables import Settings

NUM_TASKS, NUM_SAMPLES = 32, 4  # of a generation's data
NUM_STEPS, BATCH, RATE = 4, 32, 3e-4  # of its training: an epoch
WATCHED = MonitorSettings(watch_only=True)
NUM_SCORED = 64  # held-out samples of which the divergence is estimated


class Loop:
    """The policy, its judge and its tasks.

    Args:
        settings: tasks and their verifier.
        referee: judges.
        base: checkpoint that the loop begins with.
        seed: of everything drawn.
    """

    def __init__(self, settings: Settings, referee: Referee, base: Path, seed: int) -> None:
        self.referee, self.seed, self.settings = referee, seed, settings
        self.tokenizer = load_tokenizer(str(base))
        self.policy, self.base = (load_model(str(base), "float32").eval() for _ in "ab")
        self.source, sizes = build_source(settings), settings.evaluate
        probed = self.source.draw("probe", sizes.num_probe_tasks, 0)
        self.tested = self.source.draw("test", sizes.num_selection_tasks, 0)
        self.monitor = MonitorState()
        self.probe = GoldProbe(
            [{"prompt": referee.problem(task), "task": task} for task in probed],
            self._is_right,
            self._answer,
            sizes.num_samples,
            settings.learner.max_completion_length,
            batch_size=256,
            seed=seed,
        )

    def _is_right(self, text: str, row: Mapping[str, object]) -> bool | None:
        task = row["task"]
        assert isinstance(task, Task)
        verdict = self.referee.read(task, Sample(text, [], [], truncated=False))[1]
        return verdict.passed if verdict.counted else None

    def _answer(self, text: str) -> str | None:
        return self.referee.dialect.parse_solution(text, truncated=False).answer

    def sample(
        self, tasks: Sequence[Task], num: int, temperature: float, purpose: str
    ) -> list[Attempt]:
        """Sample solutions, and judge them."""
        prompts = [str(self.referee.problem(task)) for task in tasks]
        asked = [ids for ids in self.tokenizer(prompts)["input_ids"] for _ in range(num)]
        limit = self.settings.learner.max_completion_length
        ends, pad = end_ids(self.policy, self.tokenizer), self.tokenizer.pad_token_id
        engine = TransformersEngine(self.policy, ends, pad, max(map(len, asked)) + limit, 256)
        seeds = [completion_seed(self.seed, purpose, place) for place in range(len(asked))]
        drawn = engine.generate(asked, Sampling(limit, temperature), seeds)
        texts = [self.tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in drawn]
        owners = [place // num for place in range(len(asked))]
        read = self.referee.read_all(
            [
                (tasks[owner], Sample(text, c.token_ids, c.logprobs, c.truncated), "")
                for owner, text, c in zip(owners, texts, drawn, strict=True)
            ]
        )
        return [
            Attempt(
                tasks[owner], prompts[owner], text, [*ids, *c.token_ids], c.logprobs,
                solution.answer, verdict.passed,
            )
            for owner, text, ids, c, (solution, verdict) in zip(
                owners, texts, asked, drawn, read, strict=True
            )
        ]  # fmt: skip

    def data(self, mix: str, temperature: float, generation: int) -> list[dict[str, str]]:
        """A generation's data set."""
        purpose = f"{self.seed}/{generation}"
        rng = random.Random(purpose)
        tasks = self.source.draw("train", NUM_TASKS, completion_seed(purpose) % 2**31)
        own = [] if mix == "real" else self.sample(tasks, NUM_SAMPLES, temperature, purpose)
        rows = [row_of(attempt) for attempt in kept(own, mix)]
        num_real = {"real": NUM_TASKS * NUM_SAMPLES, "quarter": len(rows) // 3}.get(mix, 0)
        write, slips = self.referee.dialect.write_solution, self.settings.sft
        assert slips is not None
        real = self.source.draw("train", max(num_real, 1), completion_seed("real", purpose) % 2**31)
        rows += [
            {
                "prompt": str(self.referee.problem(task)),
                "completion": write(task, rng, slips.slip_rate),
            }
            for task in real[:num_real]
        ]
        rng.shuffle(rows)
        return rows

    def train(self, rows: Sequence[Mapping[str, str]], folder: Path, rate: float) -> None:
        """One generation's fine-tuning, with an optimizer of its own."""
        args = SFTConfig(
            output_dir=str(folder), max_steps=NUM_STEPS, per_device_train_batch_size=BATCH,
            learning_rate=rate, lr_scheduler_type="constant", save_strategy="no", use_cpu=True,
            bf16=False, gradient_checkpointing=False, report_to="none", logging_strategy="no",
            disable_tqdm=True, seed=self.seed, max_length=None,
        )  # fmt: skip
        trainer = ColdStartTrainer(
            model=self.policy, args=args, train_dataset=Dataset.from_list(list(rows)),
            processing_class=self.tokenizer,
        )  # fmt: skip
        trainer.train()
        self.policy.eval()

    def row(self, generation: int) -> dict[str, object]:
        """What is read after a generation; -1 is before any."""
        if generation < 0:
            found = self.probe.read_start(self.policy, self.tokenizer)
            self.monitor = begin(found.readings, WATCHED)
        else:
            found = self.probe.read(
                self.policy,
                self.tokenizer,
                generation,
                lambda own: wants_more(self.monitor, own, WATCHED),
                WATCHED.reads_again,
            )
            self.monitor, _ = check(self.monitor, found.readings, WATCHED)
        sizes = self.settings.evaluate
        tested = self.sample(self.tested, sizes.num_samples, 1.0, f"test {generation}")
        kind = COLD_START if generation < 0 else "round"
        return {
            "kind": kind,
            "round": max(generation, 0),
            **readings_row({**found.readings, "training_reward": None}),
            **first_row(found.first),
            "probe/reads": found.num_reads,
            "evaluation/mean_at_k": sum(one.passed for one in tested) / len(tested),
            "kl": self.divergence(tested[:: max(1, len(tested) // NUM_SCORED)]),
        }

    def divergence(self, attempts: Sequence[Attempt]) -> float:
        """KL(policy || base) in nats per token, over the policy's own samples."""
        ends, pad = end_ids(self.base, self.tokenizer), self.tokenizer.pad_token_id
        scorer = TransformersEngine(self.base, ends, pad, max_model_len=10**6)
        scores = scorer.score([one.ids for one in attempts])
        own = math.fsum(math.fsum(one.logprobs) for one in attempts)
        theirs = math.fsum(
            math.fsum(score[len(score) - len(one.logprobs) :])
            for one, score in zip(attempts, scores, strict=True)
        )
        return (own - theirs) / sum(len(one.logprobs) for one in attempts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mix", choices=MIXES, required=True)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--generations", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="table.key=value of configs/tiny.toml")
    options = parser.parse_intermixed_args()
    settings = load_settings(ROOT / "configs" / "tiny.toml", options.overrides)
    set_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "metrics.jsonl"
    with closing(verifiers_of(settings.rewards)) as verifiers, path.open("w") as stream:
        loop = Loop(settings, Referee(settings, verifiers), options.base, options.seed)
        for generation in range(-1, options.generations):
            if generation >= 0:
                rows = loop.data(options.mix, options.temperature, generation)
                if rows:  # nothing right, nothing to learn from
                    loop.train(rows, options.out / "work", options.rate)
            row = loop.row(generation)
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            gold = row["monitor/signals"]
            print(generation, row["evaluation/mean_at_k"], row["kl"], gold, flush=True)
    (options.out / "done").write_text("")


if __name__ == "__main__":
    main()
