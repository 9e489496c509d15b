"""Which records may be imitated, and which of them a block takes.

    records -> those that a verifier passed, of training tasks, young enough
            -> a share of tasks that the learner still fails, the rest of all tasks alike

Pure functions. Leaves out how the block is trained and what became of it (`game/feedback.py`).
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from data.errors import UserError
from data.records import Record
from data.sealed import record_digest


@dataclass(frozen=True)
class Imitated:
    """A record in a block, and whether it is there because the learner still fails its task."""

    record: Record
    is_replayed: bool


def verified(
    records: Iterable[Record],
    oldest: int,
    held_out: Collection[str],
    rounds: Collection[int] | None = None,
) -> list[Record]:
    """The records that may be imitated: admitted, of training tasks, and young enough.

    Args:
        records: of any rounds.
        oldest: the first round that is young enough.
        held_out: ids of tasks that measure: none of theirs is taken, whatever its record says.
        rounds: takes those of these rounds alone.

    Raises:
        UserError: a record was changed after it was admitted.
    """
    found = [
        record for record in records
        if record.accepted and record.verdict_outcome == "correct" and record.round >= oldest
        and (rounds is None or record.round in rounds) and is_for_training(record, held_out)
    ]  # fmt: skip
    for record in found:
        if record.sha256 != record_digest(record):
            raise UserError(
                f"record {record.id} of round {record.round} does not match its sha256: its shard "
                "in RUN/corpus was edited; move the shard away"
            )
    return found


def is_for_training(record: Record, held_out: Collection[str]) -> bool:
    """Whether a record's task is one to train on."""
    return record.split == "train" and record.task_id not in held_out and not record.contamination


def choose(
    pool: Sequence[Record],
    failed: Collection[str],
    num: int,
    replay_share: float,
    max_copies: int,
    rng: random.Random,
) -> list[Imitated]:
    """Draw a block's records, shuffled; every task has as many, while it has any left.

    Args:
        pool: those that may be imitated.
        failed: ids of the tasks that the learner still fails.
        num: how many, at most `max_copies` of each.
        replay_share: the share that is of failed tasks; fewer where those have too few records.
        rng: draws.

    Returns:
        `num` of them; fewer where the pool does not hold so many.
    """
    hard = [record for record in pool if record.task_id in failed]
    replayed = list(islice(_in_turn(hard, max_copies, rng), round(replay_share * num)))
    copies = Counter(record.id for record in replayed)
    others = list[Record]()
    for record in _in_turn(pool, max_copies, rng):
        if len(replayed) + len(others) == num:
            break
        if copies[record.id] < max_copies:
            copies[record.id] += 1
            others.append(record)
    chosen = [Imitated(one, True) for one in replayed] + [Imitated(one, False) for one in others]
    rng.shuffle(chosen)
    return chosen


def _in_turn(records: Sequence[Record], max_copies: int, rng: random.Random) -> Iterator[Record]:
    """Each record `max_copies` times, the tasks taking turns."""
    by_task = defaultdict[str, list[Record]](list)
    for record in records:
        by_task[record.task_id].append(record)
    queues = list(by_task.values())
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
        queue *= max_copies  # in place: the task's records one after the other, then again
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))
