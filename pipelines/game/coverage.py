"""How well the pointings cover the learner's present mistakes, as code sees them.

Code measures here even where its step checks are withheld from training. Leaves out the critic's
own measures (`game/audit.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.game.bout import Bout
from pipelines.game.pointing import first_claimed
from pipelines.game.referee import Referee
from rewards.solution import first_bad_step


def coverage(referee: Referee, bouts: Sequence[Bout]) -> dict[str, object]:
    """Shares of a round's failed, readable solutions, and of their kinds of mistake.

    Returns:
        `pointing/failed`, their number; `pointing/SOURCE` and `pointing/STATUS`, the shares that
        were pointed at, by whom and with what result; `pointing/precision`, of those that
        count the share that stands where code finds the first flaw; `pointing/coverage`, the share
        of all whose first flaw has one that counts; `pointing/located`, of those that the critic
        judged the share whose first flaw it names first; `pointing/kinds`, for each kind its share
        of the mistakes and its two shares; `pointing/lost_resets`, the number of failed ones left
        out of all this because the flaw stood in the beginning that they were given. Where code
        cannot check steps, nothing is left out and what needs it is missing.
    """
    failed = [b for b in bouts if b.solution.well_formed and b.verdict.outcome == "incorrect"]
    truths = [first_bad_step(referee.dialect.check_steps(b.task, b.solution)) for b in failed]
    own = [_Failure(*pair) for pair in zip(failed, truths, strict=True) if _is_own(*pair)]
    row: dict[str, object] = {"pointing/failed": len(own)}
    if len(own) < len(failed):
        row["pointing/lost_resets"] = len(failed) - len(own)
    if not own:
        return row
    pointings = [one.bout.pointing for one in own if one.bout.pointing is not None]
    counts = Counter(p.source for p in pointings) + Counter(p.status for p in pointings)
    row |= {f"pointing/{name}": num / len(own) for name, num in sorted(counts.items())}
    if all(one.truth is None for one in own):
        return row
    num_counting = sum(p.counts for p in pointings)
    row |= (
        {"pointing/precision": sum(o.is_covered for o in own) / num_counting}
        if num_counting
        else {}
    )
    by_kind: dict[str, list[_Failure]] = {}
    for one in own:
        if one.truth is not None:
            kind = referee.dialect.kind_of_mistake(one.bout.task, one.bout.solution, one.truth)
            by_kind.setdefault(kind, []).append(one)
    known = sum(map(len, by_kind.values()))
    row |= {f"pointing/{name}": share for name, share in _shares(own).items()}
    row["pointing/kinds"] = {
        kind: {"share": len(failures) / known, **_shares(failures)}
        for kind, failures in sorted(by_kind.items(), key=lambda pair: -len(pair[1]))
    }
    return row


@dataclass(frozen=True)
class _Failure:
    """A failed solution and the index of its first flaw, None where code finds none."""

    bout: Bout
    truth: int | None

    @property
    def is_covered(self) -> bool:
        pointing = self.bout.pointing
        return pointing is not None and pointing.counts and pointing.index == self.truth

    @property
    def is_located(self) -> bool | None:
        """None where the critic was not asked."""
        judged = self.bout.judged
        if judged is None or self.truth is None:
            return None
        return first_claimed(self.bout.solution, judged.critique) == self.truth


def _is_own(bout: Bout, truth: int | None) -> bool:
    """Whether the completion wrote the flaw itself."""
    return truth is None or bout.solution.steps[truth].start >= len(bout.prefix)


def _shares(failures: Sequence[_Failure]) -> dict[str, float]:
    judged = [one.is_located for one in failures if one.is_located is not None]
    shares = {"coverage": sum(one.is_covered for one in failures) / len(failures)}
    return shares | ({"located": sum(judged) / len(judged)} if judged else {})
