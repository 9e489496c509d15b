"""Each verifier proves itself before a run: right answers pass, planted wrong ones do not.

Right are the tasks' own references, of a whole solution its final answer. Wrong are, of each task:
the answer to another task, its own with a number changed, nothing at all, garbage, and some of what
no scorer may take for right (`data/puzzles.py`). Not planted is what is right by definition: a
number within the tolerance, the same value in another spelling, an empty value that the schema
allows; where that is any number, or any value, it is planted all the same and the verifier fails,
as it tells nothing apart. Wrong programs are another task's, one that ends at once without a
fault, and one that says yes to whatever it is asked. Where any text of a form is right, only what
has no form is planted.
Judged as completions' answers are, in the same workers. Leaves out a dialect's reading of a
completion.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from data.errors import UserError
from data.puzzles import NEGATIVE_CONTROLS, same_answer
from data.records import Task
from data.verifier_parameters import (
    CodeParameters,
    CompositeParameters,
    JsonSchemaParameters,
    NumericParameters,
    RegexParameters,
    read_parameters,
)
from rewards.answer_text import bare, plain
from rewards.answers import compare
from rewards.composite import part_tasks
from rewards.program_tests import yes_to_all
from rewards.quantity import read_quantity
from rewards.solution import Solution
from rewards.text_scorers import read_json, same_json, score_json
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers, compares_with_reference

GARBAGE = "\0garbage"
ALWAYS = ("", GARBAGE)
NO_PROGRAM = "raise SystemExit(0)"
EMPTY_JSON = ("null", "{}", "[]")
NUMBERS = ("0", "1", "-1")
CONTROLS = tuple(one for one in NEGATIVE_CONTROLS if one not in ALWAYS)
CONTROLS_PER_TASK = 2
NUM_EXAMPLES = 3
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Proof:
    """How one verifier did on the tasks of one family.

    Attributes:
        num_right: references that it judged; a puzzle may have none.
        num_passed: of these.
        num_wrong: planted answers that it judged.
        num_refused: of these; a timeout or an error refuses nothing.
        faults: some of what it judged wrongly, in words.
        remark: what its rates do not say, in words; "" for nothing.
    """

    verifier: str
    family: str
    num_right: int
    num_passed: int
    num_wrong: int
    num_refused: int
    faults: tuple[str, ...] = ()
    remark: str = ""

    @property
    def tpr(self) -> float | None:
        """Share of the right answers that pass; None without any."""
        return self.num_passed / self.num_right if self.num_right else None

    @property
    def tnr(self) -> float | None:
        """Share of the wrong answers that are judged wrong; None without any."""
        return self.num_refused / self.num_wrong if self.num_wrong else None

    def row(self) -> dict[str, object]:
        """As it is kept."""
        return {**vars(self), "tpr": self.tpr, "tnr": self.tnr}


def prove(verifiers: Verifiers, tasks: Sequence[Task], num: int) -> list[Proof]:
    """Put right and planted wrong answers to the verifiers of a run's own tasks.

    Args:
        tasks: a sample of them.
        num: the most tasks of each verifier and family.
    """
    groups = defaultdict[tuple[str, str], list[Task]](list)
    for task in tasks:
        group = groups[task.verifier, task.family]
        if len(group) < num:
            group.append(task)
    return [_prove(verifiers, group) for group in groups.values()]


def _prove(verifiers: Verifiers, group: Sequence[Task]) -> Proof:
    right = [(task, gold) for task in group if (gold := gold_answer(task))]
    wrong = [(t, answer) for place, t in enumerate(group) for answer in planted(t, group, place)]
    asked = [(task, Solution(answer, (), answer, None)) for task, answer in (*right, *wrong)]
    verdicts = verifiers.verify_all(asked)
    silent = [place for place, verdict in enumerate(verdicts) if not verdict.counted]
    again = verifiers.verify_all([asked[place] for place in silent])  # the machine may be busy
    for place, verdict in zip(silent, again, strict=True):
        verdicts[place] = verdict
    judged = [(t, one.text, verdict) for (t, one), verdict in zip(asked, verdicts, strict=True)]
    missed = [one for one in judged[: len(right)] if not one[2].passed]
    slipped = [one for one in judged[len(right) :] if one[2].passed or not one[2].counted]
    return Proof(
        group[0].verifier, group[0].family, len(right), len(right) - len(missed), len(wrong),
        len(wrong) - len(slipped),
        tuple(_fault(*one) for one in [*missed[:NUM_EXAMPLES], *slipped[:NUM_EXAMPLES]]),
        _remark(group),
    )  # fmt: skip


def require(proofs: Sequence[Proof], min_tpr: float, min_tnr: float) -> None:
    """Refuse verifiers that cannot tell right from wrong.

    Raises:
        UserError: names the verifier, its rates and what it got wrong.
    """
    said = [
        f"verifier {one.verifier} of {one.family}: {name} {rate:.2f} is below rewards.min_{name} = "
        f"{least:g}: {'; '.join(one.faults)}"
        for one in proofs
        for name, rate, least in (("tpr", one.tpr, min_tpr), ("tnr", one.tnr, min_tnr))
        if rate is not None and rate < least
    ]
    if said:
        raise UserError(
            f"{' | '.join(said)}. Such a reward teaches what it pays for: mend the references, the "
            "verifier's parameters or the choice of verifier, or lower the threshold"
        )


def table(proofs: Sequence[Proof]) -> str:
    """The rates as a person reads them, and what they do not say."""
    rows = [("verifier", "family", "right", "TPR", "wrong", "TNR")]
    rows += [
        (p.verifier, p.family, str(p.num_right), _rate(p.tpr), str(p.num_wrong), _rate(p.tnr))
        for p in proofs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines += [f"verifier {p.verifier} of {p.family}: {p.remark}" for p in proofs if p.remark]
    return "\n".join(lines)


def planted(task: Task, group: Sequence[Task], place: int) -> list[str]:
    """Answers to a task that are wrong.

    Args:
        group: tasks of the same verifier and family, this one among them.
        place: its index there.
    """
    right = _right_answers(task)
    if has_one_answer(task):
        others = _others(task, group, place)
        other = next((one for one in others if not right_by_definition(task, one)), None)
        start = place * CONTROLS_PER_TASK
        found = [*(CONTROLS * 2)[start % len(CONTROLS) :][:CONTROLS_PER_TASK]]
        if other is not None or not all(right_by_definition(task, one) for one in NUMBERS):
            found = [one for one in found if not right_by_definition(task, one)]
        else:  # a tolerance by which any number is right
            other = next(iter(others), None)
            found += NUMBERS
        found += filter(None, [other, changed(task)])
    elif task.verifier == "code":
        tests = read_parameters(CodeParameters, task.verifier, task.entry).tests
        found = [NO_PROGRAM, yes_to_all(tests), *_others(task, group, place)[:1]]
    else:
        found = _formless(task)
    return [one for one in dict.fromkeys([*ALWAYS, *found]) if not _is_among(one, right)]


def right_by_definition(task: Task, answer: str) -> bool:
    """Whether a task with one right answer has to take this one for it, whoever judges."""
    if task.verifier == "composite":
        parts = [part for part in part_tasks(task) if has_one_answer(part)]
        found = [right_by_definition(part, answer) for part in parts]
        return any(found) if _requires(task) == "any" else all(found)
    try:
        if task.verifier == "json_schema":
            return same_json(read_json(task.reference), read_json(answer))
        if task.verifier in ("math", "numeric") and compare(task.reference, answer).same:
            return True
        return task.verifier == "numeric" and _is_within_tolerance(task, answer)
    except (ValueError, RecursionError):  # one of them cannot be read
        return False


def _is_within_tolerance(task: Task, answer: str) -> bool:
    gold, found = read_quantity(bare(gold_answer(task))), read_quantity(bare(plain(answer)))
    if gold is None or found is None:
        return False
    factors = [Fraction(1)]
    if gold.is_percent != found.is_percent:
        factors.append(Fraction(1, 100) if gold.is_percent else Fraction(100))
    relative, absolute = _tolerances(task)
    return any(
        abs(found.value - gold.value * factor) <= max(relative * abs(gold.value), absolute) * factor
        for factor in factors
    )


def _tolerances(task: Task) -> tuple[Fraction, Fraction]:
    allowed = read_parameters(NumericParameters, task.verifier, task.entry)
    return Fraction(str(allowed.relative_tolerance)), Fraction(str(allowed.absolute_tolerance))


def _others(task: Task, group: Sequence[Task], place: int) -> list[str]:
    """The answers to the other tasks that are not this one's as text, the next task's first."""
    right = _right_answers(task)
    others = map(gold_answer, [*group[place + 1 :], *group[:place]])
    return [one for one in others if one and not _is_among(one, right)]


def _remark(group: Sequence[Task]) -> str:
    if any(map(_is_decided_by_a_form, group)):
        return (
            "one part alone decides, and another takes any answer of its form, so that the "
            "reference decides nothing and a wrong answer of that form earns the reward"
        )
    if not has_one_answer(group[0]):
        return ""
    others = [(task, found) for n, task in enumerate(group) if (found := _others(task, group, n))]
    loose = [task for task, found in others if all(right_by_definition(task, one) for one in found)]
    if not loose:
        return ""
    return (
        f"for {len(loose)} of {len(group)} tasks every other task's answer is right too, within "
        "the tolerance or in another spelling: the reward does not tell these tasks apart"
    )


def _is_decided_by_a_form(task: Task) -> bool:
    parts = part_tasks(task) if task.verifier == "composite" else []
    return not has_one_answer(task) and any(map(has_one_answer, parts))


def gold_answer(task: Task) -> str:
    """The task's reference as a learner would answer; "" where it has none."""
    if task.verifier in ("math", "numeric"):
        return plain(task.reference, is_reference=True)
    return task.reference


def has_one_answer(task: Task) -> bool:
    """Whether one answer alone is right, rather than any that has the right form."""
    if task.verifier == "composite":
        parts = [has_one_answer(part) for part in part_tasks(task)]
        return any(parts) if _requires(task) == "all" else all(parts)
    return task.verifier == "puzzle" or compares_with_reference(task)


def _requires(task: Task) -> str:
    return read_parameters(CompositeParameters, task.verifier, task.entry).require


def changed(task: Task) -> str | None:
    """The reference with the first digit of its last number changed; None if it has no number.

    A number with a tolerance moves by twice that, and by no less than itself.
    """
    if task.verifier == "numeric":
        return _beyond_tolerance(task)
    gold = gold_answer(task)
    numbers = list(_NUMBER.finditer(gold))
    if not numbers:
        return None
    digits = re.search("[1-9]", numbers[-1][0])
    at = numbers[-1].start() + (digits.start() if digits else 0)
    digit = int(gold[at])
    other = digit + 1 if digit < 9 else digit - 1
    return f"{gold[:at]}{other}{gold[at + 1 :]}"


def _beyond_tolerance(task: Task) -> str | None:
    number = read_quantity(bare(gold_answer(task)))
    if number is None:
        return None
    relative, absolute = _tolerances(task)
    step = max(relative * abs(number.value) * 2, absolute * 2, abs(number.value))
    value = number.value + (step or 1)
    return f"{value.numerator}/{value.denominator}" if value.denominator > 1 else str(value)


def _formless(task: Task) -> list[str]:
    """What has no form, where any answer of a form is right."""
    if task.verifier == "json_schema":
        refused = [one for one in EMPTY_JSON if not _is_allowed(task, one)]
        return [*(refused or EMPTY_JSON), task.reference + GARBAGE]
    if task.verifier == "regex":
        anywhere = read_parameters(RegexParameters, task.verifier, task.entry).search
        return [] if anywhere else [task.reference + GARBAGE]
    return []


def _is_allowed(task: Task, answer: str) -> bool:
    """Whether a schema allows an empty value, which keeps no pattern of it busy."""
    schema = read_parameters(JsonSchemaParameters, task.verifier, task.entry).document
    try:
        judged = score_json("null", answer, {"schema": schema, "equals_reference": False})
    except Exception:  # the boundary to the library: a schema that cannot be used allows nothing
        return False
    return judged["status"] == "scored" and judged["score"] == 1.0


def _right_answers(task: Task) -> list[str]:
    parts = part_tasks(task) if task.verifier == "composite" else []
    return [
        task.reference,
        gold_answer(task),
        *(right for part in parts for right in _right_answers(part)),
    ]


def _is_among(answer: str, right: Sequence[str]) -> bool:
    return any(same_answer(_folded(answer), _folded(one)) for one in right)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _fault(task: Task, answer: str, verdict: Verdict) -> str:
    why = f" ({verdict.detail:.80})" if verdict.detail else ""
    return f"{answer!r:.60} is {verdict.outcome} where {task.reference!r:.60} is right{why}"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.3f}"
