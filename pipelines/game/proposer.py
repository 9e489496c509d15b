"""The proposer: the learner writes tasks, and is paid for those that it solves half the time.

    prompts -> proposals -> read, valid, new -> solved by the learner -> paid 1 - |2 p - 1|
    those of a middling pass rate p wait -> take the place of a share of the round's fresh tasks

The reward is R-Zero's (arXiv:2508.05004), of a p that a rule measures where there is one. A
proposal is new if it is no spelling of a task that was shown for it, played, proposed before, or
held out; copies within a process's batch share what one would earn. Its hash must put it into the
train split, as it does every task. Leaves out how proposals are read and worked out
(`rewards/proposals.py`) and how a block is trained (a `Player` does that).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from data.records import Generator, Task, VerifierName, make_task
from pipelines.game.bout import RoundPlan, Start
from pipelines.game.curriculum import Curriculum
from pipelines.game.referee import Referee
from pipelines.game.resets import spread
from pipelines.rollouts.sample import Player, Prompt, Sample, Scored
from rewards.arithmetic import evaluate, plain_number
from rewards.dialect import Dialect
from rewards.proposals import proposal_key, proposal_prompt, read_proposal, worked_answer
from rewards.verdict import Verdict

FAMILY = "proposed"
AGREED = "proposer (agreement)"
Gather = Callable[[list["Judged"]], list["Judged"]]


@dataclass(frozen=True)
class Judged:
    """One completion of the proposer.

    Attributes:
        question: "" where none could be read.
        answer: by rule, or what the most solvers say; "" where there is none.
        fault: "unreadable", "invalid", "known" or ""; faulty ones earn nothing.
        rate: the share of the solvers that pass; None where nobody was asked.
        weights_hash: of the learner that wrote it.
    """

    question: str
    answer: str
    fault: str
    rate: float | None
    weights_hash: str


def is_by_agreement(task: Task) -> bool:
    """Whether a task's answer is what most solvers said: nobody knows whether it is right."""
    return task.generator.name == AGREED


def pay(rate: float) -> float:
    """What a valid, new proposal earns: 1 where half of its solutions pass, 0 where all or none."""
    return 1 - abs(2 * rate - 1)


class Proposer:
    """The learner's blocks of proposals, and the proposals that wait to be played.

    Args:
        referee: writes prompts and judges solutions.
        learner: writes and solves.
        curriculum: whose tasks show what is asked for.
        held_out: the tasks that measure.
        gather: the lists of all processes in one, given one's own.
        remark: receives what a reader of the run should know.

    Attributes:
        row: the round's figures, as metrics.
        waiting: proposals to be played, the oldest first.
        seen: keys of every task that was shown for a proposal, played, or proposed and valid.
        spent: tokens that this process generated since they were last taken, by what for.
    """

    def __init__(
        self,
        referee: Referee,
        learner: Player,
        curriculum: Curriculum,
        held_out: Collection[Task],
        gather: Gather = list,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.referee, self.learner, self.curriculum = referee, learner, curriculum
        self.gather, self.remark = gather, remark
        self.table = referee.settings.proposer
        self.held_out = frozenset(self.key(task.question) for task in held_out)
        self.row = dict[str, object]()
        self.waiting = list[Judged]()
        self.seen = set[str]()
        self.spent: Counter[str] = Counter()

    def train(self, plan: RoundPlan) -> None:
        """Take the round's steps of proposing; what may be played then waits."""
        self.row = {}
        if self.table.steps == 0:
            return
        prompts = self._prompts(plan)
        block = ProposalBlock(self, plan)
        self.learner.play(prompts, block, f"{plan.purpose}/proposals", "proposals")
        found = self.gather(block.judged)
        fresh = self._new(found)
        least = self.table.least_rate
        kept = [one for one in fresh if least <= (one.rate or 0.0) <= 1 - least]
        self.waiting = [*self.waiting, *kept][-self.table.max_waiting :]
        self.row = figures(found) | {
            "proposer/kept": len(kept), "proposer/waiting": len(self.waiting),
        }  # fmt: skip
        if not fresh:
            self.remark(f"no new, valid task among {len(found)} proposals")

    def place(self, starts: Sequence[Start]) -> list[Start]:
        """A round's starts, a share of them replaced by the proposals that wait longest.

        Those that begin within a solution stay. What is played is known from then on.
        """
        found = list(starts)
        if self.table.steps:
            fresh = [place for place, start in enumerate(starts) if not start.prefix]
            num = min(round(self.table.share * len(starts)), len(self.waiting), len(fresh))
            taken, self.waiting = self.waiting[:num], self.waiting[num:]
            for place, one in zip(spread(num, len(fresh)), taken, strict=True):
                found[fresh[place]] = Start(self.task(one))
            self.seen |= self._keys(start.task.question for start in found)
            self.row["proposer/played"] = num
        return found

    def task(self, one: Judged) -> Task:
        """The task of a proposal."""
        return proposed_task(one, self.referee.dialect, self.table.validity == "rule")

    def _prompts(self, plan: RoundPlan) -> list[Prompt]:
        """Each with examples of its own, which its proposal must differ from."""
        num = self.learner.prompts_per_block(self.table.steps)
        dialect = self.referee.dialect
        if not dialect.conversational:
            return [proposal_prompt(dialect, ())] * num
        tasks = self.curriculum.draw(plan.round, num * self.table.examples)
        self.seen |= self._keys(task.question for task in tasks)
        questions = [task.question for task in tasks]
        return [
            [{"role": "user", "content": proposal_prompt(dialect, questions[place::num])}]
            for place in range(num)
        ]

    def _new(self, found: Sequence[Judged]) -> list[Judged]:
        """The good ones, each once; they are known from now on."""
        fresh: dict[str, Judged] = {}
        for one in found:
            if not one.fault:
                fresh.setdefault(self.key(one.question), one)
        self.seen |= fresh.keys()
        return list(fresh.values())

    def key(self, question: str) -> str:
        """What tells it from another one; of one that the dialect cannot pose, its text."""
        return proposal_key(self.referee.dialect, question) or question

    def _keys(self, questions: Iterable[str]) -> set[str]:
        return {self.key(question) for question in questions}

    def is_known(self, question: str) -> bool:
        """Whether it is a spelling of a task that is held out, or is no longer new."""
        key = self.key(question)
        return key in self.seen or key in self.held_out

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return {"waiting": [asdict(one) for one in self.waiting], "seen": sorted(self.seen)}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.waiting = [Judged(**one) for one in state["waiting"]]
        self.seen = set(state["seen"])


def proposed_task(one: Judged, dialect: Dialect, by_rule: bool) -> Task:
    """The task of a proposal: `math` judges it, or `exact` where the dialect is a chain."""
    verifier: VerifierName = "math" if dialect.conversational else "exact"
    rate = "" if one.rate is None else f"pass rate {one.rate:.3f}"
    name = "proposer (rule)" if by_rule else AGREED
    made = Generator(name=name, version=one.weights_hash, seed=0, difficulty=rate)
    return make_task(
        family=FAMILY, question=one.question, reference=one.answer, verifier=verifier,
        generator=made, shown=dialect.shown,
    )  # fmt: skip


@dataclass
class ProposalBlock:
    """One block's scorer: reads proposals, has the learner solve them, and pays.

    Attributes:
        judged: those scored so far, of this process.
        paid: keys of its good ones in earlier batches, which are not new.
    """

    proposer: Proposer
    plan: RoundPlan
    judged: list[Judged] = field(default_factory=list)
    paid: set[str] = field(default_factory=set)

    def __call__(self, indices: Sequence[int], samples: Sequence[Sample]) -> list[Scored]:
        """Score completions; the `Scorer` of the learner's block."""
        found = [self._read(sample) for sample in samples]
        key, asked = self.proposer.key, dict[str, Judged]()
        for one in found:
            if not one.fault:
                asked.setdefault(key(one.question), one)
        solved = self._solved(asked)
        found = [one if one.fault else solved[key(one.question)] for one in found]
        copies = Counter(key(one.question) for one in found if not one.fault)
        self.paid |= copies.keys()
        self.judged += found
        self.proposer.spent["proposals"] += sum(len(sample.token_ids) for sample in samples)
        return [
            Scored(0.0 if one.fault else pay(one.rate or 0.0) / copies[key(one.question)])
            for one in found
        ]

    def _read(self, sample: Sample) -> Judged:
        """What a completion proposes, before anybody has tried it."""
        proposer = self.proposer
        dialect, by = proposer.referee.dialect, sample.weights_hash
        question = None if sample.truncated else read_proposal(dialect, sample.text)
        if question is None:
            return Judged("", "", "unreadable", None, by)
        answer = worked_answer(dialect, question) or ""
        by_rule = proposer.table.validity == "rule"
        if proposal_key(dialect, question) is None or (by_rule and not answer):
            return Judged(question, "", "invalid", None, by)
        answer = answer if by_rule else ""
        one = Judged(question, answer, "", None, by)
        task = proposer.task(one)
        known = task.split != "train" or proposer.is_known(question)
        known = known or proposer.key(question) in self.paid
        length = proposer.learner.prompt_length(proposer.referee.problem(task))
        if not proposer.referee.leaves_room(length):
            return Judged(question, answer, "invalid", None, by)
        return Judged(question, answer, "known", None, by) if known else one

    def _solved(self, asked: Mapping[str, Judged]) -> dict[str, Judged]:
        """Each question, by its key, with its pass rate, or what is wrong with it after all."""
        proposer = self.proposer
        tasks = [proposer.task(one) for one in asked.values()]
        prompts = [proposer.referee.problem(task) for task in tasks]
        purpose = f"{self.plan.purpose}/{proposer.learner.num_steps}/solvers"
        drawn = proposer.learner.sample(prompts, purpose, proposer.table.solvers) if tasks else []
        proposer.spent["solvers"] += sum(len(s.token_ids) for group in drawn for s in group)
        read = proposer.referee.read_all(
            [(t, sample, "") for t, group in zip(tasks, drawn, strict=True) for sample in group]
        )
        num, found = proposer.table.solvers, dict[str, Judged]()
        for place, (key, one) in enumerate(asked.items()):
            solutions = read[place * num : (place + 1) * num]
            if proposer.table.validity == "rule":
                rate = share_of_passed([verdict for _, verdict in solutions])
                answer, fault = one.answer, "" if rate is not None else "invalid"
            else:
                answer, rate = agreed([solution.answer for solution, _ in solutions])
                fault = "" if answer and rate >= proposer.table.agreement else "invalid"
            found[key] = Judged(one.question, answer, fault, rate, one.weights_hash)
        return found


def share_of_passed(verdicts: Sequence[Verdict]) -> float | None:
    """Of the solutions that were judged; None if none was."""
    counted = [verdict.passed for verdict in verdicts if verdict.counted]
    return sum(counted) / len(counted) if counted else None


def agreed(answers: Sequence[str | None]) -> tuple[str, float]:
    """The commonest answer, and the share of all solutions that give it; the first of equals."""
    counts = Counter(_plain(answer) for answer in answers if answer)
    if not counts:
        return "", 0.0
    answer, count = counts.most_common(1)[0]
    return answer, count / len(answers)


def _plain(answer: str) -> str:
    """A number as it is always written; other text without its margins."""
    value = evaluate(answer.strip(" $."))
    return answer.strip() if value is None else plain_number(value)


def figures(found: Sequence[Judged]) -> dict[str, object]:
    """What a block proposed, as metrics: shares of its completions, and the mean pass rate."""
    faults = Counter(one.fault or "good" for one in found)
    rates = [one.rate for one in found if not one.fault and one.rate is not None]
    row: dict[str, object] = {"proposer/written": len(found)}
    for fault in ("good", "unreadable", "invalid", "known"):
        row[f"proposer/{fault}"] = faults[fault] / max(1, len(found))
    good = [one.question for one in found if not one.fault]
    row["proposer/distinct"] = len(set(good)) / max(1, len(good))
    if rates:
        row["proposer/pass_rate"] = sum(rates) / len(rates)
    return row
