"""Guards a training run that is not ours: a plain `TrainerCallback` for trl's and transformers'.

    guard = EntropyMonitorCallback(gold, check, "runs/guard")   # gold: rows with a "prompt"
    trainer.add_callback(guard)
    trainer.train()

    on_train_begin   the gold tasks are sampled: what every later check is compared with
    on_step_end      every so many steps they are sampled again and judged
                     (`critic/monitor/decide.py`): ok, warn, intervene or halt
    halt             training stops; the newest checkpoint that is not younger than the last clean
                     check is named, and restored if asked

The rows in DIRECTORY/metrics.jsonl are those of a run of ours, so that `replay` and the report read
them. It changes nothing else of the run, whose settings are the user's: `intervene` only says so.
Leaves out models whose weights are spread over processes (FSDP, DeepSpeed), which it refuses.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from critic.monitor.decide import begin, check, wants_more
from critic.monitor.power import power_line
from critic.monitor.readings import NUM_START, Reading
from critic.monitor.replay import replayed
from critic.monitor.settings import FOREIGN_SWING, GOLD, MonitorSettings
from critic.monitor.state import Health, MonitorState
from data.errors import UserError
from pipelines.guard.gold import Answer, Check, Found, GoldProbe, Row, reward_reading, whole_text
from pipelines.guard.log import GuardLog
from pipelines.guard.weights import clean_checkpoint, put_back, saved_steps

T = TypeVar("T")
SPREAD = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class EntropyMonitorCallback(TrainerCallback):
    """Stops a run whose samples stop bringing anything new and begin to reinforce errors.

    Args:
        gold: rows that the run is not trained on, each with a "prompt" as in TRL's data sets and
            perhaps a right "completion"; some 64 of them.
        check: whether a completion of a row is right; None where it cannot say.
        directory: where the log and the incident record go; of this run alone.
        every: optimizer steps between two checks.
        num_samples: completions per gold task and check.
        max_new_tokens: of a completion.
        answer: the answer that a completion gives, None where it gives none; by default all of it.
        reward_span: what a right solution earns beyond a wrong one. The logged "reward" is judged
            in units of it, and not at all without: a reward that also pays for form rises without
            accuracy.
        max_share: of the run's seconds that checks may take; a check is put off to a later multiple
            of `every` rather than go beyond it.
        saves: whether the trainer saves a checkpoint at each clean check.
        restore: whether a halted run's model gets the weights of its last clean checkpoint.
        settings: thresholds; without, the defaults with a larger `swing`.
        batch_size: completions that are sampled at a time.
        seed: of the samples.

    Attributes:
        health: the last verdict; None before the first check.
        selected_checkpoint: of a halted run, the one to go on with; None where there is none.
    """

    def __init__(
        self,
        gold: Sequence[Row],
        check: Check,
        directory: str | Path,
        *,
        every: int = 10,
        num_samples: int = 4,
        max_new_tokens: int = 256,
        answer: Answer = whole_text,
        reward_span: float | None = None,
        max_share: float = 0.2,
        saves: bool = True,
        restore: bool = False,
        settings: MonitorSettings | None = None,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        if every < 1 or not 0 < max_share <= 1 or (reward_span is not None and reward_span <= 0):
            raise UserError("every must be at least 1, max_share in (0, 1], reward_span positive")
        rows = list(gold)
        self.probe = GoldProbe(rows, check, answer, num_samples, max_new_tokens, batch_size, seed)
        self.every, self.max_share, self.reward_span = every, max_share, reward_span
        self.saves, self.restore = saves, restore
        self.settings = guard_settings(settings, self.probe.scores_gold, reward_span is not None)
        self.log = GuardLog(Path(directory))
        self.state = MonitorState()
        self.health: Health | None = None
        self.selected_checkpoint: Path | None = None
        self._steps: list[int] = []  # at which each check stood
        self._saved: list[int] = []
        self._rewards: list[float] = []
        self._probing = self._last_cost = 0.0
        self._started = time.perf_counter()

    @property
    def halted(self) -> bool:
        """Whether the monitor stopped the run."""
        return self.state.level == "halt"

    # -- events ---------------------------------------------------------------------------------

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        processing_class: PreTrainedTokenizerBase,
        **_: object,
    ) -> None:
        """Read what later checks are compared with, or go on where a checkpoint was saved."""
        if PartialState().distributed_type in SPREAD:
            raise UserError(
                "the monitor samples the model in one process: a model whose weights are spread "
                f"({PartialState().distributed_type.value}) cannot be guarded yet"
            )
        self._started, self._saved = time.perf_counter(), []
        rows = self._on_main(lambda: self.log.open(state.global_step))
        self.log.status("running")
        if rows:
            self.state, verdicts = replayed(rows, self.settings)
            self.health = verdicts[-1] if verdicts else None
            self._steps = [row["step"] for row in rows if row["kind"] == "round"]
            self._saved = saved_steps(Path(args.output_dir), state.global_step)
            if self.halted:
                raise UserError(
                    f"this run was halted at step {self._steps[-1]}: go on from an earlier "
                    f"checkpoint, as {self.log.incident} says"
                )
            return
        found = self._read(model, processing_class, -1)
        self._started, self._probing = time.perf_counter(), 0.0  # before the run, and no part of it
        self.state, self._steps = begin(found.readings, self.settings), []
        self.log.cold_start(found, self.settings, self._conditions(), state.global_step)
        self._say(self._start_lines(found))
        if self.restore:
            self._on_main(lambda: model.save_pretrained(self.log.start))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: object,
    ) -> None:
        """Take the step's mean reward."""
        if logs is not None and "reward" in logs:
            self._rewards.append(float(logs["reward"]))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Remember which checkpoints are of this run."""
        self._saved.append(state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        processing_class: PreTrainedTokenizerBase,
        **_: object,
    ) -> TrainerControl:
        """Check, where one is due; stop the training on halt."""
        is_last = state.global_step >= state.max_steps
        if self.halted or (state.global_step % self.every and not is_last):
            return control
        if not is_last and not self._on_main(lambda: self._may_spend(self._last_cost)):
            return control
        reward = {"training_reward": self._reward()}
        found = self._read(model, processing_class, self.state.num_checks, reward)
        readings = found.readings | reward
        self.state, health = check(self.state, readings, self.settings)
        self.health = health
        self._steps.append(state.global_step)
        self.log.check(health, readings, found, state.global_step, self._share())
        if health.state != "ok":
            self._say([f"monitor: {health.state} at step {state.global_step}", *health.reasons[:4]])
        if health.halted:
            control.should_training_stop = True
            self._halt(Path(args.output_dir), found)
        elif self.saves and self.state.last_clean_check == health.check:
            control.should_save = True
        return control

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **_: object,
    ) -> None:
        """Give a halted run's model its last clean weights back, if asked."""
        if not self.halted:
            self.log.status("finished", monitor=self.state.level)
        if not (self.halted and self.restore):
            return
        folder = self.selected_checkpoint or self.log.start
        put_back(model, folder)
        self._say([f"monitor: the model has the weights of {folder} again"])

    # -- parts ----------------------------------------------------------------------------------

    def _read(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        number: int,
        beside: Mapping[str, Reading | None] = MappingProxyType({}),
    ) -> Found:
        """One probe, of rank 0, timed; its word counts in every process."""

        def wants(own: Mapping[str, Reading | None]) -> bool:
            cost = time.perf_counter() - start
            wanted = wants_more(self.state, {**own, **beside}, self.settings)
            return wanted and self._may_spend((1 + again) * cost, already=cost)

        again, start = self.settings.reads_again, time.perf_counter()
        if number < 0:
            found = self._on_main(lambda: self.probe.read_start(model, tokenizer))
        else:
            found = self._on_main(lambda: self.probe.read(model, tokenizer, number, wants, again))
        spent = time.perf_counter() - start
        self._last_cost = spent / found.num_reads
        self._probing += spent
        unjudged = all(one["right"] is None for one in found.samples) or not found.num_tokens
        if number < 0 and unjudged:
            why = next(iter(found.faults), "check returned None for each of them")
            raise UserError(f"no gold sample could be judged: {why}")
        return found

    def _may_spend(self, cost: float, already: float = 0.0) -> bool:
        """Whether a check of so many seconds, some spent already, stays within the budget."""
        age = time.perf_counter() - self._started + cost - already
        return self._probing + cost <= self.max_share * age

    def _share(self) -> float:
        """What checks took of the run's seconds so far."""
        return self._probing / (time.perf_counter() - self._started)

    def _reward(self) -> Reading | None:
        """The rewards of the steps since the last check."""
        rewards, self._rewards = self._rewards, []
        return None if self.reward_span is None else reward_reading(rewards, self.reward_span)

    def _halt(self, output: Path, found: Found) -> None:
        """Say why, and what to go on with."""
        clean = self.state.last_clean_check
        step = None if clean is None else self._steps[clean]
        self.selected_checkpoint = clean_checkpoint(output, self._saved, step)
        if clean is None:
            advice = "no check was clean: go back to the model that the run began with"
        elif self.selected_checkpoint is None:
            advice = (
                f"the last clean check was at step {step}, and no checkpoint as old as that is "
                "left: leave saves=True, and raise save_total_limit"
            )
        else:
            advice = (
                f"the last clean check was at step {step}: go on from {self.selected_checkpoint}"
            )
        assert self.health is not None
        self.log.halt(self.health, self.state, found, self.settings, advice)
        self._say([f"monitor: training stops. {advice}", f"see {self.log.incident}"])

    def _conditions(self) -> dict[str, object]:
        """How the gold tasks are sampled."""
        probe = self.probe
        return {
            "num_tasks": len(probe.rows), "num_samples": probe.num_samples,
            "max_new_tokens": probe.max_new_tokens, "temperature": 1.0, "seed": probe.seed,
            "every": self.every, "max_share": self.max_share, "reward_span": self.reward_span,
        }  # fmt: skip

    def _start_lines(self, found: Found) -> list[str]:
        """What a check can see, and what it costs."""
        gold, probe = found.readings[GOLD], self.probe
        known = "could not be judged" if gold is None else f"{gold.value:.1%} right"
        power = power_line(len(probe.rows), probe.num_samples, self.settings, "gold tasks")
        return [
            f"monitor: {known}; {power}",
            f"monitor: a check takes {self._last_cost:.1f} s and {found.num_tokens // NUM_START} "
            f"tokens, every {self.every} steps, and at most {self.max_share:.0%} of the run's "
            "seconds",
        ]

    def _say(self, lines: Sequence[str]) -> None:
        """Print what a person should see at once."""
        if PartialState().is_main_process:
            tqdm.write("\n  ".join(lines))

    def _on_main(self, work: Callable[[], T]) -> T:
        """What rank 0's work gives, in every process; what it raises, too."""
        processes = PartialState()
        if processes.num_processes == 1:
            return work()
        told: list[object] = [None, None]
        if processes.is_main_process:
            try:
                told[0] = work()
            except Exception as error:  # the others wait for it
                told[1] = error
        broadcast_object_list(told)
        if isinstance(told[1], Exception):
            raise told[1]
        return told[0]  # type: ignore[return-value]


def guard_settings(
    given: MonitorSettings | None, scores_gold: bool, judges_reward: bool
) -> MonitorSettings:
    """The thresholds for what a foreign run can be asked: no critic, no form, no interventions.

    Args:
        given: the thresholds; None takes the defaults, and a swing that such a run may have.
        scores_gold: whether right completions are given.
        judges_reward: whether the reward's scale is given.
    """
    settings = given or MonitorSettings(swing=FOREIGN_SWING)
    unread = {name for name, rule in settings.rules.items() if rule.channel == "critic"}
    read = {"gold_form": False, "gold_nll": scores_gold, "training_reward": judges_reward}
    unread |= {name for name, is_read in read.items() if not is_read}
    rules = {
        name: rule.model_copy(update={"watched": False}) if name in unread else rule
        for name, rule in settings.rules.items()
    }
    return settings.model_copy(update={"rules": rules, "offers": ()})
