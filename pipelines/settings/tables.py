"""The run's configuration: typed TOML tables, whose fields say what each value does.

Holds no defaults of the libraries: a table that configures one (`[learner.grpo]`, `[sft.trainer]`,
`[learner.lora]`) is passed to that library's own config class, its keys checked against it by
`check_library_table`. Leaves out reading and overrides (`settings/load.py`). Imports no torch.
"""

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from critic.monitor.readings import NUM_START
from critic.monitor.settings import MonitorSettings, table_of_run
from pipelines.errors import unknown_name
from pipelines.settings.feedback_table import FeedbackTable
from pipelines.settings.library import LibraryTable
from pipelines.settings.pointing_table import PointingTable
from pipelines.settings.proposer_table import ProposerTable
from pipelines.settings.reward_table import RewardTable
from pipelines.settings.role_table import CriticTable, RoleTable
from pipelines.settings.rollout_table import RolloutTable
from pipelines.settings.table import Table
from pipelines.settings.task_table import TaskTable

# Trackers by name, with the package that each needs.
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


class RunTable(Table):
    """Where the run lives and how long it is."""

    directory: Path = Field(
        description="The run's folder, which is made and must not hold an earlier run."
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Fixes tasks, samples and updates: a run of the same seed repeats itself.",
    )
    rounds: int = Field(default=4, ge=1, description="The number of rounds of self-play.")
    num_processes: int = Field(
        default=1,
        ge=1,
        description="The number of training processes, which the launcher must have started.",
    )
    max_seconds: float = Field(
        default=0,
        ge=0,
        description="The run stops after the round in which it passes so many seconds; 0 sets no "
        "limit.",
    )
    trackers: tuple[str, ...] = Field(
        default=(),
        description="Experiment trackers that get the numbers of every step and round beside "
        "metrics.jsonl: tensorboard, wandb, trackio, or a GeneralTracker of your own, as "
        "`mine.py:Tracker` or `package.module:Tracker`.",
    )

    push_to: str = Field(
        default="",
        description="A hub's repository, as `owner/name`, that gets the learner when the run has "
        "finished: the best checkpoint where one is selected, else the last; it is made, private, "
        "if there is none. Empty sends nothing anywhere.",
    )

    @field_validator("trackers")
    @classmethod
    def _are_known(cls, trackers: tuple[str, ...]) -> tuple[str, ...]:
        for name in trackers:
            if name not in TRACKERS and ":" not in name:
                raise ValueError(unknown_name("tracker", name, TRACKERS))
        return trackers


class EasyTable(Table):
    """What the cold start imitates first: solutions of easier tasks, without a slip."""

    num_solutions: int = Field(
        default=0,
        ge=0,
        description="The number of these solutions. The trainer takes all demonstrations in their "
        "order, these first in every epoch.",
    )
    params: dict[str, object] = Field(
        default_factory=dict,
        description="Parameters of the family that make its tasks easier, in place of those of "
        "the same name in `tasks.params`.",
    )


class SftTable(Table):
    """The cold start (`pipelines/sft.py`): procedural demonstrations, then TRL's SFTTrainer."""

    directory: Path = Field(
        description="The folder of the cold-started checkpoint, which is both roles' default model."
    )
    model: LibraryTable = Field(
        default_factory=dict,
        description="Fields of SparringMoeConfig that replace those of the tiny model.",
    )
    num_solutions: int = Field(
        default=8000, ge=1, description="The number of demonstrated solutions."
    )
    num_critiques: int = Field(
        default=8000, ge=0, description="The number of demonstrated critiques."
    )
    slip_rate: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="The chance that a demonstrated step is wrong, by a forgotten carry or another "
        "slip (`rewards/mistakes.py`); 0 demonstrates no mistake.",
    )
    flawed_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The share of criticised solutions that hold a flaw.",
    )
    num_proposals: int = Field(
        default=0,
        ge=0,
        description="The number of demonstrated proposals: tasks of the source and, where "
        "`easy.params` are given, as many easier ones, as a proposer writes them.",
    )
    easy: EasyTable = Field(
        default=EasyTable(), description="The demonstrations that come before all others."
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="The number of CPU threads that PyTorch trains with; 0 leaves it to PyTorch.",
    )
    trainer: LibraryTable = Field(
        default_factory=dict, description="Options that TRL's SFTConfig gets as they stand."
    )


class EvaluateTable(Table):
    """Held-out measurements."""

    num_tasks: int = Field(
        default=256,
        ge=1,
        description="The number of test tasks that the learner is evaluated on before and after "
        "the run.",
    )
    num_samples: int = Field(
        default=8,
        ge=1,
        description="The number of samples per evaluated task, whose mean is its accuracy.",
    )
    num_probe_tasks: int = Field(
        default=32,
        ge=1,
        description="The number of gold tasks that the monitor measures the learner on in every "
        "round.",
    )
    start_probes: int = Field(
        default=NUM_START,
        ge=1,
        description="How often the gold tasks are sampled before the first round: a run that falls "
        "from its start on is compared with the mean of so many readings.",
    )
    num_audit_tasks: int = Field(
        default=128,
        ge=1,
        description="The number of tasks whose solutions audit the critic.",
    )
    audit_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="The share of the audited solutions that a round uses, the same in each.",
    )
    every_rounds: int = Field(
        default=0,
        ge=0,
        description="The learner is evaluated on selection tasks before the first round, after "
        "every so many and after the last, and RUN/best is the checkpoint with the best mean; 0 "
        "selects none. Each time costs `num_selection_tasks` x `num_samples` solutions.",
    )
    num_selection_tasks: int = Field(
        default=128,
        ge=1,
        description="The number of tasks of the audit split that the best checkpoint is selected "
        "on; the probe, training and the final examination use others.",
    )


class Settings(Table):
    """All of a run's settings; `load_settings` reads them."""

    run: RunTable = Field(description="Where the run lives and how long it is.")
    tasks: TaskTable = Field(description="Where tasks come from and how solutions are written.")
    sft: SftTable | None = Field(
        default=None, description="The cold start; without it both roles need a model."
    )
    learner: RoleTable = Field(description="The policy that solves.")
    critic: CriticTable = Field(description="The policy that judges solutions.")
    rewards: RewardTable = Field(default=RewardTable(), description="What the verifier pays.")
    pointing: PointingTable = Field(
        default=PointingTable(),
        description="Who points at the first flaw of a failed solution, and what follows from it.",
    )
    feedback: FeedbackTable = Field(
        default=FeedbackTable(),
        description="What of the run's own records its learner and its critic imitate.",
    )
    proposer: ProposerTable = Field(
        default=ProposerTable(),
        description="The learner as a writer of tasks, paid for those of middling pass rate.",
    )
    rollout: RolloutTable = Field(
        default=RolloutTable(), description="The sampler, and the proof of its weights."
    )
    evaluate: EvaluateTable = Field(
        default=EvaluateTable(), description="The sizes of the held-out measurements."
    )
    monitor: MonitorSettings = Field(
        default_factory=MonitorSettings,
        description="When the entropy monitor warns, intervenes and halts.",
    )

    @model_validator(mode="before")
    @classmethod
    def _offer_what_helps(cls, tables: object) -> object:
        """The monitor may order what this run can do, and watches what it feeds back."""
        if not isinstance(tables, dict):
            return tables
        monitor, feedback, pointing = (
            tables.get(name, {}) for name in ("monitor", "feedback", "pointing")
        )
        if not all(isinstance(table, dict) for table in (monitor, feedback, pointing)):
            return tables  # pydantic names the wrong type
        table = table_of_run(
            monitor,
            critic_points=pointing.get("source", "cheapest") in ("cheapest", "critic"),
            feeds_back=bool(feedback.get("steps")),
        )
        return tables | {"monitor": table}

    @property
    def critic_works(self) -> bool:
        """Whether the critic is trained, or points without code: only then it has to know."""
        trained = self.critic.imitation_steps + self.critic.steps_per_round > 0
        return trained or self.pointing.by_critic

    @model_validator(mode="after")
    def _check_offers(self) -> "Settings":
        offers = self.monitor.offers
        if "verified_only" in offers and self.feedback.steps == 0:
            raise ValueError(
                "monitor.offers names verified_only, but feedback.steps = 0 feeds nothing back "
                "that it could restrict: remove it"
            )
        if "raise_real_share" in offers:
            raise ValueError(
                "monitor.offers names raise_real_share, but no data of others are mixed into a "
                "run: remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_pointing(self) -> "Settings":
        if self.pointing.source == "code" and not self.pointing.step_checks:
            raise ValueError(
                'pointing.source = "code", but pointing.step_checks = false withholds what code '
                "points with: change one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_turns(self) -> "Settings":
        turns = {
            "tasks.examples": self.tasks.examples,
            "learner.system_prompt": self.learner.system_prompt,
            "critic.system_prompt": self.critic.system_prompt,
        }
        given = [name for name, value in turns.items() if value]
        if given and self.tasks.dialect == "chain":
            raise ValueError(
                f"{' and '.join(given)}: turns of a conversation, which the {self.tasks.dialect} "
                "dialect does not have: remove them"
            )
        return self

    @model_validator(mode="after")
    def _check_tasks(self) -> "Settings":
        tasks = self.tasks
        if tasks.mixture and (tasks.family or tasks.params or tasks.path):
            raise ValueError(
                "tasks.mixture lists the sources: remove tasks.family and tasks.params, and "
                'tasks.path, or give tasks.family="" and tasks.params={} beside it'
            )
        if tasks.mixture and tasks.source != "reasoning_gym":
            raise ValueError(
                f"tasks.mixture lists the sources, but tasks.source is {tasks.source}: remove that "
                "and give each part a source of its own"
            )
        named = {f"tasks.mixture[{i}]": part for i, part in enumerate(tasks.mixture)}
        for name, table in (named or {"tasks": tasks}).items():
            if (fault := table.fault()) is not None:
                raise ValueError(f"{name}: {fault}")
        return self

    @model_validator(mode="after")
    def _check_roles(self) -> "Settings":
        if self.learner.steps_per_round == 0:
            raise ValueError(
                "learner.steps_per_round = 0, but a round trains the learner: give it at least 1 "
                "(critic.steps_per_round may be 0)"
            )
        for name, role in (("learner", self.learner), ("critic", self.critic)):
            if role.max_completion_length >= self.rollout.max_model_len:
                raise ValueError(
                    f"rollout.max_model_len = {self.rollout.max_model_len} leaves no room for a "
                    f"prompt beside {name}.max_completion_length = {role.max_completion_length}: "
                    "raise the first or lower the second"
                )
            if not role.model and self.sft is None:
                raise ValueError(
                    f"{name}.model is empty and there is no [sft] table: set one of them"
                )
        return self
