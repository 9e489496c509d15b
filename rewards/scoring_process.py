"""The scoring process: reads jobs as JSON lines, answers each with one JSON line.

Run as `python -m rewards.scoring_process math|puzzle|text|function [ARGUMENT]` by
`rewards.killable_worker`, which enforces the deadline from outside. In here: the scorers, which may
hang, eat memory or evaluate a model's text as code (several reasoning-gym scorers call `eval`), and
a user's own function. Memory and file writes are limited but for the last; that contains accidents,
it is not a sandbox against an attacker.
"""

import json
import logging
import os
import re
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import BinaryIO, TextIO

from rewards.answers import compare

CLOSE = 1e-9  # of a number: two that differ by less are one, written as a decimal
MAX_MEMORY_BYTES = 4 * 1024**3
ORPHAN_GRACE_SECONDS = 1.0
IDLE_CHECK_SECONDS = 5.0
# Their scorers compare with tuples, which JSON turned into lists: every answer would fail.
TUPLE_BOARDS = frozenset({"arc_agi", "rearc"})

Scorer = Callable[[Mapping[str, object]], dict[str, object]]


def main() -> int:
    """Serve jobs of one kind until standard input closes or the parent is gone."""
    parent = os.getppid()
    jobs, replies = _private_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    logging.disable()
    try:
        score = _load(*sys.argv[1:])
    except Exception as error:
        _send(replies, {"fatal": f"{type(error).__name__}: {error}"})
        return 1
    if sys.argv[1] != "function":  # the user's own code may load a model, or write a log
        _limit(resource.RLIMIT_AS, MAX_MEMORY_BYTES)
        _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _send(replies, {"ready": True})
    own = os.getpid()
    while line := _next_line(jobs, parent):
        reply = _serve(score, json.loads(line))
        if os.getpid() != own:  # a copy that the user's function forked: one of us replies
            os._exit(0)
        _send(replies, reply)
    return 0


def _serve(score: Scorer, job: Mapping[str, object]) -> dict[str, object]:
    # The default action of SIGALRM ends the process even inside C code that holds the
    # interpreter: whatever becomes of the parent, a hang cannot outlive its deadline.
    seconds = float(str(job["timeout_seconds"])) + ORPHAN_GRACE_SECONDS
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return {"id": job["id"], **score(job)}
    except (Exception, SystemExit) as error:  # whatever a scorer does is an outcome, not a crash
        return {
            "id": job["id"],
            "status": "error",
            "detail": f"{type(error).__name__}: {error}"[:500],
        }
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _load(kind: str, argument: str = "") -> Scorer:
    if kind == "math":
        import math_verify  # noqa: F401  (paid for before the first deadline starts)

        return _score_math
    if kind == "puzzle":
        import reasoning_gym  # noqa: F401

        return _score_puzzle
    if kind == "text":
        from rewards.text_scorers import score_text

        return score_text
    if kind == "function":
        from rewards.functions import load_function

        return load_function(argument)
    raise ValueError(f"unknown kind of worker {kind!r}: use 'math', 'puzzle', 'text' or 'function'")


# Nobody writes a factor of 1. Mixed numbers in digits are read before this is asked.
_ONE_AND_A_FRACTION = re.compile(r"(?<![\d.,^_])1\s*\\[dt]?frac\b")


def _score_math(job: Mapping[str, object]) -> dict[str, object]:
    """Compare two answers: by reading them where that is enough, else with math-verify.

    Its own timeouts and error handling are off: they turn a hang or a failure into False.
    """
    reference, answered = str(job["reference"]), str(job["answer"])
    try:
        pair = compare(reference, answered)
    except (ValueError, RecursionError) as error:  # such as too many digits
        compare(reference, reference)  # else the answer's fault, not the reference's
        return {"status": "unreadable", "detail": f"{type(error).__name__}: {error}"[:500]}
    if pair.same is not None:
        return {"status": "scored", "score": float(pair.same)}
    if _ONE_AND_A_FRACTION.search(pair.answer):
        return {"status": "unreadable", "detail": "1 before a fraction: a product, or 1 more?"}
    from math_verify import verify

    from rewards.relations import says_the_same

    gold = _parse_math(pair.reference)
    if not gold:
        return {"status": "error", "detail": f"reference {job['reference']!r} holds no mathematics"}
    strictly = {
        "timeout_seconds": None, "raise_on_error": True, "allow_set_relation_comp": True
    }  # fmt: skip
    try:
        answer = _parse_math(pair.answer)
        if not answer:
            return {"status": "unreadable", "detail": "the answer holds no mathematics"}
        equal = (
            verify(gold, answer, **strictly)
            and not _differ(gold, answer)
            and says_the_same(gold, answer)
        )
    except Exception as error:
        verify(gold, gold, **strictly)  # else the answer's fault, not the reference's
        return {"status": "unreadable", "detail": f"{type(error).__name__}: {error}"[:500]}
    return {"status": "scored", "score": float(equal)}


def _differ(gold: Sequence[object], answer: Sequence[object]) -> bool:
    """Whether two numbers that math-verify calls equal are not: it rounds to six decimals."""
    from sympy import Expr, N

    numbers = [[one for one in parsed if isinstance(one, Expr)] for parsed in (gold, answer)]
    pairs = [(g, a) for g in numbers[0] for a in numbers[1] if g.is_number and a.is_number]
    if not pairs:
        return False
    return not any(
        g == a or (g.is_finite and a.is_finite and abs(N(g - a, 20)) <= abs(N(g, 20)) * CLOSE)
        for g, a in pairs
    )


def _parse_math(text: str) -> list[object]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
    from math_verify.parser import NormalizationConfig

    # Bare LaTeX outside an environment loses all but one number: \sqrt{2} would read as nothing.
    enclosed = any(mark in text for mark in ("$", "\\boxed", "\\(", "\\["))
    # Units are read by us: it takes "ab" in "2ab" for one.
    spelled = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all",
        equations=False,
    )  # fmt: skip
    latex = LatexExtractionConfig(
        try_extract_without_anchor=True, boxed_match_priority=50, normalization_config=spelled
    )
    parsed: list[object] = parse(
        text if enclosed else f"${text}$", [latex, ExprExtractionConfig()],
        parsing_timeout=None, raise_on_error=True,
    )  # fmt: skip
    return parsed


def _score_puzzle(job: Mapping[str, object]) -> dict[str, object]:
    """Score with the family's own scorer.

    Several scorers raise on an answer that they cannot read. That is the answer's fault, unless
    the scorer fails on the entry's own gold answer as well.
    """
    dataset, entry = str(job["dataset"]), job["entry"]
    if dataset in TUPLE_BOARDS:
        entry = _tuples(entry)
    scorer = _puzzle_scorer(dataset)
    try:
        return {"status": "scored", "score": _within_range(scorer(job["answer"], entry))}
    except (Exception, SystemExit) as error:  # several scorers evaluate the answer as Python
        gold = entry.get("answer") if isinstance(entry, dict) else None
        if gold is not None:
            _within_range(scorer(gold, entry))
        return {"status": "unreadable", "detail": f"{type(error).__name__}: {error}"[:500]}


def _within_range(score: float) -> float:
    if not 0 <= float(score) <= 1:  # NaN, too
        raise ValueError(f"the scorer returned {score}, outside [0, 1]")
    return float(score)


def _tuples(value: object) -> object:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@cache
def _puzzle_scorer(dataset: str) -> Callable[[object, object], float]:
    import reasoning_gym

    scorer: Callable[[object, object], float] = reasoning_gym.get_score_answer_fn(dataset)
    return scorer


def _private_pipes() -> tuple[BinaryIO, TextIO]:
    """The pipes from and to the parent, out of a scorer's way.

    A scorer that prints must not garble the replies, and an evaluated `exit()` closes
    the standard input.
    """
    jobs = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 0)
    os.dup2(devnull, 1)
    os.close(devnull)
    return jobs, replies


def _next_line(jobs: BinaryIO, parent: int) -> bytes:
    """The next job, or nothing once there can be no more."""
    while not select.select([jobs], [], [], IDLE_CHECK_SECONDS)[0]:
        if os.getppid() != parent:  # a forked sibling may still hold the pipe open
            return b""
    return jobs.readline()


def _send(replies: TextIO, message: Mapping[str, object]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


if __name__ == "__main__":
    sys.exit(main())
