"""Tasks of every verifier, and answers as a dialect would read them."""

from data.records import Generator, Task, VerifierName
from rewards.solution import Solution

CODE = r"[A-Z]{3}-\d{4}"
PERSON: dict[str, object] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ANY_PERSON: dict[str, object] = {"schema": PERSON, "equals_reference": False}


def task_of(
    verifier: VerifierName, reference: str, family: str = "test", **parameters: object
) -> Task:
    return Task(
        id=f"{verifier}/{reference}", family=family, question="?", reference=reference,
        verifier=verifier, split="train", entry=parameters,
        generator=Generator(name="test", version="1", seed=0, difficulty=""),
    )  # fmt: skip


def answered(answer: str) -> Solution:
    return Solution(answer, (), answer, None)


def part(verifier: VerifierName, reference: str | None = None, **parameters: object) -> object:
    return {"verifier": verifier, "reference": reference, "parameters": parameters}
