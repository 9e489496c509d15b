"""What a resumed run may change, what each change means, and the history of those that were made.

    RUN/config.json            the settings as they are now
    RUN/config_history.jsonl   one row per resumption that changed something: round, time, changes

Leaves out how a learning rate moves (`run/schedule.py`). Imports no torch.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.atomic import write_text_atomic
from pipelines.errors import UserError
from pipelines.settings.load import apply_overrides, parse_settings
from pipelines.settings.tables import Settings

HISTORY = "config_history.jsonl"
PATIENCE = "it changes who answers and how long is waited, and no sample"
LONGER = (
    "longer replies are drawn from now on, in training and in every measurement: the figures of "
    "before had shorter ones"
)
RATE = "its steps take it from now on, within their schedule; the optimizer keeps its memory"
# What --resume may change, and what that means.
RESUMABLE: Mapping[str, str] = {
    "run.rounds": "the run ends after so many rounds in all",
    "run.max_seconds": "each start may take so long from now on; 0 is no limit",
    "run.trackers": "rows go there from now on",
    "run.push_to": "its model goes there at the end",
    "evaluate.every_rounds": "unevaluated rounds cannot become the best; the best so far stays it",
    "learner.grpo.learning_rate": RATE,
    "critic.grpo.learning_rate": RATE,
    "rollout.max_model_len": "longer problems are trained on from now on; what measures is the "
    "same as before",
    "learner.max_completion_length": LONGER,
    "critic.max_completion_length": LONGER,
    "rollout.probe_threshold": "so far may the sampler's log-probabilities be from the policy's, "
    "from now on; what was sampled before was held to the other bound",
    "rollout.urls": PATIENCE,
    "rollout.servers": PATIENCE,
    "rollout.weights_directory": PATIENCE,
    "rollout.start_timeout_seconds": PATIENCE,
    "rollout.request_timeout_seconds": PATIENCE,
    "rollout.liveness_seconds": PATIENCE,
    "rollout.max_restarts": PATIENCE,
}
# May only grow: what was drawn before must still fit.
CONTEXT = (
    "rollout.max_model_len", "learner.max_completion_length", "critic.max_completion_length",
)  # fmt: skip
# Schedules that keep a rate of their own from step to step, which a setting does not move.
OWN_RATE = ("reduce_lr_on_plateau", "greedy")
Changes = dict[str, tuple[object, object]]  # by key: before and after


def check_changes(settings: Settings, overrides: Sequence[str]) -> None:
    """Refuse an override that a resumed run may not have.

    Args:
        settings: the run's.
        overrides: `table.key=value`.

    Raises:
        UserError: it would change the experiment, shrink the context, or do nothing.
    """
    for override in overrides:
        if override.partition("=")[0].strip() not in RESUMABLE:
            raise UserError(
                f"{override!r} would change the experiment: with --resume only "
                f"{', '.join(RESUMABLE)} may be given; for anything else start a new run from this "
                f"one's last models ({settings.run.directory}/checkpoints)"
            )
    tables = settings.model_dump(mode="json")
    changed = changes(settings, parse_settings(apply_overrides(tables, overrides)))
    for key in CONTEXT:
        before, after = changed.get(key, (0, 0))
        if after < before:  # type: ignore[operator]
            raise UserError(
                f"{key} = {after} is less than the {before} that the run began with: what it was "
                "measured on may not fit any more; with --resume it may only grow"
            )
    for name, role in (("learner", settings.learner), ("critic", settings.critic)):
        schedule = role.grpo.get("lr_scheduler_type")
        if schedule in OWN_RATE and f"{name}.grpo.learning_rate" in changed:
            raise UserError(
                f"{name}.grpo.learning_rate does nothing to a {schedule} schedule, which keeps the "
                "rate that it has come to: remove it"
            )


def changes(before: Settings, after: Settings) -> Changes:
    """The resumable keys in which two settings differ."""
    tables = before.model_dump(mode="json"), after.model_dump(mode="json")
    found = {key: (_value(tables[0], key), _value(tables[1], key)) for key in RESUMABLE}
    return {key: pair for key, pair in found.items() if pair[0] != pair[1]}


def in_words(changed: Changes) -> list[str]:
    """Each change in one line, with what it means."""
    return [
        f"resume: {key} = {_shown(after)}, before {_shown(before)}: {RESUMABLE[key]}"
        for key, (before, after) in changed.items()
    ]


def record(directory: Path, round_: int, changed: Changes) -> None:
    """Append what changed to the run's history; nothing where nothing did."""
    if not changed:
        return
    made = {key: list(pair) for key, pair in changed.items()}
    rows = [*history(directory), {"round": round_, "time": time.time(), "changes": made}]
    write_text_atomic(directory / HISTORY, "".join(json.dumps(row) + "\n" for row in rows))


def history(directory: Path) -> list[dict]:
    """The rows so far, oldest first."""
    file = directory / HISTORY
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def with_first_context(settings: Settings, changed: Changes) -> Settings:
    """The settings with the context that the run began with, in which its held-out tasks fit.

    Args:
        settings: the present ones.
        changed: what this resumption changes, which the history does not have yet.
    """
    first: dict[str, object] = {}
    for made in [*(row["changes"] for row in history(settings.run.directory)), changed]:
        for key, pair in made.items():
            if key in CONTEXT:
                first.setdefault(key, pair[0])
    if not first:
        return settings
    given = [f"{key}={value}" for key, value in first.items()]
    return parse_settings(apply_overrides(settings.model_dump(mode="json"), given))


def _value(tables: Mapping, dotted: str) -> object:
    value: object = tables
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _shown(value: object) -> str:
    return "the default" if value is None else json.dumps(value)
