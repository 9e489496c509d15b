r"""The dialect of models that answer in their own way: any reasoning, then a final answer.

    <think>
    The numbers are 4, 1 and 7.            step 1

    4 + 1 = 5, and 5 + 7 = 12.             step 2
    </think>
    The sum is \boxed{12}.                 step 3

The model numbers nothing: code cuts the reasoning into paragraphs, or into lines where it has a
single paragraph, and these are the steps. Tags of thinking may be there, opened by the template, or
missing. The answer is read after the thinking where that ended, and never within it. It is the last
that the reply marks: in `<answer>`, in `\boxed{}`, on a line of `####`, or in a sentence that says
"the answer is", which behind another mark must go on with mathematics and not with a word ("the
answer is correct because"); or, where `answer_in` names one place, there alone, which may also be
the last number, or the last fenced block of code (the whole reply where it has none). Empty marks
are passed over, and denied boxes ("12, not 13"); a box that never closes, or "the answer is not",
leaves none. A minus right before a box is the answer's. Steps are checked where they state plain
arithmetic, as in `tagged`.
Leaves out what an answer means (`answers.py`).
"""

import itertools
import json
import re
from collections.abc import Callable

from data.errors import UserError, unknown_name
from rewards.program_text import code_of
from rewards.solution import Solution, Step
from rewards.tagged import QUESTION, TaggedDialect
from rewards.thinking import TAG, after_thinking

_BETWEEN_PARAGRAPHS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_BETWEEN_LINES = re.compile(r"\n")
_SPACES = re.compile(r"\s*")
_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)(?:</answer>|\Z)", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[-\u2212]?[0-9]+(?:[.,][0-9]+)*|\S)")
# Before a box: what denies it, and a sign of its own, which is no dash and subtracts nothing.
_DENIED_BOX = re.compile(
    r"(?:\b(?:not|cannot|never|rather[ \t]+than|instead[ \t]+of)|n['\u2019]t|\\neq?|\u2260)"
    r"(?:[ \t]+(?:be|equal(?:[ \t]+to)?))?[\s$*(\[\\]*\Z"
)
_SIGN_OF_BOX = re.compile(r"(?:\A|\n|[=:$({\[,]|[A-Za-z]{2}[ \t])[ \t]*[-\u2212]\Z")
# What makes a box a part of a formula: an operand before it, or something right behind it. One
# that an equation leaves to be found is none, 5 + \boxed{7} = 12, nor is a coefficient, \boxed{3}x.
_GAP = r"(?:[ \t]|\\[,;:! ])*"
_OPERAND_BEFORE = re.compile(
    r"(?:\\sqrt(?:\[\d+\])?\s*\{?|\\[dt]?frac\s*(?:\{[^{}]*\})?\s*\{|\^\s*\{?|\u221a"
    rf"|\\(?:times|cdot|div|pi|pm){_GAP}|\d|[\w)}}]{_GAP}[+\u00d7\u00f7\u00b7]{_GAP})\Z"
)
_OPERAND_BEHIND = re.compile(
    rf"{_GAP}(?:\^(?!\s*\{{?\s*\\?(?:circ|text|mathrm|degree))|[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]"
    r"|\\(?:pi|sqrt|cdot|times|div|[dt]?frac(?!\{\\(?:text|mathrm))|ln|log|pm)(?![A-Za-z])|[\u03c0\u221a]"
    r"|\+\s*(?:\d|\\[a-z]|[A-Za-z](?![A-Za-z]))|[-\u2212]\s*(?:\d|\\(?:sqrt|[dt]?frac|pi))"
    r"|[/\u00d7\u00f7\u00b7]\s*\d|\*(?!\*)\s*\d|[.,]?(?<!\s)\d|i(?![A-Za-z]))"
)
_GOES_ON = re.compile(r"[^$\n=]{0,60}=")
_IS_ASKED = re.compile(r"\d\s*=[^=$\n]*\Z")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)", re.MULTILINE)

# "The answer is", "Answer:", "the answer to it is"; before and behind it, what takes it back.
_SAID = re.compile(
    r"\banswer(?:[ \t]+(?:to|of|for)\b[^\n.:;?]{0,80}?)?[ \t]*\**"
    r"(?:[ \t]*[:=]|[ \t]+is\b[ \t]*\**:?)"
    r"|^[ \t*]*ans(?:[ \t]*[:=]|\.)[ \t*]*"
    r"|^[ \t]*(?:#+[ \t]*\**|\*\*)(?:the[ \t]+)?(?:final[ \t]+)?answer\**[ \t]*$",  # a heading
    re.IGNORECASE | re.MULTILINE,
)
_SAID_ANSWER = re.compile(
    r"[ \t*]*(?:\s*(?P<fence>```[^\n]*\n.*?\n[ \t]*```)"
    r"|(?!```)(?=[^\s.,;:!?]|\.[0-9])(?P<line>[^\n]+)"
    r"|\s*(?!```)(?P<last>[^\s.,;:!?][^\n]*)\s*\Z)",
    re.DOTALL,
)
_DENIED = re.compile(
    r"(?:\b(?:not|never|wrong|incorrect|false)\b|n['\u2019]t\b)[^.,;:!?\n]*\Z", re.I
)
_DENIES = re.compile(r"(?:not|never|wrong|incorrect|false)\b", re.IGNORECASE)
_NOT_SAID = re.compile(
    r"\b(?:if|whether|unless|hope|doubt|supposing|assuming|(?<!I )(?:suppose|assume|imagine))\b"
    r"[^.,;:!?\n]*\Z",
    re.IGNORECASE,
)
# "We check our answer: 17 * 44 = 748" begins a check, and gives nothing.
_CHECKS = re.compile(r"\b(?:check|verify|test)(?:ing)?[ \t]+(?:our|the|my|this|that)[ \t]+\Z", re.I)
_WORD = re.compile(r"[A-Za-z]{2}")
_SHOULD_BE = re.compile(r"\banswer[ \t]+(?:should|must)[ \t]+be[ \t]+([^\n]+)", re.IGNORECASE)
_IF = re.compile(r"\bif\b", re.IGNORECASE)
_WORDS = re.compile(r"(?<!\\)\b[A-Za-z]{2,}")
_EXCLAIMED = re.compile(r"(?<=\*)!+\s*\Z")  # behind emphasis it is no factorial
_CLAUSE_CHARS = 100  # of what stands before "the answer is"
_MOST_SAID = 20  # such sentences that are looked at, from the end

# Digits with commas between thousands, a decimal part or a denominator; a minus that is no dash;
# a power, a root or pi as a factor. What follows a letter, a point or ^ begins no number.
_RAISED = r"\u207b?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+"
_POWER = rf"(?:\^(?:[-\u2212]?[0-9]+|\{{[-\u2212+]?[0-9]+\}})|{_RAISED})"
_TIMES_TEN = rf"[ \t]*(?:\\times|\\cdot|[\u00d7\u00b7*x])[ \t]*10(?:{_POWER}|\*\*-?[0-9]+)"
_ROOT = r"\\sqrt(?:\[[0-9]+\])?\{[^{}\n]{0,40}\}"
_NUMBER = re.compile(
    r"(?<![\w.^])(?:\d{1,4}(?:[-\u2013]\d{1,4})+|\d{1,2}(?::\d{1,2})+)(?!\w|\.\d|\^)"  # a date
    r"|(?:(?<![\w)\]}])[-\u2212])?(?:"
    r"(?<![\w^.])(?<![\^_]\{)(?<!\^[-\u2212])(?<!\^\{[-\u2212])"
    r"(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+|/[0-9]+)?"
    rf"(?:{_TIMES_TEN}|{_POWER})?(?:[ \t]*(?:{_ROOT}|\\pi(?![A-Za-z])|\u03c0))?"
    r"(?:(?:i(?!\.e)|[kM]|[xyzn](?=[ \t]*(?:[.,;)$]|\Z|\n)))(?![A-Za-z0-9])"
    r"|[ \t]+(?:hundred|thousand|[mbtr]+illion)\b)?"
    rf"|\\[dt]?frac\{{[^{{}}\n]{{1,40}}\}}\{{[^{{}}\n]{{1,40}}\}}|{_ROOT})"
)
# A sign in words, or apart from its number, which subtracts from nothing.
_SIGN_OF_NUMBER = re.compile(
    r"(?:\bnegative[ \t]+|(?:\A|\n|[=:(]|\b(?:is|are|be|was|equals|to|gives|get|of))[ \t]*"
    r"(?:\bminus|\u2212|(?<=[=(])[ \t]*-|(?<=[=(][ \t])-)[ \t]*)\\?\$?\Z",
    re.IGNORECASE,
)

# Where a mark ends, or begins for a sentence, in which other marks may stand; what it holds.
Marked = tuple[int, str | None]


class FreeDialect(TaggedDialect):
    """Free text with a final answer (module docstring).

    Args:
        answer_in: where the answer is read: "any" of four places, "boxed", "tag", "hashes",
            "last_number", or "code".
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
    found = [mark for read in PLACES[answer_in] if (mark := read(reply)) is not None]
    said = _said(reply, bool(found)) if answer_in == "any" else None
    if said is not None:
        found.append(said)
    if not found and answer_in == "any":
        read = (_after_hashes(reply), _supposed(reply))
        found = [mark for mark in read if mark is not None][:1]
    return (max(found, key=lambda mark: mark[0])[1] or None) if found else None


def _tagged(text: str) -> Marked | None:
    return _last(_ANSWER_TAG, text)


def _after_hashes(text: str) -> Marked | None:
    return _last(_HASHES, text)


def _closing_hashes(text: str) -> Marked | None:
    """The same where nothing follows: elsewhere four hashes are a heading of Markdown."""
    found = _after_hashes(text)
    return found if found is not None and not text[found[0] :].strip() else None


def _last(form: re.Pattern[str], text: str) -> Marked | None:
    """The last mark of a form that holds something; of a box that is all of it, the content."""
    for found in reversed(list(form.finditer(text))):
        held = found[1].strip()
        if held:
            bare = held.strip("$* \t\n.")
            box = _boxed(bare) if bare.startswith("\\") else None
            alone = box is not None and box[0] == len(bare) and len(_BOX.findall(bare)) == 1
            return found.end(), box[1] if box is not None and alone else held
    return None


def _boxed(text: str) -> Marked | None:
    """The last box that holds something and is not denied ("12, not 13"), with its sign.

    A box around boxes is read as the last of these; one that is a part of a formula gives none.
    """
    until = len(text)
    for box in reversed(list(_BOX.finditer(text))):
        end = box.end() if box[1] != "{" else _closed(text, box.end(), until)
        if end is None and until == len(text):
            return box.start(), None
        if end is not None:
            held = box[1] if box[1] != "{" else text[box.end() : end - 1].strip()
            before = text[max(0, box.start() - _CLAUSE_CHARS) : box.start()]
            if held and not _DENIED_BOX.search(before):
                if _is_operand(before, text[end : end + _CLAUSE_CHARS]):
                    return end, None
                return end, _negative(held) if _SIGN_OF_BOX.search(before) else held
        until = box.start()
    return None


def _is_operand(before: str, behind: str) -> bool:
    """Whether a box holds a part of what the formula around it says: \\boxed{12}\\pi."""
    if _OPERAND_BEHIND.match(behind):
        return not _GOES_ON.match(behind)
    asked = _GOES_ON.match(behind) or _IS_ASKED.search(before)
    return _OPERAND_BEFORE.search(before) is not None and not asked


def _negative(held: str) -> str:
    return f"-({held})" if re.search(r"[^\w.,{}\\]", held) else f"-{held}"


def _closed(text: str, start: int, until: int) -> int | None:
    """Where a box whose content begins at `start` has ended; None where not before `until`."""
    end = _end_of_json(text, start)
    if end is not None:
        return end
    depth = 1
    for index in range(start, until):
        escaped = text[index - 1] == "\\"
        depth += 0 if escaped else (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return index + 1
    return None


def _end_of_json(text: str, start: int) -> int | None:
    """Where a box that holds JSON has ended, whose strings may have braces; None if it does not."""
    begin = _SPACES.match(text, start)
    if begin is None or text[begin.end() : begin.end() + 1] not in ("{", "["):
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, begin.end())
    except (ValueError, RecursionError):
        return None
    after = _SPACES.match(text, end)
    return after.end() + 1 if after and text[after.end() : after.end() + 1] == "}" else None


def _said(text: str, is_marked: bool) -> Marked | None:
    """What the last sentence says that has an answer; nothing where it denies one.

    Where the answer is marked elsewhere, "the answer is" and a word only speaks of it.
    """
    for said in reversed(list(_SAID.finditer(text))[-_MOST_SAID:]):
        before = text[max(0, said.start() - _CLAUSE_CHARS) : said.start()]
        answer = _SAID_ANSWER.match(text, said.end())
        if answer is None or _NOT_SAID.search(before):
            continue
        if said[0].rstrip(" \t*").endswith((":", "=")) and _CHECKS.search(before):
            continue
        held = answer[answer.lastgroup or 0]
        if _DENIED.search(before) or _DENIES.match(held):
            return said.start(), None
        if is_marked and said[0].endswith("="):  # a line of a program
            continue
        if is_marked and _WORD.match(held) and not said[0].rstrip(" \t*").endswith((":", "=")):
            continue
        return said.start(), _undelimited(_EXCLAIMED.sub("", held))
    return None


def _undelimited(held: str) -> str:
    """Without emphasis and delimiters around all of it, but for "$5$ cm", whose are of a part."""
    inner = held.lstrip(" \t*$").rstrip(" \t\r*$.")
    is_part = held.count("$") % 2 == 0 and inner.count("$") % 2
    return held.strip(" \t\r*.") if is_part else inner


def _supposed(text: str) -> Marked | None:
    """What "the answer should be" is followed by, where that is a formula and nothing else does.

    Looked at only where nothing else gives an answer.
    """
    for said in reversed(list(_SHOULD_BE.finditer(text))[-_MOST_SAID:]):
        before = text[max(0, said.start() - _CLAUSE_CHARS) : said.start()]
        line = before.rpartition("\n")[2]
        is_meant = not (_IF.search(line) or _NOT_SAID.search(before) or _DENIED.search(before))
        if is_meant and not _WORDS.search(said[1]):
            return said.start(), _undelimited(said[1])
    return None


def _last_number(text: str) -> Marked | None:
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    number = found[-1][0]
    before = text[max(0, found[-1].start() - _CLAUSE_CHARS) : found[-1].start()]
    is_signed = not number.startswith(("-", "\u2212")) and _SIGN_OF_NUMBER.search(before)
    return found[-1].end(), f"-{number}" if is_signed else number


def _code(text: str) -> Marked | None:
    return (len(text), code_of(text)) if text.strip() else None


_INSTRUCTIONS = {
    "boxed": "Put your final answer within \\boxed{}.",
    "tag": "Put your final answer within <answer></answer>.",
    "hashes": "End with your final answer on a line of its own, after ####.",
    "last_number": "End with your final answer, a number.",
    "code": "Write the whole program in one fenced block of Python code.",
}
PLACES: dict[str, tuple[Callable[[str], Marked | None], ...]] = {
    "any": (_tagged, _boxed, _closing_hashes),  # and `_said`
    "boxed": (_boxed,),
    "tag": (_tagged,),
    "hashes": (_after_hashes,),
    "last_number": (_last_number,),
    "code": (_code,),
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
