r"""The gold answer within a longer solution.

    gsm8k    the line that follows the last ####
    boxed    what the last \boxed{} holds, as in MATH
    a regular expression with one group, whose last match is taken

Leaves out what an answer means (`rewards/answers.py`).
"""

import re
from collections.abc import Callable

from data.errors import UserError, unknown_name

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


def check_pattern(pattern: str) -> None:
    """Refuse what is neither a preset nor a regular expression with one group.

    Raises:
        UserError: says what it must be.
    """
    if not pattern or pattern in PRESETS:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(
            f"the answer pattern {pattern!r} is no regular expression: {error}"
        ) from error
    if groups == 0 and pattern.replace("_", "").isalnum():
        raise UserError(unknown_name("answer pattern", pattern, PRESETS))
    if groups != 1:
        raise UserError(
            f"the answer pattern {pattern!r} has {groups} groups: put the answer, and nothing "
            "else, in parentheses ((?:...) is no group)"
        )


def gold_answer(solution: str, pattern: str) -> str:
    """The gold answer of a solution, ends trimmed; the whole of it without a pattern.

    Args:
        solution: a data set's.
        pattern: a preset, a regular expression with one group, or "".

    Raises:
        UserError: the pattern is not there, or what it finds is empty.
    """
    if not pattern:
        return solution
    found = PRESETS[pattern](solution) if pattern in PRESETS else _matched(solution, pattern)
    if found is None or not found.strip():
        missing = "is not in it" if found is None else "finds an empty answer"
        raise UserError(f"the answer pattern {pattern!r} {missing}: {solution[-80:]!r}")
    return found.strip()


def _after_hashes(solution: str) -> str | None:
    _, hashes, answer = solution.rpartition("####")
    return answer.strip().partition("\n")[0] if hashes else None


def _in_box(solution: str) -> str | None:
    """Counts braces, which LaTeX nests: \\boxed{\\frac{1}{2}}."""
    boxes = list(_BOX.finditer(solution))
    if not boxes:
        return None
    start, depth = boxes[-1].end(), 1
    for place in range(start, len(solution)):
        is_escaped = solution[place - 1] == "\\"
        depth += 0 if is_escaped else {"{": 1, "}": -1}.get(solution[place], 0)
        if depth == 0:
            return solution[start:place]
    return None


def _matched(solution: str, pattern: str) -> str | None:
    matches = list(re.finditer(pattern, solution))
    return matches[-1][1] if matches else None


PRESETS: dict[str, Callable[[str], str | None]] = {"gsm8k": _after_hashes, "boxed": _in_box}
