"""The dialect of pretrained models: numbered reasoning in tags, then an answer in tags.

    <think>
    1. 4 + 1 = 5
    2. 5 + 7 = 12
    </think>
    <answer>12</answer>

A chat template may have opened the thinking already: then the reply begins within it.
Works for any task family. Steps are checked only where they state plain arithmetic
(`rewards.arithmetic`); it writes no demonstrations.
"""

import random
import re

from data.errors import UserError
from data.records import Task
from rewards.arithmetic import equations_of_steps
from rewards.mistakes import OTHER
from rewards.solution import Solution, Step

QUESTION = "{question}"  # its place in a template
_INSTRUCTION = """\
Reason in numbered steps, one step a line, then give only the final answer. Use exactly this form:
<think>
1. first step
2. second step
</think>
<answer>final answer</answer>"""

_TAG = re.compile(r"</?(?:think|answer)>")
_SHAPE = ("<think>", "</think>", "<answer>", "</answer>")
_NUMBERED = re.compile(
    r"(?:^|(?<=<think>))([ \t]*)(?:\*\*)?([0-9]{1,4})[.)](?:\*\*)?[ \t]+(?=\S)", re.MULTILINE
)
FAR = 9  # a number that is so much further on is no step's: a year, a result


class TaggedDialect:
    """`<think>` with numbered steps, then `<answer>` (module docstring).

    Args:
        template: the problem's wording, with `{question}`; empty takes the dialect's own.
    """

    name = "tagged"
    conversational = True

    def __init__(self, template: str = "") -> None:
        self.template = template or f"{QUESTION}\n\n{_INSTRUCTION}"

    def render_problem(self, task: Task) -> str:
        """Write the question and the form of the reply."""
        return self.template.replace(QUESTION, self.shown(task.question))

    def shown(self, question: str) -> str:
        """The question itself; what is said of the form is the same for all."""
        return question.strip()

    def parse_solution(self, text: str, *, truncated: bool) -> Solution:
        """Read the steps and the answer.

        Defects, in the order they are looked for: `truncated` (the caller's flag),
        `no_answer` (no answer tag, or nothing in it), `bare_answer` (no reasoning before
        it), `bad_tags` (tags repeated, out of order, or with text outside), `bad_steps`
        (reasoning that is not numbered 1, 2, 3, ...).
        """
        tags = list(_TAG.finditer(text))
        steps, numbered = _read_steps(text, tags)
        defect = _defect(text, tags, steps, numbered, truncated)
        answer = None if defect else text[tags[-2].end() : tags[-1].start()].strip()
        return Solution(text, steps, answer, defect)

    def check_steps(self, task: Task, solution: Solution) -> tuple[bool, ...] | None:
        """Re-evaluate the arithmetic each step states.

        A step is False if an equation in it is wrong, True otherwise: also where it
        states none, as code knows nothing against it. None if no step states any.
        """
        stated = equations_of_steps(task.question, [step.text for step in solution.steps])
        if not any(stated):
            return None
        return tuple(all(equation.holds for equation in equations) for equations in stated)

    def right_step(self, task: Task, solution: Solution, index: int) -> str | None:
        """The equations that the step states, worked out: `3 + 4 = 7, not 8; 7 * 2 = 14`.

        None if it states none: what prose should have said has no procedure.
        """
        stated = equations_of_steps(task.question, [step.text for step in solution.steps])[index]
        return "; ".join(equation.worked_out() for equation in stated) or None

    def kind_of_mistake(self, task: Task, solution: Solution, index: int) -> str:
        """Always "other": mistakes in prose have no closed list."""
        return OTHER

    def write_solution(self, task: Task, rng: random.Random, slip_rate: float) -> str:
        """Refuse: this dialect has no procedure to solve an arbitrary task.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"the {self.name} dialect cannot write a demonstration for task {task.id} "
            f"(family {task.family!r}): train on recorded solutions, or use the chain dialect"
        )


def _read_steps(text: str, tags: list[re.Match[str]]) -> tuple[tuple[Step, ...], bool]:
    """Numbered steps of the first think block; also whether they run 1, 2, 3, ...

    Lines that begin with a number belong to a step if they stand further in than the first step,
    or if the number is far from the next one's.
    """
    thinking = _thinking(text, tags)
    if thinking is None:
        return (), False
    begin, end = thinking
    marks, in_order = _in_order(list(_NUMBERED.finditer(text, begin, end)))
    starts = [mark.start() for mark in marks] + [end]
    steps = []
    for number, mark in enumerate(marks, start=1):
        body = text[mark.end() : starts[number]].rstrip()
        steps.append(Step(str(number), mark.end(), mark.end() + len(body), body))
    return tuple(steps), in_order


def _thinking(text: str, tags: list[re.Match[str]]) -> tuple[int, int] | None:
    """Where the thinking stands: [start, end), from 0 where the template has opened it."""
    first = tags[0][0] if tags else ""
    if first == "<think>":
        return tags[0].end(), tags[1].start() if len(tags) > 1 else len(text)
    return (0, tags[0].start()) if first == "</think>" else None


def _in_order(marks: list[re.Match[str]]) -> tuple[list[re.Match[str]], bool]:
    """The numbers that begin steps, and whether none is missing or comes twice."""
    chosen: list[re.Match[str]] = []
    in_order = True
    for mark in marks:
        number, due = int(mark[2]), len(chosen) + 1
        if chosen and len(mark[1]) > len(chosen[0][1]):
            continue
        if number == due:
            chosen.append(mark)
        elif number <= due + FAR:
            in_order = False
    return chosen, in_order


def _defect(
    text: str,
    tags: list[re.Match[str]],
    steps: tuple[Step, ...],
    numbered: bool,
    truncated: bool,
) -> str | None:
    if truncated:
        return "truncated"
    names = tuple(tag[0] for tag in tags)
    if "<answer>" not in names or "</answer>" not in names:
        return "no_answer"
    thinking = _thinking(text, tags)
    if thinking is None or not text[slice(*thinking)].strip():
        return "bare_answer"
    if names not in (_SHAPE, _SHAPE[1:]):
        return "bad_tags"
    *opening, closing, answer, end = tags
    before = text[: opening[0].start()] if opening else ""
    if (before + text[closing.end() : answer.start()] + text[end.end() :]).strip():
        return "bad_tags"
    if not text[answer.end() : end.start()].strip():
        return "no_answer"
    return None if numbered and steps else "bad_steps"
