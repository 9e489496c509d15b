r"""The dialect of models that answer in their own way: any reasoning, then a final answer.

    <think>
    The numbers are 4, 1 and 7.            step 1

    4 + 1 = 5, and 5 + 7 = 12.             step 2
    </think>
    The sum is \boxed{12}.                 step 3

The model numbers nothing: code cuts the reasoning into paragraphs, or into lines where it has a
single paragraph, and these are the steps. Tags of thinking may be there, opened by the template, or
missing. The answer is read after the thinking where that ended, from the first of these that is
there: the last `<answer>`, the last `\boxed{}`, the last line of `####`, and the last sentence
that says "the answer is"; or, where `answer_in` names one place, from there alone, which may also
be the last number. Steps are checked where they state plain arithmetic, as in `tagged`.
Leaves out what an answer means (`answers.py`).
"""

import itertools
import re
from collections.abc import Callable

from data.errors import UserError, unknown_name
from rewards.solution import Solution, Step
from rewards.tagged import QUESTION, TaggedDialect
from rewards.thinking import TAG, after_thinking

_BETWEEN_PARAGRAPHS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_BETWEEN_LINES = re.compile(r"\n")
_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|\S)")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_SAID = re.compile(
    r"\banswer(?:\s+is)?[ \t]*\**[ \t]*:?[ \t]*\**\s*([^\s:*][^\n]*?)[.\s]*(?=\n|\Z)", re.IGNORECASE
)

# Digits with commas between thousands, a decimal part or a denominator; a minus that is no dash.
_NUMBER = re.compile(r"(?:(?<![\w)\]}])[-\u2212])?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:/[0-9]+)?")


class FreeDialect(TaggedDialect):
    """Free text with a final answer (module docstring).

    Args:
        answer_in: where the answer is read: "any" of four places, "boxed", "tag", "hashes", or
            "last_number".
        template: the problem's wording, with `{question}`; empty takes the dialect's own.
    """

    name = "free"

    def __init__(self, answer_in: str = "any", template: str = "") -> None:
        if answer_in not in PLACES:
            raise UserError(unknown_name("place of an answer", answer_in, PLACES))
        place = "boxed" if answer_in == "any" else answer_in
        super().__init__(template or f"{QUESTION}\n\n{_INSTRUCTIONS[place]}")
        self.answer_in = answer_in

    def parse_solution(self, text: str, *, truncated: bool) -> Solution:
        """Cut the text into steps and find the answer.

        Defects: `truncated` (the caller's flag), `no_answer` (none of the forms, or nothing in it).
        """
        steps = _steps(text)
        answer = None if truncated else final_answer(text, self.answer_in)
        defect = "truncated" if truncated else "no_answer" if not answer or not steps else None
        return Solution(text, steps, None if defect else answer, defect)


def final_answer(text: str, answer_in: str = "any") -> str | None:
    """The answer that a reply ends with; None where it gives none.

    Args:
        answer_in: one of `PLACES`.
    """
    reply = after_thinking(text)
    for part in (reply, text) if reply.strip() != text.strip() else (text,):
        for read in PLACES[answer_in]:
            answer = read(part)
            if answer:
                return answer
    return None


def _tagged(text: str) -> str | None:
    found = _ANSWER_TAG.findall(text)
    return (_boxed(found[-1]) or found[-1].strip()) if found else None


def _boxed(text: str) -> str | None:
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    last = boxes[-1]
    if last[1] != "{":
        return last[1]
    depth = 1
    for index in range(last.end(), len(text)):
        escaped = text[index - 1] == "\\"
        depth += 0 if escaped else (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[last.end() : index].strip()
    return None


def _after_hashes(text: str) -> str | None:
    found = _HASHES.findall(text)
    return found[-1] if found else None


def _said(text: str) -> str | None:
    found = _SAID.findall(text)
    return found[-1].strip(" *$") if found else None


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1] if found else None


_INSTRUCTIONS = {
    "boxed": "Put your final answer within \\boxed{}.",
    "tag": "Put your final answer within <answer></answer>.",
    "hashes": "End with your final answer on a line of its own, after ####.",
    "last_number": "End with your final answer, a number.",
}
PLACES: dict[str, tuple[Callable[[str], str | None], ...]] = {
    "any": (_tagged, _boxed, _after_hashes, _said),
    "boxed": (_boxed,),
    "tag": (_tagged,),
    "hashes": (_after_hashes,),
    "last_number": (_last_number,),
}


def _steps(text: str) -> tuple[Step, ...]:
    """Paragraphs, or lines where there is but one; tags are in none of them."""
    blank = TAG.sub(lambda tag: " " * len(tag[0]), text)
    spans = _spans(blank, _BETWEEN_PARAGRAPHS)
    if len(spans) == 1:
        spans = _spans(blank, _BETWEEN_LINES)
    return tuple(
        Step(str(number), start, end, text[start:end])
        for number, (start, end) in enumerate(spans, start=1)
    )


def _spans(text: str, between: re.Pattern[str]) -> list[tuple[int, int]]:
    """What stands between the gaps, without the spaces around it."""
    gaps = [(0, 0), *(gap.span() for gap in between.finditer(text)), (len(text), len(text))]
    found = []
    for (_, start), (end, _) in itertools.pairwise(gaps):
        piece = text[start:end]
        if piece.strip():
            found.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
    return found
