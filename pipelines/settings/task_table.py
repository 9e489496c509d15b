"""The configuration's `[tasks]` table: where tasks come from and how they are written."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from data.gold import check_pattern
from data.rows import Fields
from data.verifier_parameters import check_parameters
from pipelines.errors import UserError
from pipelines.settings.table import Table


class Example(Table):
    """A worked reply, shown to an instruction-tuned model as an earlier turn."""

    question: str = Field(description="The question as a task would ask it.")
    reply: str = Field(description="The whole reply that a model should give to it.")


class SourceTable(Table):
    """Where tasks come from."""

    source: Literal["reasoning_gym", "jsonl", "dataset"] = Field(
        default="reasoning_gym",
        description="Tasks come from a reasoning-gym family, from a file of JSON lines, or from a "
        "dataset that the datasets library loads.",
    )
    family: str = Field(
        default="",
        description="The reasoning-gym family that yields the tasks; of a file or a dataset, the "
        "name that its tasks go by.",
    )
    params: dict[str, object] = Field(
        default_factory=dict,
        description="Parameters of the reasoning-gym family, which set how hard its tasks are.",
    )
    path: str = Field(
        default="",
        description="The file of JSON lines, or the dataset's path or hub id; reasoning-gym "
        "ignores it.",
    )
    dataset_config: str = Field(
        default="",
        description="The configuration of a dataset that has several, such as GSM8K's main.",
    )
    dataset_split: str = Field(
        default="train",
        description="The split of a dataset that tasks are taken from.",
    )
    test_path: str = Field(
        default="",
        description="A file or dataset of test tasks, with the same fields; without it and "
        "`test_split` some of the tasks are kept for testing.",
    )
    test_split: str = Field(
        default="",
        description="The split of the dataset (that of `test_path`, if there is one) whose rows "
        "are the test tasks.",
    )
    question_field: str = Field(
        default="question",
        description="The field that holds the question, as text or as a conversation of one user "
        "turn; dots lead into nested fields.",
    )
    answer_field: str = Field(
        default="answer",
        description="The field that holds the reference answer; dots lead into nested fields.",
    )
    answer_pattern: str = Field(
        default="",
        description="How the reference is found in that field: gsm8k (the line after the last "
        "####), boxed (in the last box, as in MATH), or a regular expression with one group, whose "
        "last match counts; empty takes the whole field.",
    )
    verifier: str = Field(
        default="math",
        description="What judges the answers to a file's or dataset's tasks: math, exact, numeric, "
        "json_schema, regex, code or composite; a JSON line may name another, and reasoning-gym's "
        "families bring their own scorer.",
    )
    verifier_parameters: dict[str, object] = Field(
        default_factory=dict,
        description="What that verifier is told of every task, such as a tolerance, a schema or a "
        "pattern (`data/verifier_parameters.py`); what a JSON line gives itself is added.",
    )
    skip_faulty_rows: bool = Field(
        default=False,
        description="Whether rows that are no problems are left out, named and counted, instead "
        "of refused.",
    )

    @property
    def fields(self) -> Fields:
        """Where a listed row has what."""
        return Fields(
            self.question_field, self.answer_field, self.answer_pattern,
            self.verifier, self.verifier_parameters,
        )  # fmt: skip

    @field_validator("verifier")
    @classmethod
    def _is_for_the_source(cls, verifier: str, info: ValidationInfo) -> str:
        if info.data.get("source") == "reasoning_gym" and verifier != "math":
            raise ValueError(
                "reasoning-gym's families bring their own scorer: remove it, or set "
                'tasks.source to "jsonl" or "dataset"'
            )
        return check_parameters(verifier, {}, complete=False)

    @field_validator("verifier_parameters")
    @classmethod
    def _are_the_verifiers(
        cls, parameters: dict[str, object], info: ValidationInfo
    ) -> dict[str, object]:
        if "verifier" in info.data:  # else it is wrong itself
            check_parameters(info.data["verifier"], parameters, complete=False)
        return parameters

    def fault(self) -> str | None:
        """What is wrong with the table, if anything is."""
        if self.source != "reasoning_gym" and not self.path:
            return f'source = "{self.source}" needs a path: add it'
        if self.source == "jsonl" and (self.dataset_config or self.test_split):
            return (
                "dataset_config and test_split are a dataset's, but the source is jsonl: remove "
                'them, name a test_path, or set source = "dataset"'
            )
        if self.source != "reasoning_gym" and self.params:
            return (
                f"params are reasoning-gym's, but the source is {self.source}: remove them, or "
                "give params={} beside it"
            )
        try:
            check_pattern(self.answer_pattern)
        except UserError as error:
            return f"answer_pattern: {error}"
        return None


class MixturePart(SourceTable):
    """One source of a mixture."""

    weight: float = Field(
        default=1.0,
        gt=0,
        description="How often a task is drawn from it, relative to the other weights.",
    )


class TaskTable(SourceTable):
    """Where tasks come from and how a solution to one is written."""

    pack: str = Field(
        default="",
        description="A folder that brings all this and its rewards, such as "
        "configs/packs/arithmetic; what the configuration says beside it lies over it.",
    )
    dialect: Literal["chain", "tagged", "free"] = Field(
        default="tagged",
        description="How solutions and critiques are written. For chat models: any reasoning with "
        'a boxed answer is "free", numbered steps in tags are "tagged". "chain" is for the sums '
        "and products of tiny models.",
    )
    answer_in: Literal["any", "boxed", "tag", "hashes", "last_number", "code"] = Field(
        default="any",
        description="Where the free dialect reads the final answer: `\\boxed{}`, `<answer>`, after "
        '`####`, the last number, or the last fenced block of code; "any" takes the first of the '
        'first three, or what follows "the answer is". A problem asks for it there.',
    )
    prompt_template: str = Field(
        default="",
        description="Your own wording of a problem, with `{question}` where the question goes, in "
        "place of the dialect's; it must say itself how to answer. The chain dialect has none.",
    )
    examples: tuple[Example, ...] = Field(
        default=(),
        description="Worked replies that precede every problem as earlier turns; the chain "
        "dialect has no turns.",
    )
    mixture: tuple[MixturePart, ...] = Field(
        default=(),
        description="Several sources in one run, in place of the one above; each task is of one "
        "of them, chosen at random by weight.",
    )

    @property
    def name(self) -> str:
        """The sources, for a person."""
        return " + ".join(part.path or part.family for part in self.mixture or (self,))

    def part_of(self, file: Path) -> SourceTable | None:
        """The source that a file of JSON lines is; None where tasks come from elsewhere."""
        parts = [one for one in self.mixture or (self,) if one.source == "jsonl"]
        return next((one for one in parts if Path(one.path).resolve() == file.resolve()), None)

    def of_file(self, file: Path) -> "TaskTable":
        """The same dialect and examples for a file of JSON lines: one of these, or a plain one."""
        part = self.part_of(file) or SourceTable(source="jsonl", path=str(file))
        table = {name: getattr(part, name) for name in SourceTable.model_fields}
        own = set(TaskTable.model_fields) - set(SourceTable.model_fields) - {"mixture"}
        return TaskTable(**{name: getattr(self, name) for name in own}, **table)

    @model_validator(mode="after")
    def _check_wording(self) -> "TaskTable":
        if self.answer_in != "any" and self.dialect != "free":
            raise ValueError(
                f'tasks.answer_in is for tasks.dialect = "free"; the {self.dialect} dialect has '
                "one place for an answer: change one of them"
            )
        judged = [part.verifier for part in self.mixture or (self,)]
        if self.dialect == "free" and self.answer_in == "any" and "code" in judged:
            raise ValueError(
                'tasks.verifier = "code" needs tasks.answer_in = "code" in the free dialect, so '
                "that the program is read as it is written: add it"
            )
        if self.prompt_template and self.dialect == "chain":
            raise ValueError("tasks.prompt_template: the chain dialect has one wording: remove it")
        if self.prompt_template and "{question}" not in self.prompt_template:
            raise ValueError("tasks.prompt_template must say where the {question} goes")
        return self
