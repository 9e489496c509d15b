"""Natural replies of chat and thinking models: cut into steps by code, their answer found."""

import time
from contextlib import closing
from pathlib import Path

import pytest
from critic_cases import TASK
from hypothesis import given
from hypothesis import strategies as st

from critic.critique import Critique
from critic.format import critique_dialect
from data.errors import UserError
from data.records import Generator, Task
from rewards.dialect import dialect
from rewards.free import PLACES, final_answer
from rewards.math_verifier import MathVerifier

FREE = dialect("free")
REPLIES = [  # of Qwen, Llama, Gemma, Phi, GLM, DeepSeek distills and SmolLM2, as such models write
    ("We have 4 + 1 = 5.\n\nThen 5 + 7 = 12.\n\nThe final answer is \\boxed{12}.", "12", 3),
    ("<think>\nOkay, 4 + 1 = 5.\n\nAnd 5 + 7 = 12.\n</think>\n\nThe sum is \\boxed{12}.", "12", 3),
    ("Okay, 4 + 1 = 5.\n</think>\n\n**Answer:** \\boxed{12}", "12", 2),
    ("<think>\n\n</think>\n\n4 + 1 + 7 = 12\n\n$$\n\\boxed{12}\n$$", "12", 2),
    ("<think>\nIs it \\boxed{13}? No.\n</think>\nIt is \\boxed{12}.", "12", 2),
    ("First \\boxed{5}, and in the end $\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}", 1),
    ("4 + 1 = 5\n5 + 7 = 12\n#### 12", "12", 3),
    ("Step 1: add.\n4 + 1 = 5\n\nThe answer is 12.", "12", 2),
    ("**Final Answer**: 12", "12", 1),
    ("The final answer is: $12$.", "12", 1),
    ("<think>1. 4 + 1 = 5</think><answer>12</answer>", "12", 1),
    ("<answer>\\boxed{12}</answer>", "12", 1),
    ("<answer> 12 apples", "12 apples", 1),
    ("So \\boxed{\\text{(B)}}", "\\text{(B)}", 1),
    ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}", 1),
    ("\\boxed 7", "7", 1),
    ("\\fbox{x = 3}", "x = 3", 1),
]


@pytest.mark.parametrize(("text", "answer", "num_steps"), REPLIES)
def test_a_natural_reply_is_well_formed(text: str, answer: str, num_steps: int) -> None:
    found = FREE.parse_solution(text, truncated=False)
    assert found.well_formed and found.answer == answer
    assert len(found.steps) == num_steps
    for number, step in enumerate(found.steps, start=1):
        assert step.id == str(number) and text[step.start : step.end] == step.text
        assert step.text.strip() == step.text and "<think>" not in step.text


@pytest.mark.parametrize(
    ("text", "truncated", "defect"),
    [
        ("It is \\boxed{12}.", True, "truncated"),
        ("<think>\nIt may be 12, or", True, "truncated"),
        ("I do not know.", False, "no_answer"),
        ("\\boxed{}", False, "no_answer"),
        ("\\boxed{12", False, "no_answer"),
        ("", False, "no_answer"),
        ("<answer></answer>", False, "no_answer"),
    ],
)
def test_what_gives_no_answer_is_malformed(text: str, truncated: bool, defect: str) -> None:
    found = FREE.parse_solution(text, truncated=truncated)
    assert found.defect == defect and found.answer is None


EVERYWHERE = "First \\boxed{1}.\n#### 2\nThe answer is 3.\n<answer>4</answer>\nThat took 5 steps."


@pytest.mark.parametrize(
    ("answer_in", "text", "answer"),
    [
        ("boxed", EVERYWHERE, "1"),
        ("hashes", EVERYWHERE, "2"),
        ("any", EVERYWHERE, "4"),
        ("tag", EVERYWHERE, "4"),
        ("last_number", EVERYWHERE, "5"),
        ("boxed", "<answer>4</answer>", None),
        ("tag", "It is \\boxed{4}.", None),
        ("hashes", "The answer is 4.", None),
        ("last_number", "I do not know.", None),
        ("last_number", "<think>\n4 + 1 = 5\n</think>\nIt costs $1,234.50.", "1,234.50"),
        ("last_number", "so x = -7", "-7"),
        ("last_number", "x-7", "7"),
        ("last_number", "between 3 and 4, or 3/4 of it.", "3/4"),
        ("last_number", "12%", "12"),
        ("last_number", "<think>\nIt is 12.\n</think>\nDone.", None),
        ("last_number", "The speed is 3.0 \\times 10^8", "3.0 \\times 10^8"),
        ("last_number", "It is 1.5e-3.", "1.5e-3"),
        ("last_number", "It is .5", ".5"),
        ("last_number", "The area is 12 m^2", "12"),
        ("last_number", "12 of x_2", "12"),
        ("last_number", "It is 2^{10}.", "2^{10}"),
        ("last_number", "It is 12\u00b2.", "12\u00b2"),
        ("last_number", "It is 3 \u00d7 10\u207b\u2078 m\u00b2.", "3 \u00d7 10\u207b\u2078"),
        ("last_number", "It is -\\frac{1}{2}.", "-\\frac{1}{2}"),
        ("last_number", "It is 3\\sqrt{2}.", "3\\sqrt{2}"),
        ("boxed", "<think>\\boxed{12}? No.</think>I do not know.", None),
        ("boxed", '\\boxed{{"a": "}"}}', '{"a": "}"}'),
        ("boxed", "\\boxed{12} or \\boxed{13", None),
        ("tag", '<answer>{"a": "\\\\boxed{3}"}</answer>', '{"a": "\\\\boxed{3}"}'),
        ("hashes", "#### $\\boxed{12}$.", "12"),
        ("any", "So \\boxed{12}.\n\n#### Explanation\n4 + 1 is 5.", "12"),  # a heading
        ("any", "So \\boxed{12}? No.\n#### 13", "13"),
        ("any", "4 + 8 = 12\n#### 12\nI hope this helps.", "12"),
    ],
)
def test_the_answer_is_read_where_the_settings_say(
    answer_in: str, text: str, answer: str | None
) -> None:
    found = dialect("free", answer_in).parse_solution(text, truncated=False)
    assert found.answer == answer and found.well_formed == (answer is not None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # Finished thinking gives none.
        ("<think>Is it \\boxed{12}? No, I forgot one.</think>The result is 13.", None),
        ("<think>So the answer is 12.</think>", None),
        # What mentions an answer, and what denies one.
        ("The wrong answer is 12", None),
        ("It's not the answer: 12", None),
        ("I don\u2019t think the answer is 12.", None),
        ("The answer is 12.\n\nNo, the answer is not 12.", None),
        ("I will answer 12\nNo wait, that is wrong, it is 13.", None),
        ("The answer is ...", None),
        ("Answer:\n4 + 1 = 5\n5 + 7 = 12", None),
        ("The answer is 12.\nI hope this answer helps.", "12"),
        ("The answer is 12.\n\nLet me know if you want another answer.", "12"),
        ("The answer is 12.\nI hope the answer is clear.", "12"),
        ("It is not 13; the answer is 12.", "12"),
        ("The answer to the question is .5", ".5"),
        ("**Final Answer:**\n\n$$12$$", "12"),
        # The last mark counts, wherever the others stand; empty ones are passed over.
        ("Use <answer>5</answer> as in the example. I get \\boxed{12}.", "12"),
        ("For example \\boxed{5} would be the form. The answer is 12.", "12"),
        ("\\boxed{12} which is within \\boxed{} as asked.", "12"),
        ("\\boxed{12} within <answer></answer>", "12"),
        ("The answer is \\boxed{12} because 5 + 7 = 12.", "12"),
        ("\\boxed{\\boxed{12}}", "12"),
        # A word behind a mark speaks of the answer, and is none.
        ("\\boxed{12}. We can check that the answer is correct: 5 + 7 = 12.", "12"),
        ("\\boxed{12}. Our answer is **positive**, as two factors are negative.", "12"),
        ("\\boxed{12}.\n\nWe check our answer: $17 \\cdot 12 = 204$, so our answer holds.", "12"),
        ("Verifying the answer: 5 + 7 = 12. The answer is 12.", "12"),
        ("So the answer is 13? \\boxed{12}. Yes, this answer is right.", "12"),
        ("\\boxed{12} cannot be.\n\nAnswer: no solution", "no solution"),
        ("\\boxed{12}. The answer is not that.", None),
        # A box that the sentence denies, and a sign that stands before one.
        ("The answer is not \\boxed{12}.", None),
        ("It isn\u2019t $\\boxed{12}$, nor can I find it.", None),
        ("We see that x \\neq \\boxed{12}", None),
        ("The sum is \\boxed{13}, not \\(\\boxed{12}\\).", "13"),
        ("\\boxed{13} rather than \\boxed{12}", "13"),
        ("I am not sure. \\boxed{12}", "12"),
        ("So $x = -\\boxed{12}$.", "-12"),
        ("x is \u2212\\boxed{\\frac{1}{2}}", "-\\frac{1}{2}"),
        ("\\[ -\\boxed{x + 1} \\]", "-(x + 1)"),
        ("- \\boxed{12}", "12"),
        ("$15 -\\boxed{3} = 12$", "3"),
        ("\\boxed 12", "12"),
        ("\\boxed-1.5.", "-1.5"),
        # A heading; what is only supposed; an exclamation.
        ("4 + 8 = 12\n\n**Final Answer**\n\n$12$", "12"),
        ("4 + 8 = 12\n#### Answer\n12", "12"),
        ("### Answer\n12\nThat was easy.", None),
        ("\\boxed{12}\n\n## Answer\nTwelve apples.", "12"),
        ("Suppose the answer is 12. Then 4 + 1 is 5.", None),
        ("I doubt that the answer is 12.", None),
        ("I suppose the answer is 12.", "12"),
        ("The answer is **12**!", "12"),
        ("The answer is 4!", "4!"),
        # JSON.
        ('The answer is:\n```json\n{"a": 1}\n```\nBye.', '```json\n{"a": 1}\n```'),
        ('<answer>{"a": "\\\\boxed{3}"}</answer>', '{"a": "\\\\boxed{3}"}'),
        ("<answer>$\\boxed{12}$.</answer>", "12"),
    ],
)
def test_the_last_answer_that_the_reply_gives_counts(text: str, answer: str | None) -> None:
    found = FREE.parse_solution(text, truncated=False)
    assert found.answer == answer and found.well_formed == (answer is not None)


def test_every_reply_is_judged_rightly() -> None:
    """Found and judged: a part of a formula, a sign or a scale left behind would pass."""
    lines = Path(__file__).with_name("replies.txt").read_text(encoding="utf-8").splitlines()[1:]
    judged = []
    with closing(MathVerifier(timeout_seconds=20)) as verifier:
        for line in lines:
            answer_in, reference, label, reply = line.replace("\u23ce", "\n").split(" || ", 3)
            task = Task(
                id="0", family="test", question="?", reference=reference, verifier="math",
                split="train", entry={},
                generator=Generator(name="test", version="1", seed=0, difficulty=""),
            )  # fmt: skip
            found = dialect("free", answer_in).parse_solution(reply, truncated=False)
            passed = verifier.verify(task, found).passed
            judged += [(answer_in, reference, reply)] if passed != (label == "right") else []
    assert len(lines) > 200 and judged == []


@pytest.mark.parametrize("answer_in", PLACES)
def test_a_problem_asks_for_the_answer_where_it_is_read(answer_in: str) -> None:
    asked = dialect("free", answer_in).render_problem(TASK)
    shown = {
        "tag": "<answer></answer>",
        "hashes": "####",
        "last_number": "a number",
        "code": "fenced block",
    }
    assert asked.startswith(TASK.question) and shown.get(answer_in, "\\boxed{}") in asked
    own = dialect("free", answer_in, "Q: {question}\nUse {braces}. A:").render_problem(TASK)
    assert own == f"Q: {TASK.question}\nUse {{braces}}. A:"
    assert dialect("tagged", template="{question}!").render_problem(TASK) == f"{TASK.question}!"


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(UserError, match='did you mean "boxed"'):
        dialect("free", "boxd")


def test_steps_are_checked_where_they_state_arithmetic() -> None:
    text = "We add.\n\n4 + 1 = 5\n\n5 + 7 = 13\n\n\\boxed{13}"
    found = FREE.parse_solution(text, truncated=False)
    assert FREE.check_steps(TASK, found) == (True, True, False, True)


def test_the_critic_sees_numbered_paragraphs_and_names_one() -> None:
    text = "<think>\n4 + 1 = 5\n\n5 + 7 = 13\n</think>\n\\boxed{13}"
    solution = FREE.parse_solution(text, truncated=False)
    judge = critique_dialect("free")
    prompt = judge.render_prompt("What is 4 + 1 + 7?", text)
    assert "[1] 4 + 1 = 5\n\n[2] 5 + 7 = 13\n\n[3] \\boxed{13}" in prompt
    critique = judge.parse("\\boxed{2}\nshould be: 12", solution, truncated=False)
    assert isinstance(critique, Critique) and critique.flaws[0].step == "2"
    assert critique.flaws[0].quote == "5 + 7 = 13"


@given(st.text(alphabet="ab1 \n\\boxed{}<think>/answer#.", max_size=200))
def test_any_text_is_read(text: str) -> None:
    found = FREE.parse_solution(text, truncated=False)
    assert (found.answer is None) == (not found.well_formed)
    assert "".join("".join(step.text.split()) for step in found.steps) in "".join(text.split()) or (
        "<" in text
    )


def test_a_long_reply_is_read_at_once() -> None:
    texts = ["4 + 1 = 5\n\n" * 20_000, "\n" * 100_000, "\\boxed{" * 30_000, "answer is " * 20_000]
    texts += [
        "answer is ```\n" * 20_000,
        "if answer: x " * 20_000,
        "\\boxed{" * 30_000 + "}" * 30_000,
    ]
    for text in texts:
        started = time.process_time()
        FREE.parse_solution(text, truncated=False)
        FREE.parse_solution(text + "\\boxed{1}", truncated=False)
        assert time.process_time() - started < 2, text[:10]
    assert final_answer("\\boxed{" * 3 + "}}}") is None
