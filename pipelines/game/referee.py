"""Rendering, parsing and checking, shared by both games and by every audit."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from critic.critique import ParseFailure
from critic.format import CritiqueDialect, critique_dialect
from critic.meta import check_claims, critic_view, is_checkable, known_first_bad
from critic.reward import JudgedCritique
from data.records import Task
from pipelines.game.bout import CritiqueItem, JudgedClaim
from pipelines.rollouts.sample import Prompt, Sample
from pipelines.settings.tables import Settings
from rewards.dialect import dialect
from rewards.solution import Dialect, Solution
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers


class Judging:
    """Rendering, parsing and checking shared by both games and by every audit."""

    def __init__(self, settings: Settings, verifiers: Verifiers) -> None:
        self.settings, self.verifiers = settings, verifiers
        self.dialect: Dialect = dialect(settings.tasks.dialect)
        self.critiques: CritiqueDialect = critique_dialect(settings.tasks.dialect)

    def prompt(self, text: str) -> Prompt:
        """A prompt as the dialect's models take it: bare text, or one user message."""
        return [{"role": "user", "content": text}] if self.dialect.conversational else text

    def problem(self, task: Task) -> Prompt:
        """The learner's prompt, after the configured examples as earlier turns."""
        asked = self.prompt(self.dialect.render_problem(task))
        if isinstance(asked, str):
            return asked
        turns: list[dict[str, str]] = []
        for example in self.settings.tasks.examples:
            shown = self.dialect.render_problem(replace(task, question=example.question))
            turns += [
                {"role": "user", "content": shown},
                {"role": "assistant", "content": example.reply},
            ]
        return turns + asked

    def critique_prompt(self, task: Task, solution: Solution) -> Prompt:
        problem = self.dialect.render_problem(task)
        return self.prompt(self.critiques.render_prompt(problem, solution.text))

    def read(self, task: Task, sample: Sample) -> tuple[Solution, Verdict]:
        """Parse and verify one completion."""
        solution = self.dialect.parse_solution(sample.text, truncated=sample.truncated)
        return solution, self.verifiers.verify(task, solution)

    def judge(self, task: Task, solution: Solution, sample: Sample) -> JudgedClaim:
        """Parse a critique of the solution and check its claims."""
        critique = self.critiques.parse(sample.text, solution, truncated=sample.truncated)
        if isinstance(critique, ParseFailure):
            return JudgedClaim(sample.text, critique, (), None, sample.weights)
        claims = check_claims(task, solution, critique, self.dialect)
        view = critic_view(critique, claims, solution)
        return JudgedClaim(sample.text, critique, claims, view, sample.weights)

    def item(
        self, task: Task, solution: Solution, sound: bool, planted: bool = False
    ) -> CritiqueItem:
        first_bad = None if sound else known_first_bad(task, solution, self.dialect)
        return CritiqueItem(task, solution, sound, first_bad, planted)


def criticise(
    judging: Judging,
    tasks: Sequence[Task],
    solutions: Sequence[Solution],
    ask: Callable[[list[Prompt]], list[list[Sample]]],
) -> list[JudgedClaim | None]:
    """One critique of each distinct well-formed solution, shared by its copies."""
    distinct = {
        (task.id, solution.text): (task, solution)
        for task, solution in zip(tasks, solutions, strict=True)
        if solution.well_formed
    }
    drawn = ask([judging.critique_prompt(*pair) for pair in distinct.values()])
    found = {
        key: judging.judge(task, solution, samples[0])
        for (key, (task, solution)), samples in zip(distinct.items(), drawn, strict=True)
    }
    return [found.get((t.id, s.text)) for t, s in zip(tasks, solutions, strict=True)]


def judge_critique(judging: Judging, item: CritiqueItem, sample: Sample) -> JudgedCritique:
    """Everything the critic's reward depends on, for one critique of a known solution."""
    claim = judging.judge(item.task, item.solution, sample)
    return JudgedCritique(
        critique=claim.critique,
        claims=claim.claims,
        sound=item.sound,
        first_bad_step=item.first_bad,
        checkable=is_checkable(item.task, item.solution, judging.dialect),
    )
