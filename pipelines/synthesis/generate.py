"""`sparring-data generate`: tasks, solutions, verdicts, critiques, the gate, until N are accepted.

A batch follows from (arguments, weights, batch number) and the batches before it, so a generation
that was cut off anywhere goes on as if it had not been. Leaves out training, and the files
(`data/dataset_folder.py`).
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data.dataset_folder import (
    DatasetFolder,
    Progress,
    cut_surplus,
    interrupts_deferred,
    joined_licences,
)
from data.dedup import DuplicateIndex
from data.errors import UserError
from data.held_out import HeldOut, contamination_of, held_out_of, read_held_out, write_held_out
from data.records import Record, Split, Task
from data.shard import WHOLE
from data.source import TaskSource, draw_up_to
from pipelines.game.bout import Bout
from pipelines.game.curriculum import build_source
from pipelines.game.gate import Gate, reject_counts
from pipelines.game.referee import Referee, verifiers_of
from pipelines.rollouts.sample import Respondent
from pipelines.run.directory import versions
from pipelines.run.licence import licences_of
from pipelines.run.origin import Origin, find_origin, load_samplers, served_origin
from pipelines.run.tasks import context_of
from pipelines.synthesis.endpoint import EndpointSampler, urls_of
from pipelines.synthesis.request import (
    Request,
    arguments_of,
    check_request,
    earlier_progress,
    refuse_changes,
    split_named,
    without_num,
)

MAX_BARREN_BATCHES = 8


def generate(request: Request) -> Progress:
    """Generate until `request.num` records are accepted.

    Raises:
        UserError: a user's mistake, or the tasks ran out; complete batches are kept.
        KeyboardInterrupt: Ctrl-C; complete batches are kept.
    """
    check_request(request)
    folder = DatasetFolder(request.out)
    earlier = earlier_progress(folder, request)
    origin = _origin(request)
    arguments = arguments_of(request, origin)
    if earlier is not None:
        refuse_changes(
            "arguments", without_num(earlier.arguments), without_num(arguments), request.out
        )
        folder.clean_up(earlier)
        if earlier.accepted == request.num:
            return earlier
        if earlier.accepted > request.num:
            raise UserError(
                f"{request.out} holds {earlier.accepted} accepted records already: --num may only "
                "be raised"
            )
    judges = verifiers_of(origin.settings.rewards)
    with tempfile.TemporaryDirectory() as scratch, closing(judges) as verifiers:
        referee = Referee(origin.settings, verifiers)
        source = _source(request, origin, referee)
        learner, critic, weights = _samplers(request, origin, Path(scratch))
        if earlier is not None:
            refuse_changes("weights", earlier.weights, weights, request.out)
            earlier = folder.reopen(replace(earlier, arguments=arguments))
        progress = earlier or Progress(arguments, weights, versions())
        known = joined_licences(
            [progress.licences, licences_of(origin, bool(urls_of(request.source)))]
        )
        progress = replace(progress, licences=known)
        return Generation(request, folder, progress, referee, source, learner, critic).finish()


def _origin(request: Request) -> Origin:
    """What samples and judges; of servers only the model's name is known."""
    if not urls_of(request.source):
        where = Path(request.source), request.config, request.overrides
        return find_origin(*where, request.critic, request.criticise)
    if request.critic is not None:
        raise UserError("the servers' model criticises itself: leave out --critic")
    return served_origin(request.model, request.config, request.overrides, request.criticise)


def _samplers(
    request: Request, origin: Origin, scratch: Path
) -> tuple[Respondent, Respondent | None, dict[str, str]]:
    """Learner, critic, and what names their weights."""
    urls = urls_of(request.source)
    if not urls:
        learner, critic = load_samplers(origin, request.seed, scratch)
        weights = {"learner": learner.engine.weights.hash}
        weights |= {"critic": critic.engine.weights.hash} if critic is not None else {}
        return learner, critic, weights

    def served(name: str) -> EndpointSampler:
        role = origin.settings.learner if name == "learner" else origin.settings.critic
        limits = role.max_completion_length, role.temperature
        asked = (name, urls, request.model, request.key_variable, request.seed)
        return EndpointSampler(*asked, *limits, template=role.chat_template_kwargs)

    solving = served("learner")
    judging = served("critic") if request.criticise else None
    return solving, judging, {"learner": solving.weights_hash}


def _source(request: Request, origin: Origin, referee: Referee) -> TaskSource:
    """The tasks that the context holds; an empty split is an error now, not later."""
    if urls_of(request.source):  # whose tokens nobody counts here
        source = build_source(origin.settings)
        source.draw(split_named(request.split), 1, request.seed)
        return source
    context = context_of(origin, referee)
    with context.explaining():
        source = build_source(origin.settings, context.fits)
        source.draw(split_named(request.split), 1, request.seed)
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
        learner: Respondent,
        critic: Respondent | None,
    ) -> None:
        self.request, self.folder, self.progress = request, folder, progress
        self.referee, self.source, self.learner, self.critic = referee, source, learner, critic
        fitting = referee.settings.rollout.max_num_seqs // request.group
        self.batch_size = request.batch or max(1, fitting)
        held_out = _held_out(referee, source)
        _keep_held_out(folder, held_out)
        self.gate = Gate(contamination_of(held_out))
        self.duplicates = DuplicateIndex(folder.accepted.records())
        self.played = {record.task_id for record in folder.records()}

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
        shard = self.request.shard
        place = "" if shard == WHOLE else f"shard {shard} "  # other seeds than other shards
        bouts = self._play(tasks, f"{place}batch {number}")
        self.played.update(task.id for task in tasks)
        return self.gate(bouts, self.duplicates, number)

    def _draw(self, number: int) -> list[Task]:
        seed = int.from_bytes(
            hashlib.sha256(f"{self.request.seed}/batch {number}".encode()).digest()[:4], "big"
        )
        split = split_named(self.request.split)
        played = frozenset(self.played)
        tasks = self.request.shard.draw_up_to(self.source, split, self.batch_size, seed, played)
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


def held_out_of_run(run: Path) -> list[HeldOut]:
    """The evaluation texts of a run: its held-out tasks.

    Raises:
        UserError: it is not a run with a checkpoint, or its tasks cannot be read.
    """
    origin = find_origin(run, None, (), None, True)
    with closing(verifiers_of(origin.settings.rewards)) as verifiers:
        referee = Referee(origin.settings, verifiers)
        return _held_out(referee, build_source(origin.settings, context_of(origin, referee).fits))


def _held_out(referee: Referee, source: TaskSource) -> list[HeldOut]:
    """Every question that the settings evaluate on: the same draws as a run makes."""
    sizes = referee.settings.evaluate
    drawn: tuple[tuple[Split, int], ...] = (
        ("test", sizes.num_tasks), ("probe", sizes.num_probe_tasks),
        ("audit", sizes.num_audit_tasks),
    )  # fmt: skip
    tasks = [task for split, num in drawn for task in draw_up_to(source, split, num, 0)]
    return held_out_of(source, tasks)


def _keep_held_out(folder: DatasetFolder, texts: Sequence[HeldOut]) -> None:
    """Write the evaluation texts, which must be those that an earlier start wrote."""
    before = read_held_out(folder.path)
    if before is not None and before != list(texts):
        raise UserError(
            f"{folder.path} was decontaminated against other evaluation texts than the settings "
            "have now: give another --out"
        )
    write_held_out(folder.path, texts)
