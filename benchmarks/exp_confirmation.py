"""Do continuations confirm what code confirms? Agreement against the tokens that they cost.

    python benchmarks/exp_confirmation.py runs/pointing/sums/short/1e-3/0/checkpoints/round_* \\
        --others runs/pointing/base/sums/0 runs/pointing/base/sums/1

Each checkpoint's learner solves as in a block of training, and every failed solution is pointed at
twice: by the checkpoint's critic, and by chance, which is wrong nearly always. The claims are then
tested by continuations, within budgets that are multiples of the learner's own tokens, and by other
critics, who confirm a step that they name too and refute it otherwise. Code, which training was not
shown, knows which of the claims are right. A finished checkpoint is kept;
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

from critic.critique import Critique, ParseFailure
from critic.resampling import paired_mean
from data.sources import draw_up_to
from pipelines.game.bout import Pointing
from pipelines.game.confirmation import Confirmation
from pipelines.game.curriculum import build_source
from pipelines.game.pointing import Attempt, first_claimed, pass_rate
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Sample
from pipelines.rollouts.sampler import Sampler
from pipelines.run.origin import find_origin, load_samplers
from rewards.solution import first_bad_step
from rewards.verifiers import Verifiers

BUDGETS = (0.1, 0.25, 0.5, 1.0, 2.0)
NUM_TASKS, GROUP, BATCH = 128, 8, 16  # tasks, solutions of each, tasks of a batch
SOURCES = ("critic", "chance")
SEED = 0


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
        found[place] = replace(found[place], critique=read(referee, found[place], said))
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


def by_continuations(
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
    return beside_code(referee, attempts, decided, confirmation.num_tokens)


def by_another(
    referee: Referee,
    critic: Sampler,
    attempts: Sequence[Attempt],
    pointings: Sequence[Pointing | None],
) -> dict[str, object]:
    """Another critic's word on each claim, beside code's; it sees the solution, not the claim."""
    told = {place for place, pointing in enumerate(pointings) if pointing is not None}
    pairs = [(attempts[place].task, attempts[place].solution) for place in sorted(told)]
    said = dict(zip(sorted(told), referee.criticise(pairs, critic, "another"), strict=True))
    decided: list[Pointing | None] = []
    for place, (attempt, pointing) in enumerate(zip(attempts, pointings, strict=True)):
        if pointing is not None:
            sample = said[place]
            named = first_claimed(attempt.solution, read(referee, attempt, sample))
            same = named == pointing.index
            pointing = replace(pointing, status="confirmed" if same else "refuted")
        decided.append(pointing)
    tokens = {id(one): len(one.token_ids) for one in said.values() if one is not None}
    return beside_code(referee, attempts, decided, sum(tokens.values()))


def read(referee: Referee, attempt: Attempt, said: Sample | None) -> Critique | ParseFailure | None:
    """A critique of an attempt."""
    if said is None:
        return None
    return referee.critiques.parse(said.text, attempt.solution, truncated=said.truncated)


def beside_code(
    referee: Referee,
    attempts: Sequence[Attempt],
    decided: Sequence[Pointing | None],
    num_tokens: int,
) -> dict[str, object]:
    """Decisions counted by what code says of the claim; agreement by task, with its interval."""
    counts: Counter[str] = Counter()
    agrees: dict[str, list[float]] = {}
    for attempt, pointing in zip(attempts, decided, strict=True):
        truth = first_bad_step(referee.dialect.check_steps(attempt.task, attempt.solution))
        if pointing is None or truth is None:
            continue
        counts[f"{'right' if pointing.index == truth else 'wrong'}, {pointing.status}"] += 1
        if pointing.status != "unknown":
            right = (pointing.index == truth) == (pointing.status == "confirmed")
            agrees.setdefault(attempt.task.id, []).append(float(right))
    by_task = [sum(own) / len(own) for own in agrees.values()]
    found = paired_mean([0.0] * len(by_task), by_task)
    return {
        "counts": dict(counts),
        "tokens": num_tokens / sum(attempt.num_tokens for attempt in attempts),
        "agreement": found.value,
        "interval": found.interval,
    }


def measure(checkpoint: Path, config: Path | None, others: Sequence[Path]) -> dict[str, object]:
    """Everything of one checkpoint."""
    overrides = ("rollout.engine=transformers", "pointing.step_checks=false")
    origin = find_origin(checkpoint, config, overrides, None, True)
    with tempfile.TemporaryDirectory() as scratch, closing(Verifiers(10)) as verifiers:
        referee = Referee(origin.settings, verifiers)
        learner, critic = load_samplers(origin, SEED, Path(scratch))
        assert critic is not None, "a checkpoint of a run has one"
        attempts = attempts_of(referee, learner, critic, SEED)
        found: dict[str, object] = {"pass_rate": pass_rate(one.verdict for one in attempts)}
        for source in SOURCES:
            pointings = claims(source, attempts, SEED)
            rows = {
                f"continuations, {budget:.0%} at most": by_continuations(
                    referee, learner, attempts, pointings, budget, SEED
                )
                for budget in BUDGETS
            }
            for num, other in enumerate(others):
                place = Path(scratch) / f"{source}-{num}"
                _, judge = load_samplers(replace(origin, critic=str(other)), SEED, place)
                assert judge is not None, "it was just named"
                rows[f"critic {other.name}"] = by_another(referee, judge, attempts, pointings)
            found[source] = rows
    return found


def table(results: Mapping[str, Mapping]) -> str:
    """A row for each checkpoint, source and budget."""
    lines = [
        "| checkpoint | solved | pointer | claims, right | tested by | extra tokens | decided "
        "| agreement of the decided | confirmed, right of them |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        for source in SOURCES:
            for test, row in found[source].items():
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
                    f"| {test} | {row['tokens']:.0%} | {1 - open_ / num:.0%} | {agreement} "
                    f"| {confirmed}, {counts['right, confirmed'] / max(1, confirmed):.0%} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--config", type=Path, help="TOML, for a checkpoint that is no run's")
    parser.add_argument("--others", nargs="*", type=Path, default=[], help="critics' checkpoints")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "confirmation.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for checkpoint in options.checkpoints:
        name = "/".join(part for part in checkpoint.parts[-6:] if part != "checkpoints")
        if name not in results:
            results[name] = measure(checkpoint, options.config, options.others)
            write_result("confirmation", {"context": context({}), "results": results})
            print(f"{name}: done", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
