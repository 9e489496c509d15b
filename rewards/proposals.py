"""Tasks that a model writes: how it is asked for one, how one is read, what code says of it.

    dialect         asked with                      written as
    chain           a question mark                 a4b1c7, as the dialect shows a sum
    tagged, free    examples and an instruction     <problem>...</problem>

Reading is total. Leaves out whether a proposal is new, and how hard it is
(`pipelines/game/proposer.py`).
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from string import ascii_lowercase

from data.errors import UserError
from data.spelling import spelling_key
from rewards.arithmetic import evaluate, plain_number
from rewards.chain import MAX_TERMS, read_chain
from rewards.dialect import Dialect
from rewards.doubt import other_reading
from rewards.operations import PRODUCT, SUM
from rewards.thinking import after_thinking

MAX_CHARS = 2_000  # of a question
CHAIN_PROMPT = "?\n"

_INSTRUCTION = """\
Here are problems of one kind:

{examples}

Write one new problem of this kind, which has exactly one right answer. Do not solve it. End with
the problem between tags, and with nothing else in them:
<problem>the problem</problem>"""
_PROBLEM = re.compile(r"<problem>(.*?)</problem>", re.DOTALL)
_OPERAND = r"(?:0|[1-9][0-9]{0,15})"
_CHAIN = re.compile(rf"(\*?)((?:[a-z]{_OPERAND}){{1,{MAX_TERMS}}})\n?")
_ASKED = re.compile(
    r"(?:calculate|compute|evaluate|what is)\s*:?\s+(?P<sum>[^a-z]+?)\s*[.?]?", re.IGNORECASE
)
_DIGITS = r"[0-9]+(?:\.[0-9]+)?"
# Operators stand apart: what is 12/25/2024 may be a date, and 1-800-555 a telephone.
_SUM = re.compile(rf"\(*-?{_DIGITS}\)*(?: [-+*/] \(*-?{_DIGITS}\)*)+")


def proposal_prompt(dialect: Dialect, examples: Sequence[str]) -> str:
    """Ask for a new problem.

    Args:
        dialect: in which the problem is to be written.
        examples: questions that show the kind; the chain dialect shows none.
    """
    if not dialect.conversational:
        return CHAIN_PROMPT
    numbered = "\n\n".join(f"{place}. {text}" for place, text in enumerate(examples, start=1))
    return _INSTRUCTION.format(examples=numbered)


def written_proposal(dialect: Dialect, question: str) -> str:
    """A question as a proposer writes it: what `read_proposal` reads as that question.

    Raises:
        UserError: the dialect cannot pose it.
    """
    if dialect.conversational:
        return f"<problem>{question}</problem>"
    shown = dialect.shown(question)
    if shown is None or read_proposal(dialect, shown) is None:
        raise UserError(f"no proposal can be written of {question!r:.80}: sums and products can")
    return shown


def read_proposal(dialect: Dialect, text: str) -> str | None:
    """The question that a completion proposes; None if it proposes none; never raises."""
    if dialect.conversational:
        found = _PROBLEM.findall(after_thinking(text))
        question = " ".join(found[-1].split()) if found else ""
        return question if 0 < len(question) <= MAX_CHARS else None
    chain = _CHAIN.fullmatch(text)
    if chain is None:
        return None
    terms = re.findall(rf"([a-z])({_OPERAND})", chain[2])
    if [label for label, _ in terms] != list(ascii_lowercase[: len(terms)]):
        return None
    operation = PRODUCT if chain[1] else SUM
    return f"Calculate {f' {operation.symbol} '.join(value for _, value in terms)}."


def worked_answer(dialect: Dialect, question: str) -> str | None:
    """The answer by rule; None where code has no rule for the question.

    Of the chain dialect every sum and product of two terms or more; of the others plain arithmetic
    that is asked for, such as `What is 3 * (4 + 1)?`.
    """
    if not dialect.conversational:
        try:
            chain = read_chain(question)
        except UserError:
            return None
        if len(chain.operands) < 2 or dialect.shown(question) is None:
            return None
        return str(chain.values()[-1])
    asked = _sum_of(question)
    value = None if asked is None else evaluate(asked)
    return None if value is None else plain_number(value)


def proposal_key(dialect: Dialect, question: str) -> str | None:
    """One key for all spellings of a question; None where the dialect cannot pose it.

    Of plain arithmetic it is that of the sum alone, whatever asks for it. Another order of the
    terms is another task.
    """
    try:
        shown = dialect.shown(question)
    except UserError:
        return None
    if shown is None or not dialect.conversational:
        return shown
    asked = _sum_of(question)
    if asked is None:
        return spelling_key(question)
    return spelling_key(re.sub(_DIGITS, lambda m: plain_number(Fraction(m[0])), asked))


def _sum_of(question: str) -> str | None:
    """The arithmetic that a question plainly asks for."""
    asked = _ASKED.fullmatch(question.strip())
    if asked is None or _SUM.fullmatch(asked["sum"]) is None:
        return None
    return None if other_reading(asked["sum"]) else asked["sum"]
