"""The gate: what reaches the corpus, and the reason given for what does not."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from critic_cases import chain_task

from critic.format import true_critique
from critic.meta import ClaimStatus, known_first_bad
from data.contamination import Contamination
from data.dedup import DuplicateIndex
from data.records import Record, SampledWith, Task
from pipelines.game.bout import Bout, CritiqueItem
from pipelines.game.gate import Gate, reject_counts
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Sample
from pipelines.settings.load import load_settings
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers

RIGHT = "a4=40\nb1=50\nc7=21\nd10=22>22"
WRONG = "a4=40\nb1=50\nc7=20\nd10=21>21"
SAMPLED = SampledWith(
    temperature=0.9, top_p=1.0, seed=7, rendered="4+5=", model="m", adapter="a", max_new_tokens=20
)  # fmt: skip
LUCKY = "a4=40\nb1=60\nc7=21\nd10=22>22"  # two wrong sums that cancel out


@pytest.fixture(scope="module")
def referee(checkout: Path) -> Iterator[Referee]:
    with closing(Verifiers(5.0)) as verifiers:
        yield Referee(load_settings(checkout / "configs" / "tiny.toml"), verifiers)


def _bout(referee: Referee, text: str, task: Task, criticised: bool = False) -> Bout:
    """A bout as the learner's game makes it; a critique says the truth about the steps."""
    sample = Sample(text, [1], [-0.5], False, SAMPLED, "learner")
    solution, verdict = referee.read(task, sample)
    judged = None
    if criticised:
        critique = true_critique(task, solution, referee.dialect, random.Random(0))
        first_bad = known_first_bad(task, solution, referee.dialect)
        item = CritiqueItem(task, solution, verdict.passed, first_bad)
        judged = referee.check(item, Sample(critique, [], [], False, weights_hash="critic"))
    return Bout(task, sample, solution, verdict, judged, reward=None)


def _admit(
    bouts: list[Bout], texts: Sequence[str] = (), known: Sequence[Record] = ()
) -> list[Record]:
    gate = Gate(Contamination(texts))
    return gate(bouts, DuplicateIndex(known), round_=3)


@pytest.mark.parametrize(
    ("text", "criticised", "reason"),
    [
        pytest.param(RIGHT, False, "", id="correct"),
        pytest.param(RIGHT, True, "", id="correct, and the critic agrees"),
        pytest.param(WRONG, False, "verifier: incorrect", id="incorrect"),
        pytest.param("22", False, "malformed: ", id="a bare answer"),
        pytest.param(RIGHT + " and so on", False, "malformed: ", id="babble after the answer"),
        pytest.param(LUCKY, False, "", id="right for wrong reasons, uncriticised"),
        pytest.param(LUCKY, True, "critic: confirmed flaw", id="right for wrong reasons"),
    ],
)
def test_one_reason_each(referee: Referee, text: str, criticised: bool, reason: str) -> None:
    (record,) = _admit([_bout(referee, text, chain_task([4, 1, 7, 10]), criticised)])
    assert record.accepted == (reason == "")
    assert record.reject_reason.startswith(reason) if reason else record.reject_reason == ""


def _late(bout: Bout) -> Bout:
    verdict = Verdict(outcome="timeout", verifier="exact", version="0", score=None)
    return replace(bout, verdict=verdict)


def test_a_timeout_is_never_admitted(referee: Referee) -> None:
    (record,) = _admit([_late(_bout(referee, RIGHT, chain_task([4, 1, 7, 10])))])
    assert record.reject_reason == "verifier: timeout" and record.pass_rate is None


def test_duplicates_within_a_round_and_against_the_archive(referee: Referee) -> None:
    bout = _bout(referee, RIGHT, chain_task([4, 1, 7, 10]))
    first, second = _admit([bout, bout])
    assert first.accepted and second.reject_reason == "duplicate"
    (again,) = _admit([bout], known=[first])
    assert again.reject_reason == "duplicate"
    other = _bout(referee, "a5=50\nb1=60>60", chain_task([5, 1]))
    assert _admit([other], known=[first])[0].accepted


def test_a_rejected_bout_does_not_shadow_a_good_one(referee: Referee) -> None:
    """The same text, whose verifier ran out of time at first."""
    good = _bout(referee, RIGHT, chain_task([4, 1, 7, 10]))
    assert [record.accepted for record in _admit([_late(good), good])] == [False, True]


def test_evaluation_texts_are_kept_out(referee: Referee) -> None:
    task = chain_task([4, 1, 7, 10])
    (record,) = _admit([_bout(referee, RIGHT, task)], texts=[task.question])
    assert record.reject_reason == "contaminated" and record.contamination


def test_records_carry_their_provenance(referee: Referee) -> None:
    task = chain_task([4, 1, 7, 10])
    bouts = [
        _bout(referee, text, task, criticised=text == RIGHT) for text in (RIGHT, WRONG, WRONG, "x")
    ]
    records = _admit(bouts)
    assert {record.pass_rate for record in records} == {0.25}, "one of four counted samples passed"
    record = records[0]
    assert (record.learner_hash, record.round, record.sampling_seed) == ("learner", 3, 7)
    assert (record.temperature, record.max_new_tokens) == (0.9, 20)
    assert (record.rendered, record.model, record.adapter) == ("4+5=", "m", "a")
    (note,) = record.critiques
    assert note.critic_hash == "critic" and note.content
    assert reject_counts(records) == {
        "verifier: incorrect": 2,
        records[3].reject_reason: 1,
    }


def test_what_continues_another_sample_is_no_record(referee: Referee) -> None:
    """Its beginning is not its own; to finish what was begun says nothing of the pass rate."""
    task = chain_task([4, 1, 7, 10])
    begun = replace(_bout(referee, RIGHT, task), prefix="a4=40\n")
    record, whole = _admit([begun, _bout(referee, WRONG, task)])
    assert record.reject_reason == "continues another sample"
    assert record.pass_rate == whole.pass_rate == 0


@pytest.mark.parametrize("status", ["refuted", "uncheckable"])
def test_a_claim_that_nothing_confirms_vetoes_nothing(
    referee: Referee, status: ClaimStatus
) -> None:
    bout = _bout(referee, LUCKY, chain_task([4, 1, 7, 10]), criticised=True)
    assert bout.judged is not None and bout.judged.claims
    claims = tuple(replace(claim, status=status) for claim in bout.judged.claims)
    (record,) = _admit([replace(bout, judged=replace(bout.judged, claims=claims))])
    assert record.accepted


def test_a_critique_that_does_not_parse_is_noted_and_vetoes_nothing(referee: Referee) -> None:
    task = chain_task([4, 1, 7, 10])
    bout = _bout(referee, RIGHT, task)
    item = referee.item(task, bout.solution, bout.verdict.passed)
    judged = referee.check(item, Sample("gibberish", [], [], False))
    (record,) = _admit([Bout(task, bout.sample, bout.solution, bout.verdict, judged, None)])
    assert record.accepted
    assert record.critiques[0].meta_check.startswith("unparsed: ")
