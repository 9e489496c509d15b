"""How well the pointings cover the learner's present mistakes, as code sees them.

Code measures here even where its step checks are withheld from training. Leaves out the critic's
own measures (`game/audit.py`).
"""

from collections import Counter
from collections.abc import Sequence

from pipelines.game.bout import Bout
from pipelines.game.referee import Referee
from rewards.solution import first_bad_step


def coverage(referee: Referee, bouts: Sequence[Bout]) -> dict[str, object]:
    """Shares of a round's failed, readable solutions, and of their kinds of mistake.

    Returns:
        `pointing/failed`, their number; `pointing/SOURCE` and `pointing/STATUS`, the shares that
        were pointed at, by whom and with what result; `pointing/precision`, of those that
        count the share that stands where code finds the first flaw; `pointing/coverage`, the share
        of all whose first flaw has one that counts; `pointing/kinds`, for each kind its share of
        the mistakes and its coverage. Where code cannot check steps the last three are missing.
    """
    failed = [b for b in bouts if b.solution.well_formed and b.verdict.outcome == "incorrect"]
    row: dict[str, object] = {"pointing/failed": len(failed)}
    if not failed:
        return row
    counts = Counter(b.pointing.source for b in failed if b.pointing is not None)
    counts.update(b.pointing.status for b in failed if b.pointing is not None)
    row |= {f"pointing/{name}": num / len(failed) for name, num in sorted(counts.items())}
    truths = [_truth(referee, bout) for bout in failed]
    if all(truth is None for truth in truths):
        return row
    counted, right = 0, 0
    kinds: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for bout, truth in zip(failed, truths, strict=True):
        counts = bout.pointing is not None and bout.pointing.counts
        is_right = counts and bout.pointing is not None and bout.pointing.index == truth
        counted, right = counted + counts, right + is_right
        if truth is not None:
            kind = referee.dialect.kind_of_mistake(bout.task, bout.solution, truth)
            kinds[kind] += 1
            covered[kind] += is_right
    row |= {"pointing/precision": right / counted} if counted else {}
    row["pointing/coverage"] = right / len(failed)
    row["pointing/kinds"] = {
        kind: {"share": num / kinds.total(), "coverage": covered[kind] / num}
        for kind, num in kinds.most_common()
    }
    return row


def _truth(referee: Referee, bout: Bout) -> int | None:
    return first_bad_step(referee.dialect.check_steps(bout.task, bout.solution))
