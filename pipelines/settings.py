"""The run's configuration: typed TOML tables, overrides, errors that name the nearest key.

Holds no defaults of the libraries: a table that configures one (`[learner.grpo]`, `[sft.trainer]`,
`[learner.lora]`) is passed to that library's own config class, its keys checked against it by
`check_library_table`. Importing this module imports no torch.
"""

import dataclasses
import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from critic.monitor import MonitorSettings

LibraryTable = dict[str, object]

SFT_OWNED = frozenset(
    {
        "data_seed",
        "load_best_model_at_end",
        "output_dir",
        "push_to_hub",
        "report_to",
        "resume_from_checkpoint",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "seed",
        "use_cpu",
    }
)
GRPO_OWNED = SFT_OWNED | {
    "do_eval",
    "do_train",
    "eval_on_start",
    "eval_strategy",
    "log_completions",
    "logging_steps",
    "max_completion_length",
    "max_steps",
    "model_init_kwargs",
    "num_train_epochs",
    "remove_unused_columns",
    "rollout_func",
    "shuffle_dataset",
    "temperature",
    "use_vllm",
    "vllm_enable_sleep_mode",
    "vllm_gpu_memory_utilization",
    "vllm_max_model_length",
    "vllm_mode",
    "vllm_server_base_url",
    "vllm_server_host",
    "vllm_server_port",
    "vllm_tensor_parallel_size",
}
TRUNCATED_SAMPLING = {"top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"}


class Table(BaseModel):
    """A frozen TOML table that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunTable(Table):
    """Where the run lives and how long it is."""

    directory: Path = Field(description="run directory; made if absent")
    seed: int = Field(default=0, ge=0)
    rounds: int = Field(default=4, ge=1, description="self-play rounds")
    num_processes: int = Field(default=1, ge=1, description="what accelerate launch must start")
    max_seconds: float = Field(default=0, ge=0, description="stop cleanly after; 0 = no limit")


class Example(Table):
    """A worked reply, shown to an instruction-tuned model as an earlier turn."""

    question: str
    reply: str


class TaskTable(Table):
    """Where tasks come from and how a solution to one is written."""

    dialect: Literal["chain", "tagged"] = "tagged"
    source: Literal["reasoning_gym", "jsonl", "dataset"] = "reasoning_gym"
    family: str = ""
    path: str = ""
    question_field: str = "question"
    answer_field: str = "answer"
    dataset_split: str = "train"
    examples: tuple[Example, ...] = Field(default=(), description="tagged dialect only")
    params: dict[str, object] = Field(default_factory=dict)


class SftTable(Table):
    """The cold start (`pipelines/sft.py`): procedural demonstrations, then TRL's SFTTrainer."""

    directory: Path = Field(description="where the cold-started checkpoint is written")
    model: LibraryTable = Field(default_factory=dict, description="SparringMoeConfig overrides")
    num_solutions: int = Field(default=8000, ge=1)
    num_critiques: int = Field(default=8000, ge=0)
    slip_rate: float = Field(default=0.0, ge=0, lt=1, description="share of forgotten carries")
    flawed_share: float = Field(default=0.5, ge=0, le=1, description="of the criticised solutions")
    trainer: LibraryTable = Field(default_factory=dict, description="SFTConfig, verbatim")


class RoleTable(Table):
    """One policy: what it starts from, how long its blocks are, and TRL's own options."""

    model: str = Field(default="", description="directory or hub id; empty = the cold start")
    dtype: Literal["float32", "bfloat16"] = "float32"
    steps_per_round: int = Field(default=4, ge=0, description="optimizer steps in a block")
    max_completion_length: int = Field(default=64, ge=1, description="tokens")
    temperature: float = Field(default=1.0, gt=0)
    router_bias_rate: float = Field(
        default=0.0, ge=0, description="aux-loss-free balancing; 0 = frozen"
    )
    lora: LibraryTable = Field(default_factory=dict, description="peft LoraConfig; empty = full")
    grpo: LibraryTable = Field(default_factory=dict, description="GRPOConfig, verbatim")


class RewardTable(Table):
    """How verdicts and critiques become one reward."""

    critic_weight: float = Field(default=0.2, ge=0, le=0.45)
    step_weight: float = Field(default=0.1, ge=0, le=1, description="alpha of A_step at round 0")
    step_weight_final: float = Field(default=0.001, ge=0, le=1)
    timeout_seconds: float = Field(default=5.0, gt=0)
    shuffled: bool = Field(default=False, description="control: rewards permuted over the batch")


class CriticTable(RoleTable):
    """The critic's role, and what it is asked to judge."""

    reward: Literal["default", "dsm2", "tango", "rlcr"] = "default"
    planted_share: float = Field(default=0.25, ge=0, le=1)
    critiques_per_audit: int = Field(default=4, ge=1)


class RolloutTable(Table):
    """The sampler, and the proof that it runs the policy's weights."""

    engine: Literal["vllm", "transformers"] = "vllm"
    placement: Literal["colocated", "server"] = Field(
        default="colocated", description="vLLM in the trainer's process, or in servers of its own"
    )
    precision: Literal["policy", "fp8"] = Field(
        default="policy", description="of the sampler's weights; fp8: the policy trains in it too"
    )
    servers: int = Field(default=1, ge=1, description="servers a role and process, started here")
    urls: dict[Literal["learner", "critic"], tuple[str, ...]] = Field(
        default_factory=dict, description="servers that run already, by role, instead of `servers`"
    )
    weights_directory: Path | None = Field(
        default=None, description="where weights are handed over; default: shared memory"
    )
    transfer: Literal["file", "broadcast"] | None = Field(
        default=None, description="how weights reach servers; default: broadcast to other machines"
    )
    start_timeout_seconds: float = Field(default=300, gt=0, description="until a server answers")
    request_timeout_seconds: float = Field(default=600, gt=0, description="for one batch or sync")
    liveness_seconds: float = Field(
        default=60, gt=0, description="an engine silent for so long while it should work is dead"
    )
    max_restarts: int = Field(
        default=3, ge=0, description="in a row without a completion, before the run is halted"
    )
    max_model_len: int = Field(default=256, ge=8, description="prompt + completion, tokens")
    kv_cache_gib: float = Field(default=0.25, gt=0)
    compile: bool | None = Field(
        default=None, description="vLLM compiles the model at its start; default: accelerators only"
    )
    max_num_seqs: int = Field(default=128, ge=1, description="requests at once, an engine")
    adaptive_concurrency: bool = Field(
        default=True, description="fewer at once while memory, KV cache, heat or power run short"
    )
    probe_every: int = Field(default=20, ge=1, description="syncs between probes after the second")
    probe_threshold: float = Field(default=1e-3, gt=0, description="nats")
    max_staleness: int = Field(
        default=0, ge=0, le=1,
        description="generation batches drawn ahead, while the last is scored and learned from",
    )  # fmt: skip
    routing_replay: bool = Field(
        default=False, description="train on the experts that the sampler chose"
    )

    @model_validator(mode="after")
    def _check_placement(self) -> "RolloutTable":
        if self.placement == "server" and self.engine != "vllm":
            raise ValueError(
                f'rollout.placement = "server" needs rollout.engine = "vllm", which is '
                f"{self.engine!r}: change one of them"
            )
        if self.precision == "fp8" and self.engine != "vllm":
            raise ValueError(
                f'rollout.precision = "fp8" needs rollout.engine = "vllm", which is '
                f"{self.engine!r}: change one of them"
            )
        if self.max_staleness and self.placement != "server":
            raise ValueError(
                f"rollout.max_staleness = {self.max_staleness} needs rollout.placement = "
                f'"server", which is {self.placement!r}: an engine in the trainer\'s process '
                "cannot sample beside the update"
            )
        if self.urls and (self.placement != "server" or set(self.urls) != {"learner", "critic"}):
            raise ValueError(
                'rollout.urls needs rollout.placement = "server" and a list for each of learner '
                f"and critic, got placement {self.placement!r} and {sorted(self.urls)}"
            )
        every = [url for urls in self.urls.values() for url in urls]
        for url in every:
            if not re.fullmatch(r"http://[^/:\s]+:\d+", url):
                raise ValueError(f"rollout.urls: {url!r} is not of the form http://host:port")
        if len(set(every)) < len(every):
            raise ValueError(
                f"rollout.urls names a server twice in {every}: each holds one role's weights"
            )
        return self


class EvaluateTable(Table):
    """Held-out measurements."""

    num_tasks: int = Field(default=256, ge=1, description="test tasks, mean@k")
    num_samples: int = Field(default=8, ge=1, description="k")
    num_probe_tasks: int = Field(default=32, ge=1)
    num_audit_tasks: int = Field(default=128, ge=1)
    audit_share: float = Field(default=0.5, gt=0, le=1, description="of the audit set, each round")


class Settings(Table):
    """All of a run's settings; `load_settings` reads them."""

    run: RunTable
    tasks: TaskTable
    sft: SftTable | None = None
    learner: RoleTable
    critic: CriticTable
    rewards: RewardTable = RewardTable()
    rollout: RolloutTable = RolloutTable()
    evaluate: EvaluateTable = EvaluateTable()
    monitor: Annotated[MonitorSettings, Field(default_factory=MonitorSettings)]

    @model_validator(mode="after")
    def _check_examples(self) -> "Settings":
        if self.tasks.examples and self.tasks.dialect != "tagged":
            raise ValueError(
                f"tasks.examples are turns of a conversation, which the {self.tasks.dialect} "
                "dialect "
                "has none of: remove them"
            )
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
                    "prompt "
                    f"beside {name}.max_completion_length = {role.max_completion_length}: raise "
                    "the first "
                    "or lower the second"
                )
            if not role.model and self.sft is None:
                raise ValueError(
                    f"{name}.model is empty and there is no [sft] table: set one of them"
                )
        return self


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a TOML file and apply `table.key=value` overrides.

    Args:
        path: the TOML file.
        overrides: each `dotted.key=value`; the value is TOML, a bare word is taken as a string.

    Raises:
        ValueError: the file is missing or malformed, or a key or value is wrong; the message names
            the dotted path and, for an unknown key, the nearest one.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"no configuration file {path}: give --config one of configs/*.toml"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    return parse_settings(apply_overrides(tables, overrides))


def apply_overrides(tables: dict[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """Set each `dotted.key=value` in nested tables, in place; returns them.

    Raises:
        ValueError: an override is malformed.
    """
    for override in overrides:
        _apply_override(tables, override)
    return tables


def parse_settings(tables: dict[str, object]) -> Settings:
    """Validate nested tables; see `load_settings` for the errors."""
    try:
        return Settings.model_validate(tables)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(item) for item in error.errors())) from None


def dump_settings(settings: Settings) -> str:
    """The resolved settings as JSON that `parse_settings` reads back unchanged."""
    return json.dumps(settings.model_dump(mode="json"), indent=2)


def check_library_table(
    dotted: str, table: LibraryTable, config_class: type, owned: frozenset[str]
) -> None:
    """Check the keys of a table against the library's dataclass, and against what the loop owns.

    Raises:
        ValueError: an unknown key (the nearest is named), a key that the loop sets itself, or
            sampling truncation, which would bias the importance ratio.
    """
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in table:
        if key in TRUNCATED_SAMPLING:
            raise ValueError(
                f"{dotted}.{key} truncates or reshapes the sampling distribution, which biases "
                "GRPO's "
                "importance ratio: remove it (temperature is set beside the table)"
            )
        if key in owned:
            raise ValueError(f"{dotted}.{key} is set by the loop: remove it from the configuration")
        if key not in known:
            raise ValueError(_unknown(f"{dotted}.{key}", key, known, config_class.__name__))


def _apply_override(tables: dict[str, object], override: str) -> None:
    dotted, separator, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise ValueError(f"override {override!r} is not of the form table.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = tables
    for key in keys[:-1]:
        child = table.setdefault(key, {})
        if not isinstance(child, dict):
            raise ValueError(f"override {override!r}: {key} is a value, not a table")
        table = child
    table[keys[-1]] = value


def _explain(item: object) -> str:
    location = [str(part) for part in item["loc"]]  # type: ignore[index]
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":  # type: ignore[index]
        return _unknown(dotted, location[-1], _keys_at(location[:-1]), "the configuration")
    if item["type"] == "missing":  # type: ignore[index]
        return f"{dotted} is missing: add it to the configuration"
    message = str(item["msg"]).removeprefix("Value error, ")  # type: ignore[index]
    given = "" if not location else f"{dotted} = {item['input']!r}: "  # type: ignore[index]
    return f"{given}{message}"


def _keys_at(location: Sequence[str]) -> Iterable[str]:
    model: type[BaseModel] = Settings
    for part in location:
        field = model.model_fields.get(part)
        if field is None:
            continue  # a name of the user's, such as a signal's, between two tables
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return model.model_fields


def _unknown(dotted: str, key: str, known: Iterable[str], owner: str) -> str:
    nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {dotted} in {owner}: {hint}"
