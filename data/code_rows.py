"""Programming problems as HumanEval and MBPP write them, read as rows of ours.

    HumanEval  {"task_id", "prompt", "entry_point", "canonical_solution", "test"}
    MBPP       {"task_id", "text" or "prompt", "code", "test_list", "test_setup_code" or
               "test_imports", "challenge_test_list"}

HumanEval's question is its prompt, a function without its body. MBPP's is its text and its tests,
which alone say what the function is called. The reference is a whole program. MBPP's challenge
tests are left out, as its own evaluation leaves them out. Leaves out our own form of rows
(`data/rows.py`).
"""

import ast
import re
from collections.abc import Mapping
from typing import Any

from data.errors import UserError

_MBPP_QUESTION = "{text}\n\nYour code should pass these tests:\n\n{tests}"


def is_code_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has one of the two forms."""
    return _is_humaneval(row) or "test_list" in row


def code_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same problem with `question`, `answer` and `verifier_parameters`.

    Raises:
        UserError: a field is missing or is no text.
    """
    return _humaneval(row) if _is_humaneval(row) else _mbpp(row)


def _is_humaneval(row: Mapping[str, Any]) -> bool:
    return {"prompt", "entry_point", "test"} <= row.keys()


def _humaneval(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt, entry_point = _text(row, "prompt"), _text(row, "entry_point")
    parameters = {"prompt": prompt, "entry_point": entry_point, "tests": [_text(row, "test")]}
    return {
        "question": prompt, "answer": prompt + _text(row, "canonical_solution"),
        "verifier": "code", "verifier_parameters": parameters,
    }  # fmt: skip


def _mbpp(row: Mapping[str, Any]) -> dict[str, Any]:
    tests, code = row["test_list"], _text(row, "code")
    if not isinstance(tests, list) or not tests or not all(isinstance(one, str) for one in tests):
        raise UserError(f"test_list must be a list of assertions, got {tests!r:.80}")
    imports = row.get("test_imports") or []
    setup = "\n".join([*imports, row.get("test_setup_code") or ""]).strip()
    question = _MBPP_QUESTION.format(
        text=_text(row, "text" if "text" in row else "prompt"), tests="\n".join(tests)
    )
    used = set(re.findall(r"\w+", "\n".join(tests)))
    names = [name for name in _defined(code) if name in used]
    if not names:
        raise UserError("the tests use nothing that the reference code defines")
    parameters = {"tests": tests, "setup": setup, "names": names}
    return {
        "question": question, "answer": code, "verifier": "code", "verifier_parameters": parameters,
    }  # fmt: skip


def _defined(code: str) -> list[str]:
    """Functions, classes and variables that a program defines at its top level."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"the reference code is not Python: {error}") from None
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign):
            found += [one.id for one in node.targets if isinstance(one, ast.Name)]
    return list(dict.fromkeys(found))


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'field "{name}" must be non-empty text, got {value!r:.80}')
    return value
