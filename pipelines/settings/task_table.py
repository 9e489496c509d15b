"""The configuration's `[tasks]` table: where tasks come from and how they are written."""

from typing import Literal

from pydantic import Field

from pipelines.settings.table import Table


class Example(Table):
    """A worked reply, shown to an instruction-tuned model as an earlier turn."""

    question: str = Field(description="The question as a task would ask it.")
    reply: str = Field(description="The whole reply that a model should give to it.")


class FamilyShare(Table):
    """One family of a mixture."""

    family: str = Field(description="The reasoning-gym family that yields these tasks.")
    params: dict[str, object] = Field(
        default_factory=dict,
        description="Parameters of the family, which set how hard its tasks are.",
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="How often the family is drawn, relative to the other weights.",
    )


class TaskTable(Table):
    """Where tasks come from and how a solution to one is written."""

    dialect: Literal["chain", "tagged", "free"] = Field(
        default="tagged",
        description="How solutions and critiques are written. For chat models: any reasoning with "
        'a boxed answer is "free", numbered steps in tags are "tagged". "chain" is for the sums '
        "and products of tiny models.",
    )
    source: Literal["reasoning_gym", "jsonl", "dataset"] = Field(
        default="reasoning_gym",
        description="Tasks come from a reasoning-gym family, from a file of JSON lines, or from a "
        "dataset that the datasets library loads.",
    )
    family: str = Field(
        default="", description="The reasoning-gym family that yields the tasks; others ignore it."
    )
    path: str = Field(
        default="",
        description="The file of JSON lines, or the dataset's path or hub id; reasoning-gym "
        "ignores it.",
    )
    question_field: str = Field(
        default="question", description="The column of a dataset that holds the question."
    )
    answer_field: str = Field(
        default="answer", description="The column of a dataset that holds the reference answer."
    )
    dataset_split: str = Field(
        default="train", description="The split of a dataset that all tasks are taken from."
    )
    examples: tuple[Example, ...] = Field(
        default=(),
        description="Worked replies that precede every problem as earlier turns; the chain "
        "dialect has no turns.",
    )
    params: dict[str, object] = Field(
        default_factory=dict,
        description="Parameters of the reasoning-gym family, which set how hard its tasks are.",
    )
    mixture: tuple[FamilyShare, ...] = Field(
        default=(),
        description="Several reasoning-gym families in one run, instead of `family` and `params`; "
        "each task is of one of them, chosen at random by weight.",
    )
