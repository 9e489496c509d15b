"""The gate between bouts and the corpus: verified, criticised, deduplicated, decontaminated.

Every candidate becomes a record, accepted or with the reason why not; the trainer's rounds and
`sparring-data generate` use the same gate.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from critic.critique import Critique
from data.contamination import Contamination
from data.dedup import DuplicateIndex
from data.records import CritiqueNote, Record
from data.sealed import make_record
from pipelines.game.bout import Bout, CheckedCritique
from pipelines.game.proposer import is_by_agreement


class Gate:
    """Decides what is admitted.

    Args:
        contamination: index of every evaluation text in use.
    """

    def __init__(self, contamination: Contamination) -> None:
        self.contamination = contamination

    def __call__(
        self,
        bouts: Sequence[Bout],
        duplicates: DuplicateIndex,
        round_: int,
    ) -> list[Record]:
        """Judge bouts against everything admitted so far; what is accepted joins `duplicates`."""
        rates = _pass_rates(bouts)
        records = []
        for bout in bouts:
            question, solution = bout.task.question, bout.solution.text
            overlap = self.contamination.overlap(question) or self.contamination.overlap(solution)
            reason = _reject_reason(bout) or duplicates.find(question, solution)
            reason = reason or ("contaminated" if overlap else "")
            if not reason:
                duplicates.add(question, solution)
            records.append(
                make_record(
                    bout.task,
                    solution=solution,
                    answer=bout.solution.answer,
                    verdict=bout.verdict,
                    sampling=bout.sample.sampled,
                    learner_hash=bout.sample.weights_hash,
                    round=round_,
                    pass_rate=rates[bout.task.id],
                    reject_reason=reason,
                    contamination=overlap,
                    critiques=_notes(bout.judged),
                    label_source="consensus" if is_by_agreement(bout.task) else "rule",
                )
            )
        return records


def reject_counts(records: Sequence[Record]) -> dict[str, int]:
    """How many were refused, by reason."""
    return dict(Counter(r.reject_reason for r in records if not r.accepted))


def _reject_reason(bout: Bout) -> str:
    if bout.solution.defect is not None:
        return f"malformed: {bout.solution.defect}"
    if not bout.verdict.passed:
        return f"verifier: {bout.verdict.outcome}"
    if bout.prefix:
        return "continues another sample"
    if bout.judged is not None and any(c.status == "confirmed" for c in bout.judged.claims):
        return "critic: confirmed flaw"
    return ""


def _pass_rates(bouts: Sequence[Bout]) -> dict[str, float | None]:
    passed: dict[str, list[bool]] = defaultdict(list)
    for bout in bouts:
        if bout.verdict.counted and not bout.prefix:
            passed[bout.task.id].append(bout.verdict.passed)
    rates = {task: sum(group) / len(group) for task, group in passed.items()}
    return {bout.task.id: rates.get(bout.task.id) for bout in bouts}


def _notes(judged: CheckedCritique | None) -> tuple[CritiqueNote, ...]:
    if judged is None:
        return ()
    statuses = ", ".join(f"{c.flaw.step}: {c.status}" for c in judged.claims)
    if not isinstance(judged.critique, Critique):
        statuses = f"unparsed: {judged.critique.reason}"
    return (
        CritiqueNote(critic_hash=judged.weights_hash, content=judged.text, meta_check=statuses),
    )
