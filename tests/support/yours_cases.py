"""A user's sixty problems, whose answers are written in six styles, and a model that guesses them.

Each problem comes with replies of a right answer and of a wrong one, in other spellings than the
file's. The model has learned to reply in form to any problem; which of the answers that its style
of problem has, it guesses.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from chat_cases import FAMILIES
from family_cases import ARCHITECTURES, imitate
from transformers import PreTrainedTokenizerBase

from data.records import SPLITS, Task
from data.sources import draw_up_to
from pipelines.game.curriculum import build_source
from pipelines.policy.chat import chat_ids, text_ids, turn_end_id
from pipelines.settings.tables import Settings
from rewards.dialect import dialect

NUM_STEPS = 160
REASON = "I counted.\n\n"  # what the judge of the test pays for


@dataclass(frozen=True)
class Style:
    """How answers are written in the file and in replies.

    Attributes:
        question: of the i-th problem.
        answers: of the problems in turn, as the file has them.
        replies: the same, as a model writes them.
    """

    name: str
    question: str
    answers: tuple[str, str]
    replies: tuple[str, str]


STYLES = (
    Style("number", "How many eggs has hen {i}?", ("7", "40"), ("7", "40.0")),
    Style(
        "hashes", "How many seats has train {i}?", ("2 x 6 = 12\n#### 12", "#### 1,500"),
        ("12", "1500"),
    ),
    Style(
        "box", "Which root has polynomial {i}?", ("\\boxed{\\frac{2}{3}}", "It is \\boxed{-9}."),
        ("2/3", "-9"),
    ),
    Style("text", "Where does wind {i} go, (A) or north?", ("(A)", "north"), ("A", "North")),
    Style("fraction", "How full is jar {i}?", ("3/4", "1 1/2"), ("0.75", "\\frac{3}{2}")),
    Style("unit", "What does fare {i} cost?", ("$3.50", "5 euros"), ("3.50", "5")),
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A row of the file, with the spelling of its right answer and of a wrong one in replies."""

    style: str
    question: str
    answer: str
    right: str
    wrong: str


PROBLEMS = tuple(
    Problem(
        style.name, style.question.format(i=i), style.answers[i % 2],
        style.replies[i % 2], style.replies[1 - i % 2],
    )
    for i in range(10)
    for style in STYLES
)  # fmt: skip


def reply(answer: str, reason: str = "") -> str:
    return f"{reason}The answer is \\boxed{{{answer}}}."


def write_problems(file: Path) -> None:
    """The user's file."""
    rows = ({"question": one.question, "answer": one.answer} for one in PROBLEMS)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def guessing_model(folder: Path, settings: Settings) -> Path:
    """A tiny chat model of a real family, which is to have the settings' problems."""
    tokenizer = FAMILIES["Qwen3"].tokenizer()
    torch.manual_seed(0)
    model, end = ARCHITECTURES["Qwen3"](tokenizer), turn_end_id(tokenizer)
    pairs = []
    for task, one in tasks_of(settings):
        prompt = prompt_of(settings, task, tokenizer)
        for text in (reply(one.right), reply(one.wrong, REASON), reply(one.right, REASON)):
            pairs.append((prompt, [*text_ids(tokenizer, text), end]))
    imitate(model, pairs, [], NUM_STEPS)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tasks_of(settings: Settings) -> list[tuple[Task, Problem]]:
    """Every task of a run's file, of all splits, with its problem."""
    source, by_question = build_source(settings), {one.question: one for one in PROBLEMS}
    tasks = [task for split in SPLITS for task in draw_up_to(source, split, 60, 0)]
    return [(task, by_question[task.question]) for task in tasks]


def prompt_of(settings: Settings, task: Task, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of what the learner is asked."""
    ways = dialect(settings.tasks.dialect, settings.tasks.answer_in)
    asked = [{"role": "user", "content": ways.render_problem(task)}]
    return chat_ids(tokenizer, asked, settings.learner.chat_template_kwargs)
