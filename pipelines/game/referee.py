"""Rendering, reading and checking, shared by both games and by every audit.

Prompts go out as the dialect's models take them; solutions and critiques come back parsed, verified
and with their claims checked by code. Leaves out what is done with a judgement: rewards
(`game/learner.py`, `game/critic.py`), records (`game/gate.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from critic.critique import ParseFailure
from critic.format import CritiqueDialect, critique_dialect
from critic.meta import check_claims, critic_view, is_checkable, known_first_bad
from critic.reward import JudgedCritique
from data.records import Task
from pipelines.game.bout import CheckedCritique, CritiqueItem
from pipelines.rollouts.sample import Prompt, Sample
from pipelines.settings.tables import Settings
from rewards.dialect import Dialect, dialect
from rewards.solution import Solution
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers

Ask = Callable[[list[Prompt]], list[list[Sample]]]  # the critic, one sample per prompt


class Referee:
    """Judges by rule.

    Args:
        settings: the run's.
        verifiers: judge answers; the caller closes them.
    """

    def __init__(self, settings: Settings, verifiers: Verifiers) -> None:
        self.settings, self.verifiers = settings, verifiers
        self.dialect: Dialect = dialect(settings.tasks.dialect)
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
        return turns + asked + begun

    def critique_prompt(self, task: Task, solution: Solution) -> Prompt:
        """The critic's prompt for one solution."""
        problem = self.dialect.render_problem(task)
        return self._as_prompt(self.critiques.render_prompt(problem, solution.text))

    def _as_prompt(self, text: str) -> Prompt:
        """Text as the dialect's models take it: bare, or one user message."""
        return [{"role": "user", "content": text}] if self.dialect.conversational else text

    # -- judgements -----------------------------------------------------------------------------

    def read(self, task: Task, sample: Sample) -> tuple[Solution, Verdict]:
        """Parse and verify one completion."""
        solution = self.dialect.parse_solution(sample.text, truncated=sample.truncated)
        return solution, self.verifiers.verify(task, solution)

    def check(self, task: Task, solution: Solution, sample: Sample) -> CheckedCritique:
        """Parse a critique of the solution and check its claims."""
        critique = self.critiques.parse(sample.text, solution, truncated=sample.truncated)
        if isinstance(critique, ParseFailure):
            return CheckedCritique(sample.text, critique, (), None, sample.weights_hash)
        claims = check_claims(task, solution, critique, self.dialect)
        view = critic_view(critique, claims, solution)
        return CheckedCritique(sample.text, critique, claims, view, sample.weights_hash)

    def item(
        self, task: Task, solution: Solution, sound: bool, planted: bool = False
    ) -> CritiqueItem:
        """A solution for the critic, with its first bad step where code finds it."""
        first_bad = None if sound else known_first_bad(task, solution, self.dialect)
        return CritiqueItem(task, solution, sound, first_bad, planted)

    def judge(self, item: CritiqueItem, sample: Sample) -> JudgedCritique:
        """Everything the critic's reward depends on, for one critique of a known solution."""
        checked = self.check(item.task, item.solution, sample)
        return JudgedCritique(
            critique=checked.critique,
            claims=checked.claims,
            sound=item.sound,
            first_bad_step=item.first_bad,
            checkable=is_checkable(item.task, item.solution, self.dialect),
        )

    def criticise(
        self, tasks: Sequence[Task], solutions: Sequence[Solution], ask: Ask
    ) -> list[CheckedCritique | None]:
        """One critique of each distinct well-formed solution, shared by its copies."""
        distinct = {
            (task.id, solution.text): (task, solution)
            for task, solution in zip(tasks, solutions, strict=True)
            if solution.well_formed
        }
        drawn = ask([self.critique_prompt(*pair) for pair in distinct.values()])
        found = {
            key: self.check(task, solution, samples[0])
            for (key, (task, solution)), samples in zip(distinct.items(), drawn, strict=True)
        }
        return [found.get((t.id, s.text)) for t, s in zip(tasks, solutions, strict=True)]
