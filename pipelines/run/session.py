"""One run's parts held together: what `rl.py`'s loop calls, each a few lines on the real part."""

import json
import math
import random
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Self

from accelerate import PartialState
from accelerate.utils import gather_object, set_seed
from tqdm import tqdm

from critic.monitor.incident import incident_markdown, incident_record
from critic.monitor.state import Health, MonitorState
from data.atomic import write_text_atomic
from data.contamination import Contamination
from data.corpus import Corpus
from data.dedup import DuplicateIndex
from data.records import Record, Task
from pipelines.game.audit import audit_critic, audit_set, load_audit, save_audit
from pipelines.game.bout import Bout, CritiqueItem
from pipelines.game.critic import CriticGame
from pipelines.game.curriculum import Curriculum, build_source
from pipelines.game.evaluation import Evaluation, mean_at_k, play_unrewarded, probe_nll
from pipelines.game.gate import Gate, reject_counts
from pipelines.game.learner import LearnerGame
from pipelines.game.referee import Judging
from pipelines.policy.tensors import weights_hash
from pipelines.process import on_cpu
from pipelines.report.write import write_report
from pipelines.rollouts.ledger import Ledger, balance
from pipelines.run import round_log as outcome
from pipelines.run import summary as run_summary
from pipelines.run.build import build_roles
from pipelines.run.checks import check_launch, check_settings
from pipelines.run.directory import RunDirectory
from pipelines.run.monitoring import Guard, Knobs, Probe, apply_actions
from pipelines.settings.tables import Settings
from rewards.verifiers import Verifiers


class Session:
    """A run in progress; a context that records in status.json however it ends.

    Args:
        settings: the run's configuration.
        resume: continue after the last complete round instead of starting.

    Raises:
        UserError: a user's mistake; nothing has been written then.
    """

    def __init__(self, settings: Settings, resume: bool) -> None:
        check_launch(settings)
        check_settings(settings)
        self.settings, self.resuming, self.started = settings, resume, time.perf_counter()
        self.processes = PartialState(cpu=on_cpu())
        self.files = RunDirectory(settings.run.directory, self.processes)
        self.ledger: Ledger | None = None
        if not resume:
            self.files.refuse_existing()
        self.curriculum = Curriculum(build_source(settings), settings.run.seed)
        sizes = settings.evaluate
        self.test_tasks = self.curriculum.held_out("test", sizes.num_tasks)
        self.probe_tasks = self.curriculum.held_out("probe", sizes.num_probe_tasks)
        self.audit_tasks = self.curriculum.held_out("audit", sizes.num_audit_tasks)
        set_seed(settings.run.seed)
        self.judging = Judging(settings, Verifiers(settings.rewards.timeout_seconds))
        self.stages = outcome.Stages()
        with self.stages.timed("engines"):
            held_out = [*self.probe_tasks, *self.test_tasks, *self.audit_tasks]
            self.roles = build_roles(settings, self._on_step, held_out, self.judging)
        self._draw(0)  # a source too small for one round is refused before anything is written
        self.learner_game = LearnerGame(self.judging, self.roles.learner, self.roles.critic)
        self.critic_game = CriticGame(self.judging, self.roles.critic)
        self.guard, self.knobs = Guard(settings), Knobs(settings.rewards.critic_weight)
        self.gate = Gate(Contamination([task.question for task in held_out]))
        self.corpus = Corpus(self.files.path / "corpus")
        self.round, self.next_round, self.previous_nll = 0, 0, None
        self.seconds_before = 0.0
        self.token_entropies: list[float] = []
        self.gate_counts: Counter[str] = Counter()

    # -- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def start(self) -> None:
        """Begin, or continue after the last complete round; evaluates the cold start."""
        self.files.create(self.settings)
        if self.resuming and (last := self.files.last_round()) is not None:
            self._restore(self.files.restore(last, self.roles.named()))
            self.next_round = last + 1
        self.ledger = Ledger(self.files.ledger)
        self.ledger.take_back(self.next_round)
        for role in self.roles.named().values():
            role.ledger = self.ledger
        self.files.drop_rows_from(self.next_round)
        if self.files.is_main:
            self.corpus.drop_rounds(after=self.next_round - 1)  # the open round's, if it got there
        self.files.status("running", round=self.next_round)
        if self.next_round == 0:
            self._evaluate("before")
            self.previous_nll = probe_nll(self.judging, self.roles.learner, self.probe_tasks)
        self.audited = load_audit(self.files.path / "audit.json", self.judging)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.judging.verifiers.close()
            self.roles.close()
        finally:
            if error is not None:
                self._record(error)

    def _record(self, error: BaseException) -> None:
        """Say how the run ended, whatever else fails on the way out."""
        if self.ledger is not None:
            self.ledger.discard_open(f"{type(error).__name__} ended the run")
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self.files.record_failure(  # by whichever process it was that failed
            state,
            round=self.round,
            error=f"{type(error).__name__}: {error}",
            continue_with=f"--resume {self.files.path}",
            last_checkpoint=self.files.last_checkpoint(),
            traceback="".join(traceback.format_exception(error)),
        )

    def remaining_rounds(self) -> Iterator[int]:
        """The rounds still to play."""
        total = self.settings.run.rounds
        rounds = range(self.next_round, total)
        for round_ in tqdm(
            rounds,
            desc="rounds",
            disable=not self.files.is_main,
            initial=self.next_round,
            total=total,
        ):
            if self._out_of_time():
                break
            self.round, self.ledger.round, self.token_entropies = round_, round_, []
            self.roles.learner.step_weight = self._step_weight(round_)
            self.learner_game.critic_weight = self.knobs.critic_weight
            yield round_

    def _out_of_time(self) -> bool:
        """Whether `run.max_seconds` have passed on rank 0's clock, so that all processes agree."""
        limit = self.settings.run.max_seconds
        over = bool(limit) and time.perf_counter() - self.started > limit
        return gather_object([over])[0]

    def _step_weight(self, round_: int) -> float:
        """Alpha of the per-step advantages, decaying geometrically over the run (Tango)."""
        if self.knobs.critic_weight == 0:
            return 0.0
        table, total = self.settings.rewards, self.settings.run.rounds
        share = round_ / max(total - 1, 1)
        return (
            table.step_weight ** (1 - share) * table.step_weight_final**share
            if table.step_weight
            else 0.0
        )

    def _on_step(self, row: dict[str, object]) -> None:
        row = {"round": self.round, **row}
        self.files.log(row)
        if row["role"] == "learner":
            self.token_entropies.append(float(str(row.get("rollout/token_entropy", math.nan))))
        for key in ("generate", "sync", "verify", "critique", "update"):
            self.stages.add(f"{row['role']}: {key}", float(str(row.get(f"time/{key}", 0.0))))
        if self.files.is_main:
            tqdm.write(outcome.console_line(row))

    # -- the round ------------------------------------------------------------------------------

    def play_learner(self) -> list[Bout]:
        """The learner's block; bouts of all processes."""
        tasks = self._draw(self.round)
        with self.stages.timed("learner block"):
            bouts = self.learner_game.play(tasks, f"round {self.round}")
        return gather_object(bouts)

    def _draw(self, round_: int) -> list[Task]:
        num = self.roles.learner.prompts_per_block(self.settings.learner.steps_per_round)
        return self.curriculum.draw(round_, num)

    def play_critic(self, bouts: Sequence[Bout]) -> None:
        """The critic's block on those bouts and planted flaws."""
        steps = self.settings.critic.steps_per_round
        if steps == 0:
            return
        rng = random.Random(f"{self.settings.run.seed}/{self.round}")
        items: list[CritiqueItem] = self.critic_game.choose(
            bouts, self.roles.critic.prompts_per_block(steps), rng
        )
        if not items:  # nothing well-formed: the monitor must judge that, not an error
            self.files.log(
                {"kind": "note", "round": self.round, "note": "no critic block: no items"}
            )
            return
        with self.stages.timed("critic block"):
            self.critic_game.play(items, f"round {self.round}")

    def candidates(self, bouts: Sequence[Bout]) -> list[Record]:
        """Every bout as a record, accepted or with the reason why not."""
        with self.stages.timed("gate"):
            archive = DuplicateIndex(self.corpus.records(before=self.round))
            return self.gate(bouts, archive, self.round, self.roles.learner.temperature)

    def check(self, bouts: Sequence[Bout]) -> Health:
        """Probe, audit, and the monitor's verdict."""
        with self.stages.timed("probe and audit"):
            self.probe = self._probe()
        with self.stages.timed("monitor"):
            entropy = sum(self.token_entropies) / len(self.token_entropies)
            health = self.guard.check(bouts, entropy, self.probe, self.previous_nll)
        self.previous_nll = self.probe.nll
        return health

    def _probe(self) -> Probe:
        learner, purpose = self.roles.learner, f"probe {self.round}"
        groups = play_unrewarded(
            self.judging, learner, self.probe_tasks, self.settings.evaluate.num_samples, purpose
        )
        share = min(1.0, self.knobs.audit_factor * self.settings.evaluate.audit_share)
        audited = self.audited[: math.ceil(share * len(self.audited))]
        audit = audit_critic(self.judging, self.roles.critic, audited, purpose)
        probe = Probe(probe_nll(self.judging, learner, self.probe_tasks), mean_at_k(groups), audit)
        return gather_object([probe])[0]  # all processes must reach one verdict

    def admit_and_commit(
        self, bouts: Sequence[Bout], candidates: Sequence[Record], health: Health
    ) -> None:
        """Admit records, carry out the monitor's orders, and write one atomic checkpoint."""
        accepted = [record for record in candidates if record.accepted]
        self.gate_counts.update(admitted=len(accepted), **reject_counts(candidates))
        with self.stages.timed("commit"):
            if self.files.is_main:
                self.corpus.admit(accepted)
                outcome.write_transcripts(self.files.path, self.round, bouts)
            self.curriculum.learn_from(bouts)
            apply_actions(health.actions, self.knobs, self.roles.learner, self.curriculum)
            row = outcome.round_row(
                self.round,
                self.probe,
                health,
                self.guard.history[-1],
                candidates,
                self.roles.learner,
                self.stages,
            )
            self.files.log(row | self._agreed_weights())
            self.files.commit(
                self.round, self.roles.named(), self._state(), self.guard.state.last_clean_check
            )
        self.files.status("running", round=self.round + 1, monitor=health.state)

    def _agreed_weights(self) -> dict[str, object]:
        """Both policies' weights hashes, one a process; they must be equal on all of them."""
        facts: dict[str, object] = {"run/world_size": self.processes.num_processes}
        for prefix, role in (("policy", self.roles.learner), ("critic", self.roles.critic)):
            hashes = gather_object([weights_hash(role.policy)])
            if len(set(hashes)) > 1:
                raise RuntimeError(f"processes hold different {role.name} weights: {hashes}")
            facts[f"{prefix}/weights_hash"] = hashes
        return facts

    # -- the end --------------------------------------------------------------------------------

    def halt(self, health: Health, bouts: Sequence[Bout]) -> None:
        """Quarantine what came after the last clean check, and leave an incident record."""
        clean = self.guard.state.last_clean_check
        selected = "the cold start" if clean is None else str(self.files.checkpoint(clean))
        self.files.status(  # first: whatever happens next, nobody continues a halted run
            "halted", round=self.round, selected_checkpoint=selected, reasons=list(health.reasons)
        )
        if self.files.is_main:
            self.corpus.drop_rounds(after=-1 if clean is None else clean)
            worst = sorted(bouts, key=lambda bout: bout.verdict.passed)
            samples = [outcome.transcript(bout) for bout in worst]
            record = incident_record(
                health, self.guard.state, self.guard.history, samples, self.settings.monitor
            )
            self.files.write_json("incident.json", record)
            write_text_atomic(self.files.path / "incident.md", incident_markdown(record))
        row = outcome.round_row(
            self.round,
            self.probe,
            health,
            self.guard.history[-1],
            [],
            self.roles.learner,
            self.stages,
        )
        self.files.log(row)
        if self.files.is_main:
            write_report(self.files.path)
            print(f"halted by the monitor at round {self.round}: {'; '.join(health.reasons[:3])}")
            print(f"selected checkpoint: {selected}; see {self.files.path / 'incident.md'}")

    def finish(self) -> None:
        """Evaluate the end, write the report, and print the table."""
        self._evaluate("after")
        balances = gather_object([balance(self.files.ledger)])  # one a process
        groups = {fate: sum(each[fate] for each in balances) for fate in balances[0]}
        assert groups["open"] == 0, f"{groups['open']} groups were drawn and lost: {balances}"
        if self.files.is_main:
            summary = run_summary.summary(
                self.files.path,
                self.files.rows(),
                self.stages,
                self.gate_counts,
                self.guard.state.level,
                self._seconds(),
            )
            summary["groups"] = groups
            self.files.write_json("summary.json", summary)
            self.files.status("finished", round=self.round, monitor=self.guard.state.level)
            write_report(self.files.path)
            print(run_summary.table(summary, self.files.path))

    def _evaluate(self, when: str) -> Evaluation:
        """mean@k on the test split and the critic's audit; "before" also draws the audit set."""
        learner, sizes = self.roles.learner, self.settings.evaluate
        with self.stages.timed(f"evaluate {when}"):
            evaluation = mean_at_k(
                play_unrewarded(self.judging, learner, self.test_tasks, sizes.num_samples, "test")
            )
            if when == "before":
                groups = play_unrewarded(self.judging, learner, self.audit_tasks, 2, "audit")
                self.audited = audit_set(
                    self.judging, gather_groups(groups), self.settings.run.seed
                )
                if self.files.is_main:
                    save_audit(self.files.path / "audit.json", self.audited)
                self.processes.wait_for_everyone()
            audit = audit_critic(self.judging, self.roles.critic, self.audited, when)
        parts = {
            "evaluation": asdict(evaluation),
            "audit": None if audit is None else asdict(audit),
        }
        self.files.write_json(f"{when}.json", parts)
        return evaluation

    # -- state ----------------------------------------------------------------------------------

    def _state(self) -> dict[str, object]:
        return {
            "knobs": asdict(self.knobs),
            "monitor": json.loads(self.guard.state.model_dump_json()),
            "history": self.guard.history,
            "previous_nll": self.previous_nll,
            "gate_counts": dict(self.gate_counts),
            "retired": sorted(self.curriculum.retired),
            "class_share": self.critic_game.weights.sound_share,
            "stages": dict(self.stages.seconds),
            "seconds": self._seconds(),
        }

    def _seconds(self) -> float:
        """Wall-clock seconds of the run, earlier processes' rounds included."""
        return self.seconds_before + time.perf_counter() - self.started

    def _restore(self, state: dict) -> None:
        self.knobs = Knobs(**state["knobs"])
        self.guard.state = MonitorState.model_validate_json(json.dumps(state["monitor"]))
        self.guard.history, self.previous_nll = state["history"], state["previous_nll"]
        self.gate_counts = Counter(state["gate_counts"])
        self.curriculum.retired, self.curriculum.retiring = (
            set(state["retired"]),
            self.knobs.retiring,
        )
        self.critic_game.weights = type(self.critic_game.weights)(sound_share=state["class_share"])
        self.stages.restore(state["stages"])
        self.seconds_before = state["seconds"]


def gather_groups(groups: list[list[Bout]]) -> list[list[Bout]]:
    """Rank 0's groups on every rank, so that all agree on one audit set."""
    return gather_object([groups])[0]
