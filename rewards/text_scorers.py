"""Numbers within a tolerance, JSON by a schema, patterns: judged in a scoring process.

A user's pattern may backtrack for ever on a hostile answer, in a schema too, so that these run
where a deadline can end them (`scoring_process.py`). An answer that cannot be read is the answer's
fault; whatever else raises is an error of the task, and says nothing about the answer.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, NoReturn

from data.errors import reason
from rewards.answer_text import bare, plain
from rewards.answers import LONGEST, compare
from rewards.quantity import Quantity, read_quantity, same_quantity

# Characters of an answer that is read; JSON and patterns may be longer than a number.
LONGEST_TEXT = 100_000
_FENCE = re.compile(r"\s*```(?:json|JSON)?[ \t]*\r?\n(.*?)\r?\n?\s*```\s*", re.DOTALL)

Scored = dict[str, object]


def score_text(job: Mapping[str, object]) -> Scored:
    """Judge an answer by the verifier that the job names."""
    reference, answer = str(job["reference"]), str(job["answer"])
    parameters: Any = job["parameters"]
    if len(answer) > LONGEST_TEXT:
        return _unreadable(f"the answer has more than {LONGEST_TEXT} characters")
    if job["verifier"] == "numeric":
        return score_numeric(reference, answer, parameters)
    if job["verifier"] == "json_schema":
        return score_json(reference, answer, parameters)
    assert job["verifier"] == "regex", f"no text verifier {job['verifier']!r}"
    return score_regex(answer, parameters)


# -- numbers --------------------------------------------------------------------------------------


def score_numeric(reference: str, answer: str, parameters: Mapping[str, float]) -> Scored:
    """Whether an answer is the reference's number, within a tolerance.

    Both are read as `answers.py` reads them, exactly, with their units and percentages; what is
    one answer there is so here.

    Args:
        parameters: `NumericParameters`.

    Raises:
        ValueError: the reference is not a number.
    """
    ours = read_quantity(bare(plain(reference, is_reference=True)))
    if ours is None:
        raise ValueError(f"reference {reference!r:.80} is not a number")
    if len(answer) > LONGEST:
        return _unreadable(f"a number of more than {LONGEST} characters")
    try:
        if compare(reference, answer).same:
            return _scored(True)
        theirs = read_quantity(bare(plain(answer)), like=ours.unit)
    except (ValueError, RecursionError) as error:  # such as too many digits
        return _unreadable(reason(error))
    if theirs is None:
        return _unreadable("the answer is not a number")
    relative, absolute = (
        Fraction(str(parameters[name])) for name in ("relative_tolerance", "absolute_tolerance")
    )
    for factor in _factors(ours, theirs):
        value = ours.value * factor
        near = abs(theirs.value - value) <= max(relative * abs(value), absolute * factor)
        # Units, nouns and names are judged as if the numbers were equal.
        if near and same_quantity(ours, replace(theirs, value=value, decimals=None)):
            return _scored(True)
    return _scored(False)


def _factors(ours: Quantity, theirs: Quantity) -> tuple[Fraction, ...]:
    """What the reference's number may be in the answer: itself, or its hundredth or hundredfold."""
    if ours.is_percent == theirs.is_percent:
        return (Fraction(1),)
    return (Fraction(1), Fraction(1, 100) if ours.is_percent else Fraction(100))


# -- JSON -----------------------------------------------------------------------------------------


def score_json(reference: str, answer: str, parameters: Mapping[str, Any]) -> Scored:
    """Whether an answer is JSON that a schema allows and, if that is asked, the reference's value.

    JSON is read strictly: no NaN, no number beyond a float, no key twice. It may stand in a fence
    of Markdown. References to other documents are not followed.

    Args:
        parameters: `JsonSchemaParameters`.

    Raises:
        ValueError: the reference is not JSON.
        Exception: the schema cannot judge the reference either.
    """
    gold = read_json(reference)
    fenced = _FENCE.fullmatch(answer)
    try:
        value = read_json(fenced[1] if fenced else answer)
    except (ValueError, RecursionError) as error:
        return _unreadable(f"not JSON: {reason(error)}")
    if parameters["equals_reference"] and not same_json(gold, value):
        return _scored(False, "another value than the reference's")
    try:
        wrong = _against_schema(value, parameters["schema"])
    except Exception as error:  # such as too deep a value
        _against_schema(gold, parameters["schema"])  # else the answer's fault, not the schema's
        return _unreadable(reason(error))
    return _scored(not wrong, wrong)


def _against_schema(value: object, schema: Mapping[str, Any]) -> str:
    """What a schema has against a value; "" if nothing."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(schema, default=Draft202012Validator)
    # An empty registry: a schema must not make this process fetch anything.
    wrong = next(kind(schema, registry=Registry()).iter_errors(value), None)
    return "" if wrong is None else reason(wrong)


def read_json(text: str) -> object:
    """The value of JSON, read strictly.

    Raises:
        ValueError: it is not JSON, or holds a key twice, or a number that no float holds.
        RecursionError: it is too deep.
    """
    value: object = json.loads(
        text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_repeats
    )
    return value


def same_json(one: object, other: object) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text:.20} is beyond any float")
    return value


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


# -- patterns -------------------------------------------------------------------------------------


def score_regex(answer: str, parameters: Mapping[str, Any]) -> Scored:
    """Whether an answer, spaces around it aside, matches a pattern.

    Args:
        parameters: `RegexParameters`.
    """
    pattern = re.compile(parameters["pattern"])
    match = pattern.search if parameters["search"] else pattern.fullmatch
    return _scored(match(answer.strip()) is not None)


def _scored(passed: bool, detail: str = "") -> Scored:
    return {"status": "scored", "score": float(passed), "detail": detail}


def _unreadable(detail: str) -> Scored:
    return {"status": "unreadable", "detail": detail}
