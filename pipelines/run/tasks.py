"""A run's tasks: which there are, which the context holds, and what a person should know of them.

A problem whose prompt and longest replies the context does not hold is left out and counted,
wherever it would have been asked. Leaves out what is drawn when (`game/curriculum.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from transformers import PreTrainedTokenizerBase

from data.records import Task
from pipelines.errors import UserError
from pipelines.game.curriculum import Curriculum, build_source
from pipelines.game.examiner import HeldOutTasks
from pipelines.game.referee import Referee
from pipelines.policy.chat import chat_ids
from pipelines.policy.checkpoint import (
    check_vocabulary,
    load_tokenizer,
)
from pipelines.policy.folder import role_path
from pipelines.rollouts.sample import Prompt
from pipelines.run.directory import RunDirectory
from pipelines.run.origin import Origin
from pipelines.run.selection import selection_tasks
from pipelines.settings.role_table import RoleTable
from pipelines.settings.tables import Settings
from rewards.solution import Solution


class Context:
    """Whether the engines' context holds what a task's roles are asked, with their longest replies.

    Args:
        settings: lengths.
        tokenizer: of the roles that are asked.
        referee: writes the prompts.
        has_critic: whether solutions are criticised.

    Attributes:
        needed: tokens that each task needs which did not fit, by id and role.
    """

    def __init__(
        self,
        settings: Settings,
        tokenizer: PreTrainedTokenizerBase,
        referee: Referee,
        has_critic: bool = True,
    ) -> None:
        self.settings, self.tokenizer, self.referee = settings, tokenizer, referee
        self.has_critic = has_critic
        self.needed: dict[str, dict[str, int]] = {}

    def fits(self, task: Task) -> bool:
        """Whether a task may be played; notes those that may not."""
        needed = self._needed(task)
        if max(needed.values()) <= self.settings.rollout.max_model_len:
            return True
        self.needed[task.id] = needed
        return False

    def _needed(self, task: Task) -> dict[str, int]:
        """Tokens of each role's longest prompt and reply; a critic reads the longest solution."""
        learner, critic, referee = self.settings.learner, self.settings.critic, self.referee
        asked = _num_tokens(self.tokenizer, referee.problem(task), learner)
        needed = {"learner": asked + learner.max_completion_length}
        if self.has_critic:
            prompt = referee.critique_prompt(task, Solution("", (), None, None))
            judged = _num_tokens(self.tokenizer, prompt, critic) + learner.max_completion_length
            needed["critic"] = judged + critic.max_completion_length
        return needed

    def remarks(self) -> list[str]:
        """What was left out so far, in at most one line."""
        if not self.needed:
            return []
        longest = max(max(needed.values()) for needed in self.needed.values())
        return [
            f"{len(self.needed)} problems are too long and left out: with its replies the longest "
            f"needs {longest} tokens, rollout.max_model_len = "
            f"{self.settings.rollout.max_model_len}"
        ]

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Where tasks run out because they are too long, say so.

        Raises:
            UserError: names the role, the numbers and the setting to raise.
        """
        try:
            yield
        except UserError as error:
            if not self.needed:
                raise
            raise UserError(f"{self._advice()} ({error})") from error

    def _advice(self) -> str:
        """What the shortest of the problems that are too long needs."""
        needed = min(self.needed.values(), key=lambda needed: max(needed.values()))
        name, whole = max(needed.items(), key=lambda item: item[1])
        role = self.settings.learner if name == "learner" else self.settings.critic
        return (
            f"rollout.max_model_len = {self.settings.rollout.max_model_len} is too small: the "
            f"{name}'s prompts have {whole - role.max_completion_length} tokens or more, and its "
            f"completions {role.max_completion_length}: raise it to at least {whole}, or lower "
            "*.max_completion_length"
        )


def _num_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, role: RoleTable) -> int:
    if not isinstance(prompt, str):
        return len(chat_ids(tokenizer, prompt, role.chat_template_kwargs))
    return len(tokenizer(prompt, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class RunTasks:
    """What a run trains and is measured on.

    Attributes:
        selection: tasks of the audit split that the best checkpoint is selected on; none without
            `evaluate.every_rounds`.
    """

    context: Context
    curriculum: Curriculum
    held_out: HeldOutTasks
    selection: list[Task]

    def check_round(self, num: int) -> None:
        """Refuse a source that does not yield a round's tasks, before anything is written."""
        with self.context.explaining():
            self.curriculum.draw(0, num)

    def announce(self, directory: RunDirectory, say: Callable[[str], None]) -> None:
        """Write the report, and say what a person should know."""
        directory.write_json("tasks.json", self.report())
        for line in self.remarks():
            say(f"tasks: {line}")

    def remarks(self) -> list[str]:
        """What a person should know of them, one line each."""
        asked, told = self.context.settings.evaluate, []
        for name, wanted in (
            ("test", asked.num_tasks), ("probe", asked.num_probe_tasks),
            ("audit", asked.num_audit_tasks),
        ):  # fmt: skip
            found = len(getattr(self.held_out, name))
            if found < wanted:
                told.append(f"{found} {name} tasks, of the {wanted} that [evaluate] asks for")
        if asked.every_rounds and len(self.selection) < asked.num_selection_tasks:
            told.append(
                f"{len(self.selection)} selection tasks, of the {asked.num_selection_tasks} that "
                "[evaluate] asks for"
            )
        return [*self.curriculum.source.remarks(), *self.context.remarks(), *told]

    def report(self) -> dict[str, object]:
        """What became of every row, and which problems are too long, as a JSON table."""
        return {
            "lists": self.curriculum.source.reports(),
            "too_long": self.context.needed,
            "held_out": {f.name: len(getattr(self.held_out, f.name)) for f in fields(HeldOutTasks)}
            | ({"selection": len(self.selection)} if self.selection else {}),
        }


def run_tasks(settings: Settings, referee: Referee, first: Settings | None = None) -> RunTasks:
    """Open the run's source and draw the held-out tasks.

    Args:
        settings: the run's.
        referee: writes the prompts.
        first: those that the run began with, where its context has grown since: what measures must
            be the same tasks as before, and not those that fit only now.

    Raises:
        UserError: the roles have different vocabularies, the source is faulty, or it yields no
            task of some split.
    """
    context = Context(settings, shared_tokenizer(settings), referee)
    with context.explaining():
        curriculum = Curriculum(build_source(settings, context.fits), settings.run.seed)
        measuring = curriculum
        if first is not None and first != settings:
            fits = Context(first, context.tokenizer, referee).fits
            measuring = Curriculum(build_source(first, fits), first.run.seed)
        held_out = HeldOutTasks.draw(measuring, settings.evaluate)
        selection = selection_tasks(measuring.source, settings.evaluate, held_out.audit)
        return RunTasks(context, curriculum, held_out, selection)


def context_of(origin: Origin, referee: Referee) -> Context:
    """The context of checkpoints that are sampled from and stay as they are."""
    tokenizer, has_critic = load_tokenizer(origin.learner), origin.critic is not None
    return Context(origin.settings, tokenizer, referee, has_critic)


def shared_tokenizer(settings: Settings) -> PreTrainedTokenizerBase:
    """The tokenizer of both roles.

    Raises:
        UserError: they have different vocabularies.
    """
    learner, critic = (role_path(settings, role) for role in (settings.learner, settings.critic))
    tokenizer = load_tokenizer(learner)
    check_vocabulary(tokenizer, load_tokenizer(critic), learner, critic)
    return tokenizer
