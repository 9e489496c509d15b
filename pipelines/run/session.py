"""A run in progress: its parts, each of which `rl.py` calls by name, and what keeps them together.

The parts are built once and go on for the whole run, over processes too: each gives and takes a
`state_dict`, and a round's commit holds them all. Leaves out what the parts do (`game/`,
`training/`, `run/monitoring.py`) and how a run ends (`run/ending.py`).
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from accelerate import PartialState
from accelerate.utils import gather_object, set_seed
from tqdm import tqdm

from critic.monitor.replay import first_row
from critic.monitor.state import Health
from data.corpus import Corpus
from data.dedup import DuplicateIndex
from data.held_out import contamination_of, held_out_of
from data.records import Record
from pipelines.game.audit import load_audit, save_audit
from pipelines.game.bout import Bout, RoundPlan, Start
from pipelines.game.coverage import coverage
from pipelines.game.critic import CriticGame
from pipelines.game.examiner import Examiner, Probe
from pipelines.game.feedback import Feedback
from pipelines.game.gate import Gate
from pipelines.game.learner import LearnerGame
from pipelines.game.pool import Pool
from pipelines.game.proposer import Proposer
from pipelines.game.referee import Referee, verifiers_of
from pipelines.game.resets import Resets
from pipelines.policy.checkpoint import read_tensors, same_tensors, save_tensors
from pipelines.process import on_cpu
from pipelines.rollouts.ledger import Ledger
from pipelines.run.build import build_roles
from pipelines.run.changes import changes, in_words, record, with_first_context
from pipelines.run.checkpoints import Checkpoints, Part
from pipelines.run.checks import check_settings, prove_rewards
from pipelines.run.clock import Clock
from pipelines.run.counts import GateCounts, KeptCounts
from pipelines.run.directory import RunDirectory
from pipelines.run.facts import agreed, agreed_weights, take_learner_facts
from pipelines.run.last_lines import how_to_go_on
from pipelines.run.monitoring import Interventions, RunMonitor
from pipelines.run.progress import Progress
from pipelines.run.resumed import load_run
from pipelines.run.round_log import (
    RoundLog,
    Stages,
    cold_start_row,
    round_row,
    write_transcripts,
)
from pipelines.run.selection import Selection
from pipelines.run.tasks import run_tasks
from pipelines.run.told import LiveReport, tell_failure
from pipelines.settings.tables import Settings

NUM_AUDITED_TASKS = 48  # before the first round; one after a round has some 16


class Run:
    """A run's parts; a context that records in status.json however it ends.

    Args:
        settings: the run's configuration.
        resume: continue after the last complete round instead of starting.
        progress: is told what goes on.

    Raises:
        UserError: a user's mistake; nothing of the run has been written then.
    """

    def __init__(self, settings: Settings, resume: bool, progress: Progress | None = None) -> None:
        progress = progress or Progress()
        progress.begin("checking the configuration and reading the tasks")
        check_settings(settings)
        self.settings, self.resuming = settings, resume
        self.processes = PartialState(cpu=on_cpu())
        self.directory = RunDirectory(settings.run.directory, self.processes)
        self.checkpoints = Checkpoints(self.directory.path / "checkpoints", self.processes)
        self.referee = Referee(settings, verifiers_of(settings.rewards))
        earlier = load_run(settings.run.directory) if resume else settings
        self.changed = changes(earlier, settings)
        self.tasks = run_tasks(settings, self.referee, with_first_context(settings, self.changed))
        self.curriculum, held_out = self.tasks.curriculum, self.tasks.held_out
        set_seed(settings.run.seed)
        progress.now("proving the verifiers")
        self.proofs = prove_rewards(settings, self.referee.verifiers, held_out.all())
        self.stages, self.clock = Stages(progress.now), Clock(settings.run.max_seconds)
        self.round_log = RoundLog(self.directory, self.stages, progress)
        progress.begin("loading the models and starting their engines")
        with self.stages.timed("engines"):
            self.roles = build_roles(settings, self.round_log.note, self.tasks)
        learner, critic = self.roles.learner, self.roles.critic
        self.tasks_per_round = learner.prompts_per_block(settings.learner.steps_per_round)
        self.tasks.check_round(self.tasks_per_round)
        self.pool = Pool(
            self.directory.path / "pool", critic, save_tensors, read_tensors, same_tensors,
            settings.pointing.meta_checks, settings.critic.pool_every, self.roles.auditor,
            self.processes.is_main_process,
        )  # fmt: skip
        self.learner_game = LearnerGame(
            self.referee, learner, critic, gather_object, self.pool, self.round_log.remark
        )
        self.critic_game = CriticGame(self.referee, critic, self.round_log.remark, agreed)
        self.resets = Resets(settings.pointing, settings.run.seed)
        self.examiner = Examiner(self.referee, learner, critic, held_out, gather_object, self.pool)
        self.monitor = RunMonitor(settings.monitor, critic_works=settings.critic_works)
        self.interventions = Interventions()
        self.selection = Selection(self.examiner, self.tasks.selection, self.round_log, settings)
        kept_out = [*held_out.all(), *self.tasks.selection]
        held_out_ids, remark = [task.id for task in kept_out], self.round_log.remark
        self.feedback = Feedback(self.referee, learner, held_out_ids, gather_object, remark)
        self.proposer = Proposer(
            self.referee, learner, self.curriculum, kept_out, gather_object, remark
        )
        self.gate = Gate(contamination_of(held_out_of(self.curriculum.source, kept_out)))
        self.gate_counts, self.tokens = GateCounts(), KeptCounts()
        self.corpus = Corpus(self.directory.path / "corpus")
        self.ledger: Ledger | None = None
        self.round = self.next_round = 0
        self.live_report = LiveReport(self.directory.path)
        self._begun = False  # whether anything was written

    def parts(self) -> dict[str, Part]:
        """What a commit holds beside the roles, the corpus and the ledger."""
        asked: dict[str, Part] = {"feedback": self.feedback} if self.settings.feedback.steps else {}
        asked |= {"proposer": self.proposer} if self.settings.proposer.steps else {}
        return asked | {
            "curriculum": self.curriculum,
            "critic_game": self.critic_game,
            "resets": self.resets,
            "monitor": self.monitor,
            "interventions": self.interventions,
            "gate_counts": self.gate_counts,
            "tokens": self.tokens,
            "stages": self.stages,
            "clock": self.clock,
        }

    # -- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def start(self) -> None:
        """Begin, or continue after the last complete round; evaluates the cold start."""
        last = self.checkpoints.last_round() if self.resuming else None
        moved = list[str]()
        if last is not None:  # before anything is written: this version may be unable to go on
            moved = self.checkpoints.restore(last, self.roles.named(), self.parts())
            self._load_audit_set()
            self.next_round = last + 1
        if self.resuming and self.directory.is_main:  # before the settings there are replaced
            record(self.directory.path, self.next_round, self.changed)
        self.directory.create(self.settings)
        self._begun = True
        self.round_log.show_proofs(self.proofs)
        self.ledger = Ledger(self.directory.ledger)
        self.ledger.take_back(self.next_round)
        for role in self.roles.named().values():
            role.sampler.ledger = self.ledger
        self.directory.drop_rows_from(self.next_round)
        self.directory.start_trackers(self.settings)
        self._tell_changes(moved)
        self.pool.drop_from(self.next_round)
        self.checkpoints.point_to_best(self.selection.best())
        if self.directory.is_main:  # the open round's records, if it got as far as that
            self.corpus.drop_rounds(after=self.next_round - 1)
        self.directory.status("running", round=self.next_round, next=self._go_on())
        self.tasks.announce(self.directory, self.round_log.announce)
        if self.next_round == 0:
            self.pool.begin()
            self._evaluate_cold_start()  # every process waits there: all see the pool's files
            self._load_audit_set()
            self._read_cold_start()
            self._audit_trust()

    def _tell_changes(self, moved: Sequence[str]) -> None:
        """Say what this resumption changes, and what each change means."""
        self.round_log.begin(self.next_round)
        for line in [*in_words(self.changed), *moved]:
            self.round_log.announce(line)

    def _load_audit_set(self) -> None:
        self.examiner.audited = load_audit(self.directory.path / "audit.json", self.referee)

    def _evaluate_cold_start(self) -> None:
        self.round_log.progress.begin("evaluating the start: before any training")
        with self.stages.timed("evaluate before"):
            found = self.examiner.evaluate("before", draws_audit_set=True)
            if self.directory.is_main:
                save_audit(self.directory.path / "audit.json", self.examiner.audited)
            self.processes.wait_for_everyone()
        self.directory.write_json("before.json", found)

    def _read_cold_start(self) -> None:
        """Read what every later round is compared with, and say what the probe can see."""
        with self.stages.timed("evaluate before"):
            probe = self.examiner.before()
            evaluation = self.selection.before()
        self.directory.log(cold_start_row(probe, self.monitor.begin(probe)) | evaluation)
        self.round_log.announce(self.monitor.power(probe))

    def _audit_trust(self) -> None:
        """Learn how far to trust the first round's critic, where anything follows from it."""
        if not self.critic_game.asks_trust:
            return
        with self.stages.timed("probe and audit"):
            tasks = self.curriculum.draw(0, min(NUM_AUDITED_TASKS, self.tasks_per_round))
            self.critic_game.audit_before(tasks, self.interventions.plan(0, self.settings))

    def rounds(self) -> Iterator[RoundPlan]:
        """The plans of the rounds still to play, each made when its round begins."""
        assert self.ledger is not None, "start() comes first"
        total = self.settings.run.rounds
        remaining = range(self.next_round, total)
        hidden = not (self.directory.is_main and sys.stderr.isatty())  # a log has lines enough
        for round_ in tqdm(
            remaining, desc="rounds", disable=hidden, initial=self.next_round, total=total
        ):
            if agreed(self.clock.is_over()):
                break
            self.round = self.ledger.round = round_
            self.round_log.begin(round_)
            plan = self.interventions.plan(round_, self.settings)
            yield self.critic_game.what_counts(plan, agreed)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.directory.trackers.finish()
            self.referee.verifiers.close()
            self.roles.close()
        finally:
            if error is not None and self._begun:
                self._record(error)

    def _record(self, error: BaseException) -> None:
        """Say how the run ended, whatever else fails on the way out."""
        if self.ledger is not None:
            self.ledger.discard_open(f"{type(error).__name__} ended the run")
        last = self.checkpoints.last_in_words()
        tell_failure(self.directory, error, self.round, last, self._go_on())

    def _go_on(self) -> str:
        """What to type where the run ends here."""
        last = self.checkpoints.last_round()
        return how_to_go_on(self.settings, 0 if last is None else last + 1)

    # -- a round ----------------------------------------------------------------------------------

    def archive(self) -> DuplicateIndex:
        """Everything admitted before this round, to find duplicates among."""
        return DuplicateIndex(self.corpus.records(before=self.round))

    def recent(self) -> Iterator[Record]:
        """What was admitted before this round and may still be fed back."""
        since = self.round - self.settings.feedback.max_age_rounds
        return self.corpus.records(before=self.round, since=since)

    def commit(
        self,
        plan: RoundPlan,
        bouts: Sequence[Bout],
        records: Sequence[Record],
        probe: Probe,
        health: Health,
        evaluation: dict[str, object],
    ) -> None:
        """Admit records, carry out the monitor's orders, and write one atomic checkpoint."""
        accepted = [record for record in records if record.accepted]
        self.gate_counts.count(records)
        with self.stages.timed("commit"):
            if self.directory.is_main:
                self.corpus.admit(accepted)
                write_transcripts(self.directory.path, plan.round, bouts)
            self.curriculum.learn_from(bouts)
            learner, first_bad_step = self.roles.learner, self.referee.first_bad_step
            self.resets.collect(bouts, learner.sampler.version, first_bad_step)
            self.interventions.note_check(plan.round, self.monitor.is_clean)
            self.interventions.apply(
                health.actions, learner, self.curriculum, self.restore_critic, plan.round
            )
            if any(action.kind == "verified_only" for action in health.actions):
                self.round_log.announce(self.interventions.restriction())
            facts = agreed_weights(self.roles) | coverage(self.referee, bouts) | evaluation
            facts |= self.critic_game.trust.row() if self.critic_game.asks_trust else {}
            self.log_round(plan, probe, health, records, facts)
            self.pool.after(plan.round)
            kept, best = self.monitor.kept_rounds(), self.selection.best()
            self.checkpoints.commit(plan.round, self.roles.named(), self.parts(), kept, best)
        facts = {"round": plan.round + 1, "monitor": health.state, "next": self._go_on()}
        self.directory.status("running", **facts)
        if self.directory.is_main:
            self.live_report.after_round()

    def restore_critic(self, round_: int) -> None:
        """Give the critic the weights that it had after an earlier round."""
        self.roles.critic.put_back(self.checkpoints.weights(round_, "critic"))

    def log_round(
        self,
        plan: RoundPlan,
        probe: Probe,
        health: Health,
        records: Sequence[Record],
        facts: dict[str, object],
    ) -> None:
        """Append the round's row to the metrics."""
        row = {"run/seconds": round(self.clock.seconds(), 1)}
        row |= round_row(plan.round, probe, health, self.monitor.history[-1], records)
        row |= first_row(self.monitor.first)
        row |= take_learner_facts(self.roles.learner) | self.feedback.row | self.proposer.row
        row |= self.critic_game.recorded_row
        row["critic/too_long"] = sum(gather_object([self.referee.take_num_too_long()]))
        if (epochs := self.curriculum.epochs()) is not None:
            row["tasks/epochs"] = epochs
        self._count_tokens()
        row |= {f"tokens/{what}": num for what, num in sorted(self.tokens.items())}
        times = {f"time/{name}": spent for name, spent in self.stages.take_round().items()}
        self.directory.log(row | times | facts)

    def starts(self, plan: RoundPlan) -> list[Start]:
        """The round's fresh tasks, a share of them replaced by states that wait."""
        tasks = self.curriculum.draw(plan.round, self.tasks_per_round)
        starts = self.resets.starts(tasks, plan.round, self.roles.learner.sampler.version)
        starts = self.proposer.place(self.feedback.revisit(starts, self.recent(), plan))
        return self.curriculum.begin(starts)

    def _count_tokens(self) -> None:
        """Add what all processes generated for training since the last call."""
        games = (self.learner_game, self.critic_game, self.proposer)
        own = sum((game.spent for game in games), Counter[str]())
        for game in games:
            game.spent = Counter()
        for spent in gather_object([own]):
            self.tokens.update(spent)
