"""Replies as each family of models writes them: from its tokens to the reward."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from chat_cases import FAMILIES
from pointing_cases import sum_task

from pipelines.policy.chat import reply_text, text_ids, turn_end_id, without_end
from rewards.dialect import dialect
from rewards.verifiers import Verifiers

TASK = replace(sum_task(4, 1, 7), verifier="math")
THOUGHT = (
    "Okay, so I need to add 4, 1 and 7. Could it be \\boxed{13}? Let me see.\n\n"
    "4 + 1 = 5, and 5 + 7 = 12. Wait, check again: the answer is not 13. Yes, 12.\n"
)
BEGINNINGS = {  # what a reply of the family looks like before its last words
    "Qwen2.5": "To find the sum, we add step by step:\n\n1. **First**: \\(4 + 1 = 5\\).\n"
    "2. **Then**: \\(5 + 7 = 12\\).\n\n",
    "Qwen3": f"<think>\n{THOUGHT}</think>\n\nWe add the numbers:\n\n$$\n4 + 1 + 7 = 12\n$$\n\n",
    "Qwen3.5": f"{THOUGHT}</think>\n\nAdding the three numbers:\n\n",
    "Llama 3": "## Step 1: Add the first two numbers\n4 + 1 = 5\n\n## Step 2: Add the last number\n"
    "5 + 7 = 12\n\n",
    "Gemma 3": "Here's how to solve it:\n\n*   4 + 1 = 5\n*   5 + 7 = 12\n\n",
    "Phi 3.5": " To find the sum, add the numbers from left to right:\n\n4 + 1 = 5\n5 + 7 = 12\n\n",
    "GLM 4.5": f"\n<think>{THOUGHT}</think>\nI'll add the numbers from left to right.\n\n",
    "DeepSeek-R1": f"{THOUGHT}</think>\n\n**Solution:**\n\nWe add the numbers one by one.\n\n",
    "DeepSeek-V3": f"{THOUGHT}</think>\n\nTo solve it, follow these steps:\n\n",
    "Nemotron 3": f"{THOUGHT}</think>\nThe numbers add up as follows.\n\n",
    "SmolLM2": "To solve this problem, we need to add the numbers.\n\n4 + 1 = 5\n5 + 7 = 12\n\n",
}
ENDS = [  # the last words, and what they earn
    ("The sum is \\boxed{12}.", 1),
    ("**Final Answer**\n\n\\[\n\\boxed{12}\n\\]", 1),
    ("Final Answer: The final answer is $\\boxed{12}$. I hope it is correct.", 1),
    ("### Final Answer:\n\n$$\n\\boxed{12}\n$$\n", 1),
    ("Therefore, the answer is **12**.", 1),
    ("**Answer:** 12", 1),
    ("The final answer is: $\\boxed{12}$", 1),
    ("So, the final answer is $12$.", 1),
    ("#### 12", 1),
    ("<answer>12</answer>", 1),
    ("The result is $\\boxed{\\text{12}}$.", 1),
    ("It is not \\boxed{13} but \\boxed{12.0}.", 1),
    ("The sum is \\boxed{13}.", 0),
    ("Therefore, the answer is **13**.", 0),
    ("It is not \\boxed{12} but \\boxed{13}.", 0),
    ("<answer>13</answer>", 0),
]
SILENT = ("I am not sure.", "\\boxed{}", "Let me think about it once more")


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(60)) as judges:
        yield judges


def test_every_family_has_its_replies() -> None:
    assert set(FAMILIES) <= set(BEGINNINGS)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_natural_reply_earns_what_it_answers(verifiers: Verifiers, name: str) -> None:
    tokenizer, free = FAMILIES[name].tokenizer(), dialect("free")
    end = turn_end_id(tokenizer)
    for words, reward in ENDS:
        reply = BEGINNINGS[name] + words
        text = reply_text(tokenizer, without_end(tokenizer, [*text_ids(tokenizer, reply), end]))
        solution = free.parse_solution(text, truncated=False)
        assert text == reply and solution.well_formed, reply
        assert verifiers.verify(TASK, solution).reward == reward, reply
        steps = free.check_steps(TASK, solution)
        assert steps is None or all(steps), reply
        cut = free.parse_solution(text, truncated=True)
        assert cut.defect == "truncated" and verifiers.verify(TASK, cut).reward == 0
    for words in SILENT:
        plain = BEGINNINGS[name].replace(THOUGHT, "We add.\n")
        solution = free.parse_solution(plain + words, truncated=False)
        assert solution.defect == "no_answer", words


@pytest.mark.parametrize("opened", [True, False])
def test_numbered_steps_are_read_whoever_opens_the_thinking(
    verifiers: Verifiers, opened: bool
) -> None:
    tagged = dialect("tagged")
    reply = "\n1. 4 + 1 = 5\n2. 5 + 7 = 12\n</think>\n\n<answer>12</answer>\n"
    solution = tagged.parse_solution(reply if opened else f"<think>{reply}", truncated=False)
    assert solution.well_formed and [step.text for step in solution.steps] == [
        "4 + 1 = 5",
        "5 + 7 = 12",
    ]
    assert verifiers.verify(TASK, solution).reward == 1
    for defect, text in {
        "bare_answer": "</think><answer>12</answer>",
        "bad_tags": "1. So.\n</think>1. No.</think><answer>12</answer>",
        "bad_steps": "So it is.\n</think><answer>12</answer>",
    }.items():
        assert tagged.parse_solution(text, truncated=False).defect == defect
