"""Small chain tasks and solutions that the critic's tests share."""

from data.records import Generator, Task, make_task
from rewards.dialect import dialect
from rewards.solution import Solution


def chain_task(terms: list[int]) -> Task:
    """An addition chain, verified by comparing answers."""
    return make_task(
        family="basic_arithmetic",
        question=f"Calculate {' + '.join(map(str, terms))}.",
        reference=str(sum(terms)),
        verifier="exact",
        generator=Generator(name="test", version="0", seed=0, difficulty=""),
    )


def chain_solution(text: str) -> Solution:
    """A complete solution in the chain dialect."""
    return dialect("chain").parse_solution(text, truncated=False)


TASK = chain_task([4, 1, 7, 10])
RIGHT = chain_solution("a4=40\nb1=50\nc7=21\nd10=22>22")
WRONG = chain_solution("a4=40\nb1=50\nc7=20\nd10=21>21")  # the carry of step c is forgotten
