"""Attempts at small chains, a learner of known slips, a critic as right as it is told."""

import random
import re
from collections.abc import Sequence

from pipeline_cases import CONFIG

from critic.format import critique_dialect, true_critique
from data.records import Generator, Task, make_task
from pipelines.game.bout import Bout, RoundPlan, Start
from pipelines.game.learner import LearnerBlock
from pipelines.game.pointing import Attempt
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Prompt, Sample, Weights
from pipelines.rollouts.stage_seconds import StageSeconds
from pipelines.settings.load import load_settings
from rewards.chain import ChainDialect
from rewards.verifiers import Verifiers

CHAIN = ChainDialect()
WITHHELD = "pointing.step_checks=false"
RIGHT = "a4=40\nb1=50\nc7=21\nd6=81>81"
WRONG = "a4=40\nb1=50\nc7=20\nd6=80>80"  # the carry of step c is forgotten: index 2
PLAN = RoundPlan(0, critic_points=True)


def sum_task(*terms: int) -> Task:
    return make_task(
        family="basic_arithmetic", question=f"Calculate {' + '.join(map(str, terms))}.",
        reference=str(sum(terms)), verifier="exact",
        generator=Generator(name="test", version="0", seed=0, difficulty=""),
    )  # fmt: skip


TASK = sum_task(4, 1, 7, 6)


class Solver:
    """Continues a chain as a solver that slips at some steps does; a `Player` that only samples.

    Args:
        slip_rate: of each step that it writes.
        writes: what it says of every prompt instead, where given.
    """

    name, num_steps, process_index = "learner", 0, 0

    def __init__(self, slip_rate: float = 0.0, writes: str | None = None) -> None:
        self.slip_rate, self.writes, self.num_asked = slip_rate, writes, 0
        self.seconds = StageSeconds()

    def sample(
        self,
        prompts: Sequence[Prompt],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        self.num_asked += len(prompts) * num
        rng = random.Random(purpose)
        return [[self._continue(str(prompt), rng) for _ in range(num)] for prompt in prompts]

    def _continue(self, prompt: str, rng: random.Random) -> Sample:
        text = self.writes
        if text is None:
            problem, _, begun = prompt.partition("\n")
            operands = [int(term) for term in _terms(problem)]
            steps = CHAIN.parse_solution(begun, truncated=False).steps
            value = int(steps[-1].text.partition("=")[2][::-1]) if steps else 0
            rest = sum_task(*operands[len(steps) :]) if len(operands) > len(steps) else None
            text = _rest(rest, value, len(steps), self.slip_rate, rng)
        return Sample(text, [1] * len(text), [0.0] * len(text), False)

    def prompt_length(self, prompt: Prompt) -> int:
        return len(prompt)

    def timed(self, stage: str):  # type: ignore[no-untyped-def]
        return self.seconds.timed(stage)


def _terms(problem: str) -> list[str]:
    return "".join(" " if c.isalpha() else c for c in problem).split()


def _rest(rest: Task | None, value: int, done: int, slip_rate: float, rng: random.Random) -> str:
    lines = []
    for index, term in enumerate(_terms(rest.question.replace("+", " ")[10:-1]) if rest else []):
        value += int(term) + (10 if rng.random() < slip_rate else 0)
        lines.append(f"{'abcdefghij'[done + index]}{term}={f'{value:02d}'[::-1]}")
    return "\n".join(lines) + f">{f'{value:02d}'[::-1]}"


def referee_of(verifiers: Verifiers, *overrides: str) -> Referee:
    return Referee(load_settings(CONFIG, list(overrides)), verifiers)


def attempt_of(
    referee: Referee, text: str, task: Task = TASK, prefix: str = "", critique: str | None = None
) -> Attempt:
    sample = Sample(text[len(prefix) :], [1] * (len(text) - len(prefix)), [], False)
    solution, verdict = referee.read(task, sample, prefix)
    said = None
    if critique is not None:
        said = critique_dialect("chain").parse(critique, solution, truncated=False)
    return Attempt(task.id, task, prefix, solution, verdict, len(sample.token_ids), said)


def block_of(referee: Referee, critic: Solver | None, starts: Sequence[Start]) -> LearnerBlock:
    return LearnerBlock(referee, Solver(0.15), critic, starts, PLAN)


def samples_of(*texts: str) -> list[Sample]:
    return [Sample(text, [1] * len(text), [-0.1] * len(text), False) for text in texts]


class Judge(Solver):
    """A critic that is told how right to be, and whose training changes that.

    Args:
        right: whether it finds the flaw now.
        learns_to_be: what its training makes of it.
    """

    name = "critic"

    def __init__(self, right: bool, learns_to_be: bool) -> None:
        super().__init__()
        self.right, self.learns_to_be, self.age = right, learns_to_be, 0

    def sample(
        self,
        prompts: list[Prompt],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        return [samples_of(self._judge(str(prompt))) for prompt in prompts]

    def _judge(self, prompt: str) -> str:
        problem, _, text = prompt.removesuffix("\n!").partition("\n")
        solution = CHAIN.parse_solution(text, truncated=False)
        if not self.right:
            return f"{solution.steps[0].id}9=99.~9"
        task = sum_task(*[int(term) for term in re.findall("[0-9]+", problem)])
        return true_critique(task, solution, CHAIN, random.Random(0))

    def weights_copy(self) -> Weights:
        return {"right": self.right, "age": self.age}

    def put_back(self, weights: Weights) -> None:
        self.right, self.age = bool(weights["right"]), int(weights.get("age", 0))

    def imitate(self, *given: object) -> None:
        self.right, self.age = self.learns_to_be, self.age + 1

    def replies_per_block(self, steps: int) -> int:
        return 8 * steps


def bouts_judged_by(referee: Referee, critic: Judge) -> list[Bout]:
    """A right and a wrong solution of each of a dozen tasks, judged by the critic."""
    starts = [Start(sum_task(4, 1, 7, 6, term)) for term in range(12)]
    block = block_of(referee, critic, starts)
    texts = []
    for term in range(12):
        for value, text in ((18, RIGHT), (8, WRONG)):
            total = f"{value + term:02d}"[::-1]
            texts.append(f"{text.split('>')[0]}\ne{term}={total}>{total}")
    block([index // 2 for index in range(24)], samples_of(*texts))
    return block.bouts


def bouts_of(
    verifiers: Verifiers,
    *texts: str,
    overrides: Sequence[str] = (),
    critic: Solver | None = None,
    prefix: str = "",
) -> list[Bout]:
    block = block_of(referee_of(verifiers, *overrides), critic, [Start(TASK, prefix)])
    block([0] * len(texts), samples_of(*texts))
    return block.bouts
