"""Held-out measurements: what is counted, what is left out, and that measuring changes nothing."""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from critic_cases import chain_task
from pipeline_cases import CONFIG, SHORT_RUN, learner_role

from data.records import Task
from pipelines.game.audit import (
    audit_critic,
    audit_set,
    critiques_of,
)
from pipelines.game.bout import Bout
from pipelines.game.curriculum import build_source
from pipelines.game.evaluation import (
    gold_logprobs,
    mean_at_k,
    mean_nll,
    play_unrewarded,
    rollout_figures,
)
from pipelines.game.referee import Referee
from pipelines.policy.tensors import weights_hash
from pipelines.rollouts.sample import Sample
from pipelines.settings.load import load_settings
from pipelines.training.trainer import RoleTrainer
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers

TASK = chain_task([4, 1])
RIGHT, WRONG = "a4=40\nb1=50>50", "a4=40\nb1=60>60"


@pytest.fixture(scope="module")
def referee() -> Iterator[Referee]:
    with closing(Verifiers(5.0)) as verifiers:
        yield Referee(load_settings(CONFIG, SHORT_RUN), verifiers)


@pytest.fixture(scope="module")
def learner(judgeable: Path) -> RoleTrainer:
    batch = {"per_device_train_batch_size": 4, "num_generations": 4}
    return learner_role(RoleTrainer, judgeable, max_completion_length=32, **batch)


@pytest.fixture(scope="module")
def tasks(referee: Referee) -> list[Task]:
    return build_source(referee.settings).draw("audit", 24, 0)


def _bout(
    referee: Referee, text: str, task: Task = TASK, logprobs: tuple[float, ...] = (-1.0,)
) -> Bout:
    sample = Sample(text, list(range(len(logprobs))), list(logprobs), False)
    return Bout(task, sample, *referee.read(task, sample), None, None)


def _timeout(bout: Bout) -> Bout:
    verdict = Verdict(outcome="timeout", verifier="exact", version="0", score=None)
    return Bout(bout.task, bout.sample, bout.solution, verdict, None, None)


def test_mean_at_k_counts_what_was_judged(referee: Referee) -> None:
    right, wrong, malformed = (_bout(referee, text) for text in (RIGHT, WRONG, "50"))
    found = mean_at_k([[right, wrong, malformed, right], [wrong, wrong, wrong, wrong]])
    assert (found.num_tasks, found.num_samples) == (2, 4)
    assert found.mean == 2 / 8 and found.well_formed == 7 / 8
    assert found.mean_well_formed == 2 / 7 and found.pass_at_k == 1 / 2
    assert found.mean_interval == (0.0, 0.5), "tasks are resampled, not samples"


def test_a_masked_sample_counts_as_wrong_and_is_counted(referee: Referee) -> None:
    """4 right and 4 timeouts are mean@8 = 0.5, and never 1.0."""
    right, wrong = _bout(referee, RIGHT), _bout(referee, WRONG)
    found = mean_at_k([[right] * 4 + [_timeout(right)] * 4])
    assert found.mean == found.mean_well_formed == 0.5 and found.num_masked == 4
    assert found.row()["masked_samples"] == 4 and found.correct_by_task == (4,)
    mixed = mean_at_k([[right, _timeout(wrong)], [wrong, _timeout(right)]])
    assert mixed.mean == 1 / 4 and mixed.num_masked == 2
    assert rollout_figures([right, wrong, _timeout(right), right]).pass_rate == 1 / 2
    assert rollout_figures([right, _timeout(right)]).num_masked == 1
    assert rollout_figures([]).pass_rate is None


def test_one_task_one_sample_or_nothing_well_formed(referee: Referee) -> None:
    alone = mean_at_k([[_bout(referee, RIGHT)]])
    assert alone.mean == alone.pass_at_k == 1 and alone.mean_interval is None
    malformed = mean_at_k([[_bout(referee, "50")], [_bout(referee, "51")]])
    assert malformed.mean == malformed.well_formed == 0
    assert malformed.mean_well_formed is malformed.mean_well_formed_interval is None
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="at least one task"):
            mean_at_k(nothing)


def test_the_interval_is_that_of_the_tasks(referee: Referee) -> None:
    """200 tasks of which half pass: a 95% interval of about 1/2 +- 0.07."""
    right, wrong = _bout(referee, RIGHT), _bout(referee, WRONG)
    found = mean_at_k([[right] * 8, [wrong] * 8] * 100)
    low, high = found.mean_interval
    assert low == pytest.approx(0.5 - 1.96 * 0.5 / 200**0.5, abs=0.015)
    assert high == pytest.approx(0.5 + 1.96 * 0.5 / 200**0.5, abs=0.015)


def test_the_audit_set_is_balanced_distinct_and_well_formed(referee: Referee) -> None:
    sums = [chain_task([a, b]) for a in range(1, 5) for b in range(1, 5)]
    groups = [
        [
            _bout(referee, referee.dialect.write_solution(task, random.Random(0), 0.0), task),
            *[_bout(referee, f"a{i}=00", task) for i in range(3)],  # malformed
            *[_bout(referee, _off_by_one(referee, task), task)] * 2,
        ]
        for task in sums
    ]
    found = audit_set(referee, groups, seed=0)
    sound = [solution.item.sound for solution in found]
    assert len(found) == 32 and sum(sound) == 16
    assert len({(s.item.task.id, s.item.solution.text) for s in found}) == len(found)
    assert all(s.item.solution.well_formed for s in found)
    assert all(s.item.first_bad == ">" for s in found if not s.item.sound)


def _off_by_one(referee: Referee, task: Task) -> str:
    """The right sums, and a wrong final answer."""
    text = referee.dialect.write_solution(task, random.Random(0), 0.0)
    return text[:-2] + ("00" if text[-2:] != "00" else "10")


def test_the_audit_sets_baselines_come_from_the_sampler(referee: Referee) -> None:
    found = audit_set(
        referee, [[_bout(referee, RIGHT, logprobs=(-1.0, -2.0)), _bout(referee, WRONG)]], 0
    )
    by_sound = {solution.item.sound: solution for solution in found}
    assert by_sound[True].mean_logprob == -1.5 and by_sound[True].num_tokens == 2


def test_probe_nll_is_that_of_the_gold_solutions(
    referee: Referee, learner: RoleTrainer, tasks: list[Task]
) -> None:
    total, count = 0.0, 0
    learner.policy.eval()
    for task in tasks[:3]:
        prompt = referee.dialect.render_problem(task)
        gold = referee.dialect.write_solution(task, random.Random(0), 0.0)
        ids_1T = learner.sampler.tokenizer(prompt + gold, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logprobs_TV = learner.policy(input_ids=ids_1T).logits[0].log_softmax(-1)
        for position in range(len(prompt), len(prompt) + len(gold)):  # one token a character
            total -= logprobs_TV[position - 1, ids_1T[0, position]].item()
            count += 1
    found = mean_nll(gold_logprobs(referee, learner, tasks[:3]))
    assert found == pytest.approx(total / count, abs=1e-5)


def test_measuring_changes_nothing_and_ignores_the_training_temperature(
    referee: Referee, learner: RoleTrainer, tasks: list[Task]
) -> None:
    before, random_state = weights_hash(learner.policy), torch.get_rng_state()
    first = play_unrewarded(referee, learner, tasks, 2, "test")
    audited = audit_set(referee, first, 0)
    assert audited, "the cold start writes right and wrong solutions"
    report = audit_critic(referee, learner, audited, "before")
    twice = audit_critic(referee, learner, audited, "before", 2)
    assert report is not None and twice is not None
    assert twice.measures.num_critiques == 2 * report.measures.num_critiques
    assert twice.measures.num_solutions == report.measures.num_solutions, "the same instrument"
    gold_logprobs(referee, learner, tasks[:3])
    learner.set_temperature(1.4)  # as the monitor does
    try:
        again = play_unrewarded(referee, learner, tasks, 2, "test")
    finally:
        learner.set_temperature(1.0)
    texts = [
        [[bout.sample.text for bout in group] for group in groups] for groups in (first, again)
    ]
    assert texts[0] == texts[1]
    assert all(bout.reward is None for group in first for bout in group)
    assert weights_hash(learner.policy) == before and learner.num_steps == 0
    assert torch.equal(torch.get_rng_state(), random_state)

    assert report is not None and report.measures.num_solutions == len(audited)
    assert report.measures.num_sound == len(audited) / 2
    assert 0 < report.measures.figures["parsed"].value <= 1
    stored = json.loads(json.dumps(report.columns()))
    assert tuple(critiques_of(stored)) == report.critiques
    assert report.length_auroc is not None and report.length_auroc >= 0.5
    assert report.logprob_auroc is not None and report.logprob_auroc >= 0.5


def test_nothing_to_audit_is_no_report(referee: Referee, learner: RoleTrainer) -> None:
    assert audit_critic(referee, learner, [], "before") is None
