"""Hostile answers to tasks of every verifier, and a second opinion on those that pass.

An answer is garbage, or the right one with a character changed. A few happen to be right (a number
within the tolerance, another text of the same form): code of another make says which.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import reasoning_gym
from verifier_cases import ANY_PERSON, CODE, PERSON, part, task_of

from data.records import Task

NUMBER, TOLERANCE = "48271.5", 1e-3
ANN = '{"name": "Ann", "age": 31}'
SQUARE = "def square(n): return n * n"
FAMILIES = ("basic_arithmetic", "spiral_matrix", "prime_factorization", "countdown", "boxnet")
FRAGMENTS = (
    "\\frac{", "}{", "}", "{", "\\sqrt{", "^", "_", "\\boxed{", "####", "$", "$$", "\\(", "\\text{",
    "1e999", "1e-999", "NaN", "inf", "-", "+", "*", "/", "=", "<", "0", "1", "2", "13", "0.5", "%",
    "null", "true", "True", "[", "]", '"', ":", ",", "'", "(", ")", " ", "\n", "\0", "\ud800", "é",
    "the answer is", "and", "or", "not", "x", "\\pm", "\\infty", "\\begin{pmatrix}", "&", "\\\\",
    "__import__('os')", "exit()", "lambda: 0", "[0]*10**9", "{}", "```json\n", "\n```", "½", "²",
)  # fmt: skip
HANGS = ("9^{9^{9}}", "9**9**9", "factorial(10**7)", "(((((9!)!)!)!)!)")
LETTERS, DIGITS = "bcdfghjklmpqrstvwz", "0123456789"


@dataclass(frozen=True)
class Target:
    """A task, and whether an answer to it is right after all."""

    task: Task
    is_right: Callable[[str], bool]


def never(answer: str) -> bool:
    return False


def near_the_number(answer: str) -> bool:
    try:
        return math.isclose(float(answer), float(NUMBER), rel_tol=TOLERANCE * 1.01)
    except ValueError:
        return False


def is_a_code(answer: str) -> bool:
    letters, dash, digits = answer.strip().partition("-")
    return (
        bool(dash) and len(letters) == 3 and len(digits) == 4
        and all("A" <= one <= "Z" for one in letters) and digits.isdecimal()
    )  # fmt: skip


def is_a_person(answer: str) -> bool:
    try:
        one = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    if not isinstance(one, dict) or one.keys() != {"name", "age"}:
        return False
    age = one["age"]
    whole = isinstance(age, int | float) and not isinstance(age, bool) and age == int(age) >= 0
    return isinstance(one["name"], str) and whole


def targets() -> list[Target]:
    """A task of every verifier, and of puzzles that are scored in several ways."""
    near = {"relative_tolerance": TOLERANCE}
    plain = part("regex", pattern=r"\d+\.\d")
    towns = [part("exact"), part("exact", "Piran")]
    texts = [
        Target(task_of("exact", "Hakone Shrine 1619"), never),
        Target(task_of("math", NUMBER), never),
        Target(task_of("math", r"\frac{7\sqrt{11}}{13}"), never),
        Target(task_of("math", "Ljubljana"), never),
        Target(task_of("numeric", NUMBER, **near), near_the_number),
        Target(task_of("json_schema", ANN, schema=PERSON), never),
        Target(task_of("json_schema", ANN, family="form", **ANY_PERSON), is_a_person),
        Target(task_of("regex", "ABC-1234", pattern=CODE), is_a_code),
        Target(
            task_of("composite", NUMBER, parts=[part("numeric", **near), plain]), near_the_number
        ),
        Target(task_of("composite", "Bled", require="any", parts=towns), never),
        Target(task_of("code", SQUARE, tests=["assert square(7) == 49"]), never),
    ]  # fmt: skip
    return texts + [Target(_puzzle(family), never) for family in FAMILIES]


def _puzzle(family: str) -> Task:
    entry = json.loads(json.dumps(reasoning_gym.create_dataset(family, size=1, seed=3)[0]))
    return task_of("puzzle", entry["answer"] or "", family=family, **entry)


def hostile_answers(target: Target, rng: random.Random) -> Iterator[str]:
    """Endlessly many."""
    makers = (
        unicode_text, punctuation, soup, nested, mostly_numbers, some_json,
        lambda rng: changed(target.task.reference, rng),
        lambda rng: changed(target.task.reference, rng),
    )  # fmt: skip
    while True:
        chance = rng.random()
        if chance < 0.002:
            yield rng.choice("a9[({\\ \0") * rng.choice((3_000, 50_000, 200_000))
        elif chance < 0.004:
            yield rng.choice(HANGS) + rng.choice(("", "+1", "x"))
        else:
            yield rng.choice(makers)(rng)


def unicode_text(rng: random.Random) -> str:
    planes = (0x80, 0x600, 0x3000, 0xFFFF, 0x10FFFF)
    return "".join(chr(rng.randrange(rng.choice(planes))) for _ in range(rng.randrange(60)))


def punctuation(rng: random.Random) -> str:
    signs = "\\{}[]()^_$%&#@!?.,:;'\"+-*/=<>|~` \n\t0159xyeE"
    return "".join(rng.choice(signs) for _ in range(rng.randrange(1, 40)))


def soup(rng: random.Random) -> str:
    return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randrange(1, 12)))


def nested(rng: random.Random) -> str:
    opened, closed = rng.choice(
        (("(", ")"), ("[", "]"), ("{", "}"), ("\\frac{1}{", "}"), ("\\sqrt{", "}"), ('{"a":', "}"),
         ("\\boxed{", "}"), ("-", ""), ("\\text{", "}"), ("not ", ""))
    )  # fmt: skip
    depth = rng.choice((3, 30, 300, 1500))
    return opened * depth + rng.choice(("", "1", "x")) + closed * rng.choice((depth, depth - 1, 0))


def mostly_numbers(rng: random.Random) -> str:
    forms = (
        "{}e{}",
        "{}/{}",
        "{}.{}",
        "{} {}",
        "{},{}",
        "{}%{}",
        "-{}^{}",
        "{}:{}",
        "${}.{}",
        "{}_{}",
    )
    numbers = (rng.choice((0, 1, 7, 10, 99, 10**6, 10**30, 10**300)) for _ in range(2))
    return rng.choice(forms).format(*numbers)


def some_json(rng: random.Random, depth: int = 3) -> str:
    return json.dumps(_value(rng, depth))


def _value(rng: random.Random, depth: int) -> object:
    simple = (None, True, False, 0, -1, 31, 1.5, "", "Ann", "name", 10**40)
    if depth == 0 or rng.random() < 0.4:
        return rng.choice(simple)
    if rng.random() < 0.3:
        return [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = rng.sample(("name", "age", "Name", "extra", ""), rng.randrange(4))
    return {key: _value(rng, depth - 1) for key in keys}


def changed(gold: str, rng: random.Random) -> str:
    """The right answer with a letter or digit replaced, left out or added; not right any more."""
    places = [at for at, one in enumerate(gold) if one.isascii() and one.isalnum()]
    if not places:
        return "".join(rng.choice(LETTERS) for _ in range(8))
    at = rng.choice(places)
    kind = LETTERS if gold[at].isalpha() else DIGITS
    other = rng.choice([one for one in kind if one != gold[at].lower()])
    turn = rng.randrange(4)
    if turn == 0:
        return gold[:at] + gold[at + 1 :]
    if turn == 1:
        return f"{rng.choice(('not ', '1', '-', 'x'))}{gold}"
    if turn == 2:
        return gold[: at + 1] + (other if other != "0" else "7") + gold[at + 1 :]
    return gold[:at] + other + gold[at + 1 :]
