"""The critic's audits: of a fixed set of solutions, kept on disk, and of the round's own rollouts.

The fixed set is class-balanced, and its labels and first bad steps are stored with it: what is
measured against does not change when a verifier runs out of time. The rollouts have their natural
base rate; what code knows of them only measures here. Leaves out the figures
(`critic/calibration.py`) and when what is measured (`game/examiner.py`).
"""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from critic.calibration import (
    Measures,
    auroc,
    class_balance,
    measure,
)
from critic.critique import ParseFailure
from critic.measured import UNREAD_P_SOUND, MeasuredCritique
from critic.meta import known_first_bad
from data.atomic import write_text_atomic
from data.records import Generator, Task
from pipelines.errors import UserError
from pipelines.game.bout import Bout, CheckedCritique, CritiqueItem
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Examinee
from rewards.solution import Solution

VERSION = 2
UNKNOWN_KIND = "unknown"


@dataclass(frozen=True)
class AuditedSolution:
    """A solution for the critic's audit.

    Attributes:
        kind: the kind of its mistake; None if it is sound.
        mean_logprob: of its tokens under the learner that wrote it: a baseline.
        num_tokens: its length: another.
    """

    item: CritiqueItem
    kind: str | None
    mean_logprob: float
    num_tokens: int


@dataclass(frozen=True)
class CriticAudit:
    """The critic's figures, the critiques that they are of, and the AUROC of what it must beat."""

    measures: Measures
    critiques: tuple[MeasuredCritique, ...]
    length_auroc: float | None = None
    logprob_auroc: float | None = None

    def row(self) -> dict[str, object]:
        """Everything but the critiques, as one flat table."""
        return self.measures.row() | {
            "auroc_length_baseline": self.length_auroc,
            "auroc_logprob_baseline": self.logprob_auroc,
        }

    def columns(self) -> dict[str, list[object]]:
        """The critiques as a table of columns; `critiques_of` reads it."""
        rows = [asdict(critique) for critique in self.critiques]
        return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def critiques_of(columns: Mapping[str, Sequence]) -> list[MeasuredCritique]:
    """Read what `CriticAudit.columns` gave."""
    rows = zip(*columns.values(), strict=True)
    return [MeasuredCritique(**dict(zip(columns, row, strict=True))) for row in rows]


# -- the fixed set --------------------------------------------------------------------------------


def audit_set(
    referee: Referee, groups: Sequence[Sequence[Bout]], seed: int
) -> list[AuditedSolution]:
    """Class-balanced, distinct, well-formed, untruncated solutions from unrewarded bouts.

    In an order of which `audit_share` takes the beginning.
    """
    rng = random.Random(seed)
    distinct = {(b.task.id, b.solution.text): b for group in groups for b in group if b.judgeable}
    found = [_audited(referee, bout) for bout in distinct.values()]
    chosen = class_balance(found, lambda solution: solution.item.sound, rng)
    return _in_balanced_order(chosen, rng)


def audit_share(solutions: Sequence[AuditedSolution], share: float) -> list[AuditedSolution]:
    """The beginning of the set: at least this share of it, whole tasks, both classes alike.

    A smaller share is the beginning of a larger one, so that raising it only adds items.
    """
    wanted = math.ceil(share * len(solutions) - 1e-9)
    is_balanced = _surplus(solutions) == 0  # else one class is missing, and there is no balance
    end = surplus = 0
    for _, group in itertools.groupby(solutions, lambda solution: solution.item.task.id):
        if end >= wanted and (surplus == 0 or not is_balanced):
            break
        whole = list(group)
        end, surplus = end + len(whole), surplus + _surplus(whole)
    return list(solutions[:end])


def save_audit(path: Path, solutions: Sequence[AuditedSolution]) -> None:
    """Write the set with its labels as JSON, atomically."""
    rows = [
        {
            "task": asdict(s.item.task),
            "text": s.item.solution.text,
            "sound": s.item.sound,
            "first_bad": s.item.first_bad,
            "kind": s.kind,
            "mean_logprob": s.mean_logprob,
            "num_tokens": s.num_tokens,
        }
        for s in solutions
    ]
    write_text_atomic(path, json.dumps({"version": VERSION, "solutions": rows}))


def load_audit(path: Path, referee: Referee) -> list[AuditedSolution]:
    """Read what `save_audit` wrote; solutions are parsed again, and never verified again.

    Raises:
        UserError: another version wrote the set, or its solutions are of another dialect.
    """
    content = json.loads(path.read_text())
    version = content.get("version") if isinstance(content, dict) else 1
    if version != VERSION:
        raise UserError(
            f"{path} is an audit set of version {version}, this code reads version {VERSION}: "
            "continue the run with the code that began it, or start a new run"
        )
    return [_loaded(row, path, referee) for row in content["solutions"]]


def _loaded(row: dict, path: Path, referee: Referee) -> AuditedSolution:
    task = Task(**{**row["task"], "generator": Generator(**row["task"]["generator"])})
    solution = referee.dialect.parse_solution(row["text"], truncated=False)
    known = {step.id for step in solution.steps} | {None}
    if not solution.well_formed or row["first_bad"] not in known:
        raise UserError(
            f"{path} holds a solution of task {task.id} that the dialect {referee.dialect.name!r} "
            "does not read: resume with the tasks.dialect that the run began with"
        )
    item = CritiqueItem(task, solution, row["sound"], row["first_bad"])
    return AuditedSolution(item, row["kind"], row["mean_logprob"], row["num_tokens"])


def _in_balanced_order(
    solutions: Sequence[AuditedSolution], rng: random.Random
) -> list[AuditedSolution]:
    """Whole tasks in random order, except that the class that is behind goes first."""
    by_task: dict[str, list[AuditedSolution]] = {}
    for solution in solutions:
        by_task.setdefault(solution.item.task.id, []).append(solution)
    waiting = list(by_task.values())
    rng.shuffle(waiting)
    ordered: list[AuditedSolution] = []
    surplus = 0
    while waiting:
        helps = (n for n, whole in enumerate(waiting) if surplus * _surplus(whole) < 0)
        whole = waiting.pop(next(helps, 0) if surplus else 0)
        ordered, surplus = ordered + whole, surplus + _surplus(whole)
    return ordered


def _surplus(solutions: Sequence[AuditedSolution]) -> int:
    """Sound ones minus flawed ones."""
    return sum(1 if solution.item.sound else -1 for solution in solutions)


# -- measuring ------------------------------------------------------------------------------------


def audit_critic(
    referee: Referee,
    critic: Examinee,
    solutions: Sequence[AuditedSolution],
    purpose: str,
    factor: int = 1,
) -> CriticAudit | None:
    """Ask the critic about each solution several times; None where there is nothing to ask.

    `factor` multiplies the configured number of critiques: the solutions, and so what is measured,
    stay the same. Each critique counts on its own, as in the game. Solutions that the critic's
    context does not hold are left out, and counted.
    """
    asked = [(s, referee.critique_prompt(s.item.task, s.item.solution)) for s in solutions]
    held = [pair for pair in asked if referee.critic_has_room(critic, pair[1])]
    referee.num_too_long += len(asked) - len(held)
    if not held:
        return None
    solutions, prompts = [s for s, _ in held], [prompt for _, prompt in held]
    k = factor * referee.settings.critic.critiques_per_audit
    drawn = referee.ask(critic, prompts, purpose, k)
    critiques = [
        measured(s.item, s.kind, referee.check(s.item, sample))
        for s, samples in zip(solutions, drawn, strict=True)
        for sample in samples
    ]
    labels = [int(s.item.sound) for s in solutions]
    return CriticAudit(
        measures=measure(critiques),
        critiques=tuple(critiques),
        length_auroc=_best_direction(auroc([-s.num_tokens for s in solutions], labels)),
        logprob_auroc=_best_direction(auroc([s.mean_logprob for s in solutions], labels)),
    )


def audit_rollouts(referee: Referee, bouts: Sequence[Bout]) -> CriticAudit | None:
    """The critiques that a round's rollouts got, at their natural base rate; None without any."""
    found = [
        measured(*_known(referee, bout), bout.judged)
        for bout in bouts
        if bout.judged is not None and bout.judgeable and not bout.prefix
    ]
    return CriticAudit(measure(found), tuple(found)) if found else None


def measured(item: CritiqueItem, kind: str | None, checked: CheckedCritique) -> MeasuredCritique:
    """A critique beside the truth about the solution."""
    critique = checked.critique
    parsed = not isinstance(critique, ParseFailure)
    place = {step.id: index for index, step in enumerate(item.solution.steps)}
    named = sorted(
        (flaw.step for flaw in critique.flaws) if parsed else (),
        key=lambda step: place.get(step, len(place)),
    )
    return MeasuredCritique(
        task=item.task.id,
        solution=hashlib.sha256(item.solution.text.encode()).hexdigest()[:16],
        sound=item.sound,
        p_sound=critique.p_sound if parsed else UNREAD_P_SOUND,
        named=named[0] if named else None,
        first_bad=item.first_bad,
        kind=kind,
        parsed=parsed,
    )


def _audited(referee: Referee, bout: Bout) -> AuditedSolution:
    item, kind = _known(referee, bout)
    mean_logprob = math.fsum(bout.sample.logprobs) / len(bout.sample.logprobs)
    return AuditedSolution(item, kind, mean_logprob, len(bout.sample.token_ids))


def _known(referee: Referee, bout: Bout) -> tuple[CritiqueItem, str | None]:
    """The solution with its verdict, its first bad step and the kind of its mistake."""
    task, solution, sound = bout.task, bout.solution, bout.verdict.passed
    first_bad = None if sound else known_first_bad(task, solution, referee.dialect)
    kind = None if sound else _kind(referee, task, solution, first_bad)
    return CritiqueItem(task, solution, sound, first_bad), kind


def _kind(referee: Referee, task: Task, solution: Solution, first_bad: str | None) -> str:
    if first_bad is None:
        return UNKNOWN_KIND
    index = next(i for i, step in enumerate(solution.steps) if step.id == first_bad)
    return referee.dialect.kind_of_mistake(task, solution, index)


def _best_direction(value: float | None) -> float | None:
    """A baseline may be used either way round: count it at its better."""
    return None if value is None else max(value, 1 - value)
