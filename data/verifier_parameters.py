"""What a task tells its verifier beside the reference: a tolerance, a schema, a pattern, parts.

    numeric      {"relative_tolerance": 0.01, "absolute_tolerance": 0}
    json_schema  {"schema": {...}, "equals_reference": true}
    regex        {"pattern": "[A-Z]{3}-\\d{4}", "search": false}
    code         {"tests": ["assert add(1, 2) == 3"], "names": ["add"]}
                 {"cases": [{"stdin": "1 2", "stdout": "3"}]}
    composite    {"require": "all", "parts": [{"verifier": "regex", "parameters": {...}}, ...]}

A task carries them as its `entry`. The other verifiers have none. Leaves out the verifiers
themselves (`rewards/verifiers.py`).
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from data.errors import UserError, did_you_mean, reason, unknown_name
from data.records import VERIFIER_NAMES, VerifierName, canonical_json

# A puzzle is judged by the scorer of the family that made it, from the entry that it made.
TEXT_VERIFIERS: tuple[VerifierName, ...] = tuple(n for n in VERIFIER_NAMES if n != "puzzle")


class Parameters(BaseModel):
    """Of one verifier; frozen, and an unknown key or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NumericParameters(Parameters):
    """How far a number may be from the reference.

    Correct is |answer - reference| <= max(relative_tolerance * |reference|, absolute_tolerance),
    as `math.isclose` has it, but relative to the reference alone.
    """

    relative_tolerance: float = Field(default=1e-6, ge=0, lt=1)
    absolute_tolerance: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class JsonSchemaParameters(Parameters):
    """Which JSON is an answer.

    Attributes:
        document: the schema (key `schema`), in the draft that its `$schema` names, else 2020-12.
        equals_reference: whether the value must be the reference's as well; otherwise any value
            that the schema allows is correct.
    """

    document: dict[str, Any] = Field(alias="schema")
    equals_reference: bool = True

    @field_validator("document")
    @classmethod
    def _is_a_schema(cls, document: dict[str, Any]) -> dict[str, Any]:
        from jsonschema import Draft202012Validator, SchemaError
        from jsonschema.validators import validator_for

        try:
            validator_for(document, default=Draft202012Validator).check_schema(document)
        except SchemaError as error:
            raise ValueError(f"not a JSON schema: {reason(error)}") from None
        return document


class RegexParameters(Parameters):
    """What an answer looks like.

    Attributes:
        pattern: a regular expression of Python's `re`, with flags within it, such as `(?i)`.
        search: whether it may match anywhere; otherwise it must match the whole answer.
    """

    pattern: str = Field(min_length=1)
    search: bool = False

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return pattern


class Case(Parameters):
    """What a program is given on its standard input, and must write to its standard output."""

    stdin: str = ""
    stdout: str


class CodeParameters(Parameters):
    """How a Python program is tested: by assertions, or by what it writes.

    Attributes:
        tests: Python with assertions that name the program's functions. If they define `check`, as
            HumanEval's do, it is called with the program's `entry_point`.
        entry_point: the function that tests call `candidate`, and that a whole program defines.
        names: the program's other names that tests use; what tests do not define is the program's
            anyway, but for Python's own names, such as `sum`.
        prompt: the code that a completion continues, and that tests may use.
        setup: code that precedes the tests, such as imports.
        cases: in place of tests, inputs and outputs of the program as a script; spaces at the ends
            of lines and empty lines at the end do not count.
    """

    tests: tuple[str, ...] = ()
    entry_point: str = ""
    names: tuple[str, ...] = ()
    prompt: str = ""
    setup: str = ""
    cases: tuple[Case, ...] = ()

    @model_validator(mode="after")
    def _has_one_kind_of_test(self) -> "CodeParameters":
        if bool(self.tests) == bool(self.cases):
            raise ValueError("give either tests or cases")
        return self


class Part(Parameters):
    """One of the verifiers that a composite asks.

    Attributes:
        verifier: its name.
        reference: what it compares with; None for the task's.
        parameters: its own.
    """

    verifier: str
    reference: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class CompositeParameters(Parameters):
    """Several verifiers of one answer.

    Attributes:
        require: whether all of them must pass it, or any.
        parts: two or more.
    """

    parts: tuple[Part, ...] = Field(min_length=2)
    require: Literal["all", "any"] = "all"

    @field_validator("parts")
    @classmethod
    def _can_be_asked(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        for index, part in enumerate(parts):
            try:
                check_parameters(part.verifier, part.parameters)
            except UserError as error:
                raise ValueError(f"part {index}: {error}") from None
        return parts


KINDS: Mapping[str, type[Parameters]] = {
    "numeric": NumericParameters,
    "json_schema": JsonSchemaParameters,
    "regex": RegexParameters,
    "code": CodeParameters,
    "composite": CompositeParameters,
}
P = TypeVar("P", bound=Parameters)


def check_parameters(
    verifier: str, given: Mapping[str, object], complete: bool = True
) -> VerifierName:
    """Refuse a verifier that no text task can name, and parameters that are not its own.

    Args:
        complete: whether what has no default must be there.

    Raises:
        UserError: what is wrong with which of them.
    """
    name = next((one for one in TEXT_VERIFIERS if one == verifier), None)
    if name is None:
        raise UserError(unknown_name("verifier", verifier, TEXT_VERIFIERS))
    kind = KINDS.get(name)
    if kind is not None:
        needed = {
            field.alias or key for key, field in kind.model_fields.items() if field.is_required()
        }
        enough = kind is not CodeParameters or bool({"tests", "cases"} & given.keys())
        if complete or (needed <= given.keys() and enough):
            read_parameters(kind, name, given)
    elif given:
        raise UserError(f'verifier "{name}" has no parameters, but {sorted(given)} are given')
    return name


def read_parameters(kind: type[P], verifier: str, given: Mapping[str, object]) -> P:
    """A task's parameters, checked.

    Raises:
        UserError: a key is unknown or missing, or a value is wrong.
    """
    try:
        found = _read(kind, verifier, canonical_json(given))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'parameters of "{verifier}" are not JSON: {reason(error)}') from None
    assert isinstance(found, kind), f"{kind} read as {found!r}"
    return found


@lru_cache(maxsize=4096)
def _read(kind: type[Parameters], verifier: str, text: str) -> Parameters:
    try:
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(
            "; ".join(_explain(kind, verifier, one) for one in error.errors())
        ) from None


def _explain(kind: type[Parameters], verifier: str, error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if not place:  # of all parameters together
        return f'verifier "{verifier}": {str(error["msg"]).removeprefix("Value error, ")}'
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        known = [field.alias or name for name, field in kind.model_fields.items()]
        return f'unknown parameter {place} of verifier "{verifier}": {did_you_mean(place, known)}'
    if error["type"] == "missing":
        return f'verifier "{verifier}" needs the parameter "{place}"'
    message = str(error["msg"]).removeprefix("Value error, ")
    return f'parameter {place} of verifier "{verifier}": {message}'
