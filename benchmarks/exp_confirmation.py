"""Do continuations confirm what code confirms? Agreement against the tokens that they cost.

    python benchmarks/exp_confirmation.py runs/pointing/sums/ours/3e-4/*/checkpoints/round_*

Each checkpoint's learner solves as in a block of training, and every failed solution is pointed at
twice: by the checkpoint's critic, and by chance, which is wrong nearly always. Continuations then
test the claims, within budgets that are multiples of the learner's own tokens; code, which training
was not shown, knows which of the claims are right. A finished checkpoint is kept;
benchmarks/results/confirmation.json is written after each. Leaves out the game around it.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from harness import RESULTS, context, write_result

from critic.resampling import paired_mean
from data.sources import draw_up_to
from pipelines.game.bout import Pointing
from pipelines.game.confirmation import Confirmation
from pipelines.game.curriculum import build_source
from pipelines.game.pointing import Attempt, first_claimed, pass_rate
from pipelines.game.referee import Referee
from pipelines.rollouts.sampler import Sampler
from pipelines.run.origin import find_origin, load_samplers
from rewards.solution import first_bad_step
from rewards.verifiers import Verifiers

BUDGETS = (0.1, 0.25, 0.5, 1.0, 2.0)
NUM_TASKS, GROUP, BATCH = 128, 8, 16  # tasks, solutions of each, tasks of a batch
SOURCES = ("critic", "chance")


def attempts_of(referee: Referee, learner: Sampler, critic: Sampler, seed: int) -> list[Attempt]:
    """Solutions of fresh tasks, the failed ones with a critique."""
    tasks = draw_up_to(build_source(referee.settings), "train", NUM_TASKS, seed)
    drawn = learner.sample([referee.problem(task) for task in tasks], "attempts", GROUP)
    found = []
    for task, samples in zip(tasks, drawn, strict=True):
        for sample in samples:
            solution, verdict = referee.read(task, sample)
            length = len(sample.token_ids)
            found.append(Attempt(task.id, task, "", solution, verdict, length))
    failed = [place for place, one in enumerate(found) if one.failed]
    pairs = [(found[place].task, found[place].solution) for place in failed]
    for place, said in zip(failed, referee.criticise(pairs, critic, "critiques"), strict=True):
        if said is not None:
            read = (said.text, found[place].solution)
            critique = referee.critiques.parse(*read, truncated=said.truncated)
            found[place] = replace(found[place], critique=critique)
    return found


def claims(source: str, attempts: Sequence[Attempt], seed: int) -> list[Pointing | None]:
    """What a source says of the attempts."""
    rng, found = random.Random(f"{source}/{seed}"), list[Pointing | None]()
    for attempt in attempts:
        index = None
        if attempt.failed and source == "chance":
            index = rng.randrange(len(attempt.solution.steps))
        elif attempt.failed:
            index = first_claimed(attempt.solution, attempt.critique)
        found.append(None if index is None else Pointing(index, "critic"))
    return found


def tested(
    referee: Referee,
    learner: Sampler,
    attempts: Sequence[Attempt],
    pointings: Sequence[Pointing | None],
    budget: float,
    seed: int,
) -> dict[str, object]:
    """One budget's decisions beside code's."""
    confirmation = Confirmation(referee, learner, random.Random(seed))
    size = BATCH * GROUP
    decided = [
        pointing
        for first in range(0, len(attempts), size)
        for pointing in confirmation.confirm(
            attempts[first : first + size], pointings[first : first + size],
            f"{budget}/{first}", budget,
        )
    ]  # fmt: skip
    counts: Counter[str] = Counter()
    agrees: dict[str, list[float]] = {}
    for attempt, pointing in zip(attempts, decided, strict=True):
        steps = referee.dialect.check_steps(attempt.task, attempt.solution)
        truth = first_bad_step(steps)
        if pointing is None or truth is None:
            continue
        counts[f"{'right' if pointing.index == truth else 'wrong'}, {pointing.status}"] += 1
        if pointing.status != "unknown":
            right = (pointing.index == truth) == (pointing.status == "confirmed")
            agrees.setdefault(attempt.task.id, []).append(float(right))
    by_task = [sum(own) / len(own) for own in agrees.values()]
    spread = paired_mean([0.0] * len(by_task), by_task)
    own_tokens = sum(attempt.num_tokens for attempt in attempts)
    return {
        "counts": dict(counts),
        "tokens": confirmation.num_tokens / own_tokens,
        "agreement": spread.value,
        "interval": spread.interval,
    }


def measure(checkpoint: Path, config: Path | None, seed: int) -> dict[str, object]:
    """Everything of one checkpoint."""
    overrides = ("rollout.engine=transformers", "pointing.step_checks=false")
    origin = find_origin(checkpoint, config, overrides, None, True)
    with tempfile.TemporaryDirectory() as scratch, closing(Verifiers(10)) as verifiers:
        referee = Referee(origin.settings, verifiers)
        learner, critic = load_samplers(origin, seed, Path(scratch))
        assert critic is not None, "a checkpoint of a run has one"
        attempts = attempts_of(referee, learner, critic, seed)
        found: dict[str, object] = {"pass_rate": pass_rate(one.verdict for one in attempts)}
        for source in SOURCES:
            pointings = claims(source, attempts, seed)
            found[source] = {
                str(budget): tested(referee, learner, attempts, pointings, budget, seed)
                for budget in BUDGETS
            }
    return found


def table(results: Mapping[str, Mapping]) -> str:
    """A row for each checkpoint, source and budget."""
    lines = [
        "| checkpoint | solved | pointer | claims, right | extra tokens | decided "
        "| agreement of the decided | confirmed, right of them |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        for source in SOURCES:
            for row in found[source].values():
                counts = Counter(row["counts"])
                num = max(1, counts.total())
                right = sum(n for key, n in counts.items() if key.startswith("right"))
                open_ = counts["right, unknown"] + counts["wrong, unknown"]
                confirmed = counts["right, confirmed"] + counts["wrong, confirmed"]
                agreement = "-"
                if row["agreement"] is not None:
                    low, high = row["interval"] or (row["agreement"],) * 2
                    agreement = f"{row['agreement']:.0%} [{low:.0%}, {high:.0%}]"
                lines.append(
                    f"| {name} | {found['pass_rate']:.0%} | {source} | {num}, {right / num:.0%} "
                    f"| {row['tokens']:.0%} | {1 - open_ / num:.0%} | {agreement} "
                    f"| {confirmed}, {counts['right, confirmed'] / max(1, confirmed):.0%} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--config", type=Path, help="TOML, for a checkpoint that is no run's")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "confirmation.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for checkpoint in options.checkpoints:
        name = "/".join(part for part in checkpoint.parts[-6:] if part != "checkpoints")
        if name not in results:
            results[name] = measure(checkpoint, options.config, options.seed)
            facts = context({"tasks": options.seed})
            write_result("confirmation", {"context": facts, "results": results})
            print(f"{name}: done", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
