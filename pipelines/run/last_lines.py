"""What a run's last lines say: why it stopped, where its model is, and what to type next.

Leaves out the table above them (`run/final_table.py`). Imports no torch.
"""

from pathlib import Path

from pipelines.settings.tables import Settings


def command(settings: Settings, *more: str) -> str:
    """What continues a run."""
    num = settings.run.num_processes
    several = f"accelerate launch --multi_gpu --num_processes {num}"
    start = "python" if num == 1 else several
    return " ".join([start, "pipelines/rl.py --resume", str(settings.run.directory), *more])


def how_to_go_on(settings: Settings, played: int) -> str:
    """After an end that nobody chose."""
    return f"{played} of {settings.run.rounds} rounds are complete; go on: {command(settings)}"


def mended_first(go_on: str) -> str:
    """After a user's mistake, which would only be met again."""
    return f"mend what the error names; then: {go_on}"


def stopped(settings: Settings, played: int) -> str:
    """Why a run ended before its last round, and how it goes on; "" where it played all.

    Args:
        settings: the run's.
        played: rounds that are complete.
    """
    table = settings.run
    if played >= table.rounds:
        return ""
    start = "" if played else " (the start took longer)"
    return (
        f"stopped by run.max_seconds = {table.max_seconds:g} after {played} of {table.rounds} "
        f"rounds{start}; go on: {command(settings)} (which gets as many seconds again; "
        "run.max_seconds=0 beside it lifts the limit)"
    )


def after_halt(selected: Path | None) -> str:
    """Which checkpoint is sound and what may come next; None is the cold start."""
    if selected is None:
        return (
            "model: the cold start is the last sound one; next: a new run, for example at a lower "
            "learner.grpo.learning_rate"
        )
    return (
        f"model: {selected / 'learner'}, the last sound one; next: a new run with learner.model="
        f"{selected / 'learner'} critic.model={selected / 'critic'}"
    )


def last_line(settings: Settings, played: int, model: Path | None, is_read: bool = True) -> str:
    """Where the model is and what may come next.

    Args:
        settings: the run's.
        played: rounds that are complete.
        model: the folder; None where there is none yet.
        is_read: whether most of its answers could be read.
    """
    if model is None:
        return f"model: none yet, no round is complete; next: {command(settings)}"
    run = settings.run.directory
    source = model.parent if model.parent.name == "best" else run
    more = "" if played < settings.run.rounds else f"run.rounds={2 * settings.run.rounds}"
    longer = command(settings, *filter(None, [more]))
    if not is_read:
        return (
            f"model: {model}; next: see in {run / 'report.html'} what it writes, and why most of "
            "it cannot be read (tasks.dialect, tasks.system, learner.max_completion_length), "
            f"before a longer run: {longer}"
        )
    return f"model: {model}; next: sparring-evaluate {source}, or longer: {longer}"
