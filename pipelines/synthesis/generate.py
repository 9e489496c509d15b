"""`sparring-data generate`: tasks, solutions, verdicts, critiques, the gate, until N are accepted.

A batch follows from (arguments, weights, batch number) and the batches before it, so a generation
that was cut off anywhere goes on as if it had not been. Leaves out training, and the files
(`data/dataset_folder.py`).
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from data.contamination import Contamination
from data.dataset_folder import (
    DatasetFolder,
    Progress,
    cut_surplus,
    flat_arguments,
    interrupts_deferred,
)
from data.dedup import DuplicateIndex
from data.errors import unknown_name
from data.records import SPLITS, Record, Split, Task
from data.source import TaskSource, draw_up_to
from pipelines.errors import UserError
from pipelines.game.bout import Bout
from pipelines.game.curriculum import build_source
from pipelines.game.gate import Gate, reject_counts
from pipelines.game.referee import Referee, verifiers_of
from pipelines.rollouts.sampler import Sampler
from pipelines.run.directory import versions
from pipelines.run.origin import Origin, find_origin, load_samplers
from pipelines.run.tasks import context_of

MAX_BARREN_BATCHES = 8


@dataclass(frozen=True)
class Request:
    """The command's arguments.

    Attributes:
        source: run or checkpoint directory.
        out: directory to write.
        num: accepted records wanted.
        split: of the tasks.
        seed: fixes tasks and samples.
        group: solutions per task.
        batch: tasks per batch; 0 fills the engine once.
        resume: continue what `out` holds.
        config: TOML settings, which a checkpoint needs; a run has its own.
        critic: judge with this checkpoint instead of the source's own.
        criticise: False leaves out critiques.
        overrides: `table.key=value`, over the settings.
    """

    source: Path
    out: Path
    num: int
    split: str = "train"
    seed: int = 0
    group: int = 4
    batch: int = 0
    resume: bool = False
    config: Path | None = None
    critic: Path | None = None
    criticise: bool = True
    overrides: tuple[str, ...] = ()


def generate(request: Request) -> Progress:
    """Generate until `request.num` records are accepted.

    Raises:
        UserError: a user's mistake, or the tasks ran out; complete batches are kept.
        KeyboardInterrupt: Ctrl-C; complete batches are kept.
    """
    _check(request)
    folder = DatasetFolder(request.out)
    earlier = _earlier(folder, request)
    origin = find_origin(
        request.source, request.config, request.overrides, request.critic, request.criticise
    )
    arguments = _arguments(request, origin)
    if earlier is not None:
        _refuse_changes("arguments", earlier.arguments, arguments, request.out)
        folder.clean_up(earlier)
        if earlier.accepted == request.num:
            return earlier
    judges = verifiers_of(origin.settings.rewards)
    with tempfile.TemporaryDirectory() as scratch, closing(judges) as verifiers:
        referee = Referee(origin.settings, verifiers)
        source = _source(request, origin, referee)
        learner, critic = load_samplers(origin, request.seed, Path(scratch))
        weights = {"learner": learner.engine.weights.hash}
        weights |= {"critic": critic.engine.weights.hash} if critic is not None else {}
        if earlier is not None:
            _refuse_changes("weights", earlier.weights, weights, request.out)
        progress = earlier or Progress(arguments, weights, versions())
        return Generation(request, folder, progress, referee, source, learner, critic).finish()


def _source(request: Request, origin: Origin, referee: Referee) -> TaskSource:
    """The tasks that the context holds; an empty split is an error now, not later."""
    context = context_of(origin, referee)
    with context.explaining():
        source = build_source(origin.settings, context.fits)
        source.draw(_split(request.split), 1, request.seed)
    for line in [*source.remarks(), *context.remarks()]:
        tqdm.write(f"tasks: {line}", file=sys.stderr)
    return source


class Generation:
    """A generation in progress."""

    def __init__(
        self,
        request: Request,
        folder: DatasetFolder,
        progress: Progress,
        referee: Referee,
        source: TaskSource,
        learner: Sampler,
        critic: Sampler | None,
    ) -> None:
        self.request, self.folder, self.progress = request, folder, progress
        self.referee, self.source, self.learner, self.critic = referee, source, learner, critic
        table = referee.settings.rollout
        self.batch_size = request.batch or max(1, table.max_num_seqs // request.group)
        self.gate = Gate(Contamination(_held_out_questions(referee, source)))
        self.duplicates = DuplicateIndex(folder.accepted.records())
        known = chain(folder.accepted.records(), folder.rejected.records())
        self.played = {record.task_id for record in known}

    def finish(self) -> Progress:
        """Make the batches that remain; the card is written however that ends."""
        self.folder.save(replace(self.progress, status="open"))
        status = "failed"
        try:
            self._make_batches()
            status = "complete"
        except OutOfTasks:
            status = "exhausted"
            raise
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self.progress = replace(self.progress, status=status)
            self.folder.write_card()
            self.folder.save(self.progress)
        return self.progress

    def _make_batches(self) -> None:
        wanted, start = self.request.num, time.perf_counter()
        num_samples, barren = 0, list[Record]()
        with tqdm(total=wanted, initial=self.progress.accepted, desc="accepted", unit="rec") as bar:
            while self.progress.accepted < wanted:
                before = self.progress
                records = cut_surplus(self._batch(before.batches), wanted - before.accepted)
                with interrupts_deferred():  # or the files would be ahead of the progress
                    self.progress = self.folder.commit(records, before)
                num_new = self.progress.accepted - before.accepted
                num_samples += len(records)
                bar.update(num_new)
                bar.set_postfix_str(self._pace(num_samples / (time.perf_counter() - start)))
                barren = [] if num_new else [*barren, *records]
                self._refuse_barren(barren)

    def _refuse_barren(self, barren: Sequence[Record]) -> None:
        if len({record.round for record in barren}) < MAX_BARREN_BATCHES:
            return
        reasons = sorted(reject_counts(barren).items(), key=lambda item: -item[1])
        shown = ", ".join(f"{num} {reason}" for reason, num in reasons[:4])
        raise OutOfTasks(
            f"none of the last {len(barren)} samples was accepted ({shown}): train the learner "
            f"further or give easier tasks; {self._kept()}"
        )

    def _batch(self, number: int) -> list[Record]:
        """Every sample of one batch as a record."""
        tasks = self._draw(number)
        bouts = self._play(tasks, f"batch {number}")
        self.played.update(task.id for task in tasks)
        return self.gate(bouts, self.duplicates, number, self.learner.temperature)

    def _draw(self, number: int) -> list[Task]:
        seed = int.from_bytes(
            hashlib.sha256(f"{self.request.seed}/batch {number}".encode()).digest()[:4], "big"
        )
        split = _split(self.request.split)
        tasks = draw_up_to(self.source, split, self.batch_size, seed, frozenset(self.played))
        if not tasks:
            raise OutOfTasks(
                f'the source yields no more "{split}" tasks after {len(self.played)}, each with '
                f"{self.request.group} samples: raise --group, give more tasks, or ask for fewer "
                f"records with --num; {self._kept()}"
            )
        return tasks

    def _play(self, tasks: list[Task], purpose: str) -> list[Bout]:
        """Solve, verify, criticise: the trainer's own steps without the training."""
        group = self.request.group
        problems = [self.referee.problem(task) for task in tasks]
        drawn = self.learner.sample(problems, purpose, group)
        pairs = [
            (task, sample) for task, group in zip(tasks, drawn, strict=True) for sample in group
        ]
        read = self.referee.read_all([(task, sample, "") for task, sample in pairs])
        asked = [None] * len(pairs)
        if self.critic is not None:
            solutions = [(task, one) for (task, _), (one, _) in zip(pairs, read, strict=True)]
            asked = self.referee.criticise(solutions, self.critic, purpose)
        bouts = [
            Bout(task, sample, solution, verdict, None, None)
            for (task, sample), (solution, verdict) in zip(pairs, read, strict=True)
        ]
        return [self.referee.with_critique(*pair) for pair in zip(bouts, asked, strict=True)]

    def _pace(self, samples_per_second: float) -> str:
        num = self.progress.accepted + self.progress.rejected
        return f"{samples_per_second:.1f} samples/s, {self.progress.accepted / num:.0%} accepted"

    def _kept(self) -> str:
        progress = self.progress
        return f"{progress.accepted} of {self.request.num} records are kept in {self.folder.path}"


class OutOfTasks(UserError):
    """The task source and the learner cannot yield what was asked for."""


def _held_out_questions(referee: Referee, source: TaskSource) -> list[str]:
    """Every question that the settings evaluate on: the same draws as a run makes."""
    sizes = referee.settings.evaluate
    drawn: tuple[tuple[Split, int], ...] = (
        ("test", sizes.num_tasks), ("probe", sizes.num_probe_tasks),
        ("audit", sizes.num_audit_tasks),
    )  # fmt: skip
    return [task.question for split, num in drawn for task in draw_up_to(source, split, num, 0)]


def _check(request: Request) -> None:
    for name, value, least in (
        ("--num", request.num, 1), ("--group", request.group, 1),
        ("--seed", request.seed, 0), ("--batch", request.batch, 0),
    ):  # fmt: skip
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    if request.critic is not None and not request.criticise:
        raise UserError("--critic and --no-critic exclude each other: leave out one")
    _split(request.split)


def _split(name: str) -> Split:
    for split in SPLITS:
        if split == name:
            return split
    raise UserError(unknown_name("split", name, SPLITS))


def _earlier(folder: DatasetFolder, request: Request) -> Progress | None:
    """What there is to continue; None to start."""
    if folder.is_empty():
        return None
    progress = folder.progress()
    if not request.resume:
        hint = "continue it with --resume, or give" if progress is not None else "give"
        raise UserError(f"{request.out} is not empty: {hint} another --out")
    if progress is None:
        raise UserError(f"{request.out} holds no generation to resume: give another --out")
    return progress


def _arguments(request: Request, origin: Origin) -> dict[str, object]:
    """Everything that decides which records come out, but the weights."""
    tables = origin.settings.model_dump(
        mode="json",
        include={
            "tasks": True, "rollout": True, "rewards": {"timeout_seconds"},
            "learner": {"dtype", "max_completion_length", "temperature", "system_prompt"},
            "critic": {"dtype", "max_completion_length", "temperature", "system_prompt"},
            "evaluate": {"num_tasks", "num_probe_tasks", "num_audit_tasks"},
        },
    )  # fmt: skip
    asked = {
        "num": request.num, "split": request.split, "seed": request.seed, "group": request.group,
        "batch": request.batch, "criticised": request.criticise,
    }  # fmt: skip
    for name, role in (("learner", origin.settings.learner), ("critic", origin.settings.critic)):
        tables[name]["chat_template_kwargs"] = role.chat_template_kwargs
    return flat_arguments(asked | tables)


def _refuse_changes(
    what: str, before: Mapping[str, object], now: Mapping[str, object], out: Path
) -> None:
    changed = [
        f"{name} {_brief(before.get(name))} -> {_brief(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{out} was begun with other {what} ({', '.join(changed)}): repeat the first "
            "command with --resume, or give another --out"
        )


def _brief(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:12] + "..."
