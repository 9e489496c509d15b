"""What a generation of fine-tuning on one's own samples is trained on (`self_consuming.py`).

own       every sample, right or wrong
verified  those that the verifier passes
voted     those whose answer is the most frequent of its task
quarter   three in four are own samples, the others of the teacher that the base imitated
real      the teacher's alone
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data.records import Task

MIXES = ("own", "verified", "voted", "quarter", "real")


@dataclass(frozen=True)
class Attempt:
    """One sample of a task."""

    task: Task
    prompt: str
    text: str
    ids: Sequence[int]
    logprobs: Sequence[float]
    answer: str | None
    passed: bool


def kept(attempts: Sequence[Attempt], mix: str) -> list[Attempt]:
    """Those of a generation's samples that it trains on."""
    if mix == "verified":
        return [one for one in attempts if one.passed]
    if mix != "voted":
        return list(attempts)
    votes: dict[str, Counter[str]] = {}
    for one in attempts:
        if one.answer is not None:
            votes.setdefault(one.task.id, Counter())[one.answer] += 1
    return [
        one for one in attempts
        if one.answer is not None and one.answer == votes[one.task.id].most_common(1)[0][0]
    ]  # fmt: skip


def row_of(attempt: Attempt) -> dict[str, str]:
    """An attempt as TRL's prompt-completion row."""
    return {"prompt": attempt.prompt, "completion": attempt.text}
