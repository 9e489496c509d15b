"""Rendering, reading and checking, shared by both games and by every audit.

Prompts go out as the dialect's models take them; solutions and critiques come back parsed, verified
and with their claims checked by code. Leaves out what is done with a judgement: rewards
(`game/learner.py`, `game/critic.py`), records (`game/gate.py`).
"""

from collections.abc import Sequence
from dataclasses import replace

from critic.critique import Critique, ParseFailure
from critic.format import CritiqueDialect, critique_dialect, worked_steps, wrong_steps
from critic.meta import ClaimResult, check_claims, known_first_bad
from critic.reward import JudgedCritique
from data.records import Task
from pipelines.game.bout import Bout, CheckedCritique, CritiqueItem
from pipelines.rollouts.sample import Prompt, Respondent, Sample
from pipelines.settings.reward_table import RewardTable
from pipelines.settings.role_table import RoleTable
from pipelines.settings.tables import Settings
from rewards.dialect import Dialect, dialect
from rewards.solution import Solution, first_bad_step
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers


def verifiers_of(table: RewardTable) -> Verifiers:
    """The verifiers and the user's own rewards as configured; close them."""
    return Verifiers(
        table.timeout_seconds, table.workers, table.functions, table.judge, table.sandbox
    )


def _system(role: RoleTable) -> list[dict[str, str]]:
    """The system's turn, where the role has one."""
    return [{"role": "system", "content": role.system_prompt}] if role.system_prompt else []


class Referee:
    """Judges by rule.

    Args:
        settings: the run's.
        verifiers: judge answers; the caller closes them.

    Attributes:
        num_too_long: solutions that no critic could be asked about, since last taken.
    """

    def __init__(self, settings: Settings, verifiers: Verifiers) -> None:
        self.settings, self.verifiers, self.num_too_long = settings, verifiers, 0
        tasks = settings.tasks
        self.dialect: Dialect = dialect(tasks.dialect, tasks.answer_in, tasks.prompt_template)
        self.critiques: CritiqueDialect = critique_dialect(settings.tasks.dialect)

    # -- prompts --------------------------------------------------------------------------------

    def problem(self, task: Task, prefix: str = "") -> Prompt:
        """The learner's prompt, after the configured examples as earlier turns.

        Args:
            task: what is asked.
            prefix: the start of a solution, which the learner is to continue.
        """
        asked = self._as_prompt(self.dialect.render_problem(task))
        if isinstance(asked, str):
            return asked + prefix
        turns: list[dict[str, str]] = []
        for example in self.settings.tasks.examples:
            shown = self.dialect.render_problem(replace(task, question=example.question))
            turns += [
                {"role": "user", "content": shown},
                {"role": "assistant", "content": example.reply},
            ]
        begun = [{"role": "assistant", "content": prefix}] if prefix else []
        return _system(self.settings.learner) + turns + asked + begun

    def leaves_room(self, prompt_length: int) -> bool:
        """Whether the context holds a prompt of so many tokens and the learner's longest reply."""
        longest = self.settings.learner.max_completion_length
        return prompt_length + longest <= self.settings.rollout.max_model_len

    def critique_prompt(self, task: Task, solution: Solution) -> Prompt:
        """The critic's prompt for one solution."""
        problem = self.dialect.render_problem(task)
        asked = self._as_prompt(self.critiques.render_prompt(problem, solution.text))
        return asked if isinstance(asked, str) else _system(self.settings.critic) + asked

    def _as_prompt(self, text: str) -> Prompt:
        """Text as the dialect's models take it: bare, or one user message."""
        return [{"role": "user", "content": text}] if self.dialect.conversational else text

    # -- judgements -----------------------------------------------------------------------------

    def read(self, task: Task, sample: Sample, prefix: str = "") -> tuple[Solution, Verdict]:
        """Parse and verify one completion, after the beginning that it continues."""
        return self.read_all([(task, sample, prefix)])[0]

    def read_all(
        self, completions: Sequence[tuple[Task, Sample, str]]
    ) -> list[tuple[Solution, Verdict]]:
        """The same of a batch, whose answers are judged in parallel."""
        parse = self.dialect.parse_solution
        pairs = [
            (task, parse(prefix + sample.text, truncated=sample.truncated))
            for task, sample, prefix in completions
        ]
        verdicts = self.verifiers.verify_all(pairs)
        return [(one, verdict) for (_, one), verdict in zip(pairs, verdicts, strict=True)]

    def item(self, task: Task, solution: Solution, sound: bool) -> CritiqueItem:
        """A solution that measures the critic, with its first bad step where code finds it.

        Code finds it even where step checks are withheld from training: nothing is learned here.
        """
        first_bad = None if sound else known_first_bad(task, solution, self.dialect)
        return CritiqueItem(task, solution, sound, first_bad)

    def lesson(self, bout: Bout) -> CritiqueItem:
        """A solution that trains the critic, with what training may know of its first flaw."""
        item = CritiqueItem(bout.task, bout.solution, bout.verdict.passed, None)
        if self.settings.pointing.step_checks:
            wrong = wrong_steps(bout.task, bout.solution, self.dialect)
            if wrong:
                first_bad = next(iter(wrong))
                right_step = wrong.pop(first_bad)
                return replace(item, first_bad=first_bad, right_step=right_step, later=wrong)
        if bout.located is None or bout.pointing is None:
            return item
        return replace(item, first_bad=bout.located.id, right_step=bout.pointing.right_step)

    def worked_steps(self, item: CritiqueItem) -> dict[str, str]:
        """What a teacher of prose may show of a solution's steps, up to the first wrong one."""
        if not (self.settings.pointing.step_checks and self.dialect.conversational):
            return {}
        return worked_steps(item.task, item.solution, self.dialect, item.first_bad)

    def first_bad_step(self, bout: Bout) -> int | None:
        """Index of the first wrong step, where training may know; None if none is known."""
        if not self.settings.pointing.step_checks:
            return None
        return first_bad_step(self.dialect.check_steps(bout.task, bout.solution))

    def check(self, item: CritiqueItem, sample: Sample) -> CheckedCritique:
        """Parse a critique of a solution and check its claims against what is known of it."""
        solution = item.solution
        critique = self.critiques.parse(sample.text, solution, truncated=sample.truncated)
        claims = () if isinstance(critique, ParseFailure) else self._claims(item, critique)
        return CheckedCritique(sample.text, critique, claims, sample.weights_hash)

    def with_critique(self, bout: Bout, asked: Sample | None) -> Bout:
        """The bout with a critique of it, whose claims are checked; as it is without one."""
        if asked is None:
            return bout
        return replace(bout, judged=self.check(self.lesson(bout), asked))

    def _claims(self, item: CritiqueItem, critique: Critique) -> tuple[ClaimResult, ...]:
        known = (item.first_bad, item.sound, self.settings.pointing.step_checks)
        return check_claims(item.task, item.solution, critique, *known)

    def judge(self, item: CritiqueItem, sample: Sample) -> JudgedCritique:
        """Everything the critic's reward depends on, for one critique of a known solution."""
        checked = self.check(item, sample)
        return JudgedCritique(
            critique=checked.critique,
            claims=checked.claims,
            sound=item.sound,
            first_bad_step=item.first_bad,
        )

    def criticise(
        self, pairs: Sequence[tuple[Task, Solution]], critic: Respondent, purpose: str
    ) -> list[Sample | None]:
        """One critique, unread, of each distinct well-formed solution, shared by its copies.

        None for a malformed solution, and for one that is too long for the critic's context.
        """
        prompts = {
            (task.id, solution.text): self.critique_prompt(task, solution)
            for task, solution in pairs
            if solution.well_formed
        }
        fitting = {key: one for key, one in prompts.items() if self.critic_has_room(critic, one)}
        self.num_too_long += len(prompts) - len(fitting)
        prompts = fitting
        drawn = self.ask(critic, list(prompts.values()), purpose)
        found = {key: samples[0] for key, samples in zip(prompts, drawn, strict=True)}
        return [found.get((task.id, solution.text)) for task, solution in pairs]

    def ask(
        self, critic: Respondent, prompts: Sequence[Prompt], purpose: str, num: int = 1
    ) -> list[list[Sample]]:
        """`num` judgements of each prompt, at the temperature of judging."""
        return critic.sample(prompts, purpose, num, self.settings.critic.judging_temperature)

    def critic_has_room(self, critic: Respondent, prompt: Prompt) -> bool:
        """Whether the context holds a prompt and the critic's longest critique."""
        longest = self.settings.critic.max_completion_length
        return critic.prompt_length(prompt) + longest <= self.settings.rollout.max_model_len

    def take_num_too_long(self) -> int:
        """How many solutions were too long for the critic since the last call."""
        num, self.num_too_long = self.num_too_long, 0
        return num
