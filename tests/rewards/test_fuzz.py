"""Hostile answers through every verifier: no crash, no hang, nothing accepted by accident."""

import random
from collections import Counter
from contextlib import closing
from itertools import islice

import pytest
from fuzz_answers import hostile_answers, targets
from verifier_cases import answered

from data.records import VERIFIER_NAMES
from rewards.verifiers import Verifiers

DEADLINE = 2.0
MAX_TIMEOUTS = 0.02  # share; those that are meant to hang are 1 in 500


def judge_hostile_answers(num: int, seed: int) -> None:
    """Judge `num` answers, evenly spread over all targets."""
    tasks = targets()
    assert {target.task.verifier for target in tasks} == set(VERIFIER_NAMES)
    rng = random.Random(seed)
    asked = [
        (target, answer)
        for target in tasks
        for answer in islice(hostile_answers(target, rng), -(-num // len(tasks)))
    ]
    assert len(asked) >= num
    with closing(Verifiers(DEADLINE, workers=2)) as verifiers:
        verdicts = verifiers.verify_all([(t.task, answered(answer)) for t, answer in asked])
        for target in tasks:  # whatever came before, the workers still know what is right
            if target.task.reference:
                gold = answered(target.task.reference)
                assert verifiers.verify(target.task, gold).passed, target.task
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    assert outcomes["error"] == 0, [v for v in verdicts if v.outcome == "error"][:5]
    assert outcomes["timeout"] <= MAX_TIMEOUTS * num, outcomes
    accidents = [
        (target.task.verifier, target.task.family, target.task.reference, answer)
        for (target, answer), verdict in zip(asked, verdicts, strict=True)
        if verdict.passed and not target.is_right(answer)
    ]
    assert not accidents, accidents[:5]


def test_a_thousand_hostile_answers() -> None:
    judge_hostile_answers(1_000, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_hostile_answers() -> None:
    judge_hostile_answers(20_000, seed=1)
