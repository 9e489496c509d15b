"""The critique format that ends in a box: its reader, its prompt, and what a teacher writes."""

import random

import pytest
from critic_cases import BOX_LIKE, POINTED, TAGGED_SOLUTION, failure
from hypothesis import given, settings
from pointing_cases import sum_task

from critic.critique import Critique, Flaw
from critic.format import critique_dialect, true_critique, worked_steps
from critic.meta import check_claims
from rewards.dialect import dialect

TAGGED = critique_dialect("tagged")
ROUND_TRIPS = settings(deadline=None, max_examples=60)


def read_tagged(text: str) -> Critique:
    critique = TAGGED.parse(text, TAGGED_SOLUTION, truncated=False)
    assert isinstance(critique, Critique), critique
    return critique


def test_tagged_pointer_judges_every_step_up_to_it() -> None:
    critique = read_tagged(POINTED)
    assert [(step.id, step.ok) for step in critique.steps] == [("1", True), ("2", False)]
    assert critique.flaws == (Flaw("2", "5 + 7 = 13", "arithmetic", "recompute", "12"),)
    assert (critique.verdict, critique.p_sound) == ("flawed", pytest.approx(0.1))


def test_tagged_without_a_mistake_judges_every_step() -> None:
    critique = read_tagged("All is well. \\boxed{-1} confidence: 80%")
    assert [step.ok for step in critique.steps] == [True, True, True]
    assert (critique.flaws, critique.verdict) == ((), "sound")
    assert read_tagged("\\boxed{\u22121}\nConfidence: 80%.").p_sound == 0.8


def test_tagged_may_doubt_the_answer_alone() -> None:
    critique = read_tagged("The answer does not follow.\n\\boxed{answer}\nconfidence: 0.7")
    assert [step.ok for step in critique.steps] == [True, True, True]
    assert (critique.flaws, critique.verdict) == ((), "flawed")
    assert critique.p_sound == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("text", "step", "payload", "p_sound"),
    [
        ("\\boxed{2}", "2", "", 0.25),
        ("$\\boxed{ Step 2 }$.\n**should be:** $12$\n**Confidence:** 1.0", "2", "$12$", 0.0),
        ("\\boxed{-1} at first, then\n\\boxed{1}\nconfidence: .6.", "1", "", 0.4),
        ("Is it \\boxed{-1}? No: \\boxed{\\text{2}} confidence: 0.95", "2", "", 0.05),
        ("\\boxed{ \\mathbf{Step 2} }", "2", "", 0.25),
        ("\\boxed{3}\nbecause: \\frac{2}{1} is \\sqrt{4}", "3", "\\frac{2}{1} is \\sqrt{4}", 0.25),
        ("\\boxed{2}\nshould be = \\sqrt{2}\nand that is all", "2", "\\sqrt{2}", 0.25),
    ],
)
def test_tagged_is_read_as_models_write_it(
    text: str, step: str, payload: str, p_sound: float
) -> None:
    critique = read_tagged(text)
    (flaw,) = critique.flaws
    assert (flaw.step, flaw.payload) == (step, payload)
    assert critique.p_sound == pytest.approx(p_sound)


def test_thinking_of_any_length_may_come_before_a_critique() -> None:
    critique = read_tagged("Is it \\boxed{1}? " * 3_000 + "</think>\n\\boxed{2}\nconfidence: 0.9")
    assert [flaw.step for flaw in critique.flaws] == ["2"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_box"),
        ("no box: {2}, boxed{2}", "no_box"),
        ("x" * 30_000, "too_long"),
        ("\\boxed{}", "bad_box"),
        ("\\boxed{first}", "bad_box"),
        ("\\boxed{1, 2}", "bad_box"),
        ("Is it \\boxed{1}? No: \\boxed{\\frac{2}{1}}", "bad_box"),  # not the one before it
        ("\\boxed{\u0662}", "bad_box"),
        ("\\boxed{0}", "unknown_step"),
        ("\\boxed{4}", "unknown_step"),
        ("\\boxed{-2}", "unknown_step"),
        ("\\boxed{2}\nconfidence: 0.9\nconfidence: 0.8", "repeated_field"),
        ("\\boxed{2}\nshould be: 12\nshould be: 14", "repeated_field"),
        ("\\boxed{2}\nshould be:", "bad_value"),
        ("\\boxed{2}\nbecause: " + "x" * 600, "bad_value"),
        ("\\boxed{-1}\nshould be: 12", "value_without_step"),
        ("\\boxed{answer}\nshould be: 12", "value_without_step"),
        ("\\boxed{2}\nconfidence:", "bad_confidence"),
        ("\\boxed{2}\nconfidence: high", "bad_confidence"),
        ("\\boxed{2}\nconfidence: 1.01", "bad_confidence"),
        ("\\boxed{2}\nconfidence: 120%", "bad_confidence"),
        ("\\boxed{2}\nconfidence: nan", "bad_confidence"),
        ("\\boxed{2}\nconfidence: -0.9", "bad_confidence"),
        ("\\boxed{2}\nconfidence: 0.5", "confidence_against_verdict"),
        ("\\boxed{-1}\nconfidence: 0.05", "confidence_against_verdict"),
    ],
)
def test_tagged_failures_are_named(text: str, reason: str) -> None:
    assert failure(text, TAGGED_SOLUTION, "tagged") == reason


def test_tagged_prompt_asks_for_what_is_parsed() -> None:
    prompt = TAGGED.render_prompt("What is 4 + 1 + 7?", TAGGED_SOLUTION.text)
    assert TAGGED_SOLUTION.text in prompt and "What is 4 + 1 + 7?" in prompt
    example = prompt.partition("An example:")[2]
    assert read_tagged(example).flaws[0].payload == "12"


@pytest.mark.parametrize(
    ("first_bad", "sound", "verdict", "named"),
    [("2", False, "flawed", ["2"]), (None, True, "sound", []), (None, False, "flawed", [])],
)
def test_a_written_tagged_critique_says_what_is_known(
    first_bad: str | None, sound: bool, verdict: str, named: list[str]
) -> None:
    for seed in range(8):
        rng = random.Random(seed)
        critique = read_tagged(TAGGED.write_critique(TAGGED_SOLUTION, first_bad, None, sound, rng))
        assert critique.verdict == verdict and (critique.p_sound > 0.5) == sound
        assert [flaw.step for flaw in critique.flaws] == named


SUM = sum_task(4, 1, 7)


def test_a_teacher_works_the_steps_out_up_to_the_first_wrong_one() -> None:
    text = true_critique(SUM, TAGGED_SOLUTION, dialect("tagged"), random.Random(0), sound=False)
    working, _, rest = text.partition("\\boxed{2}\n")
    assert working == "Step 1: 4 + 1 = 5.\nStep 2: 5 + 7 = 12, not 13.\n"
    assert rest.startswith("should be: 12\nconfidence: 0.")
    critique = read_tagged(text)
    (claim,) = check_claims(SUM, TAGGED_SOLUTION, critique, "2", False, True)
    assert claim.status == "confirmed"


def test_a_teacher_says_nothing_of_a_step_that_code_takes_for_right_and_another_for_wrong() -> None:
    """Its own working would speak against its box."""
    reader = dialect("tagged")
    assert list(worked_steps(SUM, TAGGED_SOLUTION, reader, None)) == ["1", "2"]
    assert list(worked_steps(SUM, TAGGED_SOLUTION, reader, "2")) == ["1", "2"]
    assert list(worked_steps(SUM, TAGGED_SOLUTION, reader, "1")) == []


@ROUND_TRIPS
@given(text=BOX_LIKE.map(lambda tail: "\\boxed{" + tail))
def test_tagged_verdict_probability_and_flaws_agree(text: str) -> None:
    critique = TAGGED.parse(text, TAGGED_SOLUTION, truncated=False)
    if isinstance(critique, Critique):
        assert (critique.p_sound > 0.5) == (critique.verdict == "sound")
        assert not (critique.flaws and critique.verdict == "sound")
        wrong = [step.id for step in critique.steps if not step.ok]
        assert wrong == [flaw.step for flaw in critique.flaws]
        assert wrong or len(critique.steps) == len(TAGGED_SOLUTION.steps)


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        ("3 + 4 = 8 + 2 = 10", "7"),
        ("3 + 4 = 8; 2 + 2 = 4", "7"),
        ("2 + 2 = 4; 3 + 4 = 8", "7"),
        (f"{'9' * 28} * {'9' * 28} * {'9' * 28} = 5", None),
        (" * ".join(["9" * 28] * 40) + " = 5", None),
    ],
)
def test_a_teacher_writes_the_first_wrong_value_if_it_can_be_checked(
    wrong: str, value: str | None
) -> None:
    text = f"<think>\n1. We begin.\n2. {wrong}\n</think>\n<answer>5</answer>"
    solution = dialect("tagged").parse_solution(text, truncated=False)
    said = true_critique(SUM, solution, dialect("tagged"), random.Random(0), sound=False)
    critique = TAGGED.parse(said, solution, truncated=False)
    assert isinstance(critique, Critique)
    (claim,) = check_claims(SUM, solution, critique, "2", False, True)
    assert claim.status == "confirmed"
    assert (claim.flaw.payload == value) if value else (claim.flaw.evidence_kind == "rule")
