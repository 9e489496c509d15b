"""The critic's pool: earlier critics that check its word, and one of another seed that only audits.

    start          the critic that the run began with
    round_00003    the critic after a round, every so many rounds; the latest few of these
    auditor        a checkpoint that neither points nor learns, if one is named

A member's weights take the critic's place in its engine while it is asked, proven like any others,
and the critic's come back. Members stand in the run's directory as the tensors that training
changes, so that a resumed run has the same ones. Leaves out what follows from their words
(`game/learner.py`, `game/examiner.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.records import Task
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Player, Sample, Weights
from rewards.solution import Solution

START = "start"


class Pool:
    """The members beside the critic.

    Args:
        folder: theirs; it may not exist yet.
        critic: whose engine serves them.
        save: writes weights to a file, whole or not at all.
        read: reads what `save` wrote.
        same: whether two critics are one: nobody confirms its own word.
        size: the most members that check its word, the start among them; 0 keeps none.
        every: rounds between two snapshots.
        auditor: weights of the critic of another origin; None without one.
        owner: whether this process writes the files.
    """

    def __init__(
        self,
        folder: Path,
        critic: Player,
        save: Callable[[Path, Weights], None],
        read: Callable[[Path], Weights],
        same: Callable[[Weights, Weights], bool],
        size: int,
        every: int,
        auditor: Weights | None = None,
        owner: bool = True,
    ) -> None:
        self.folder, self.critic, self.save, self.read = folder, critic, save, read
        self.same = same
        self.size, self.every, self.auditor, self.owner = size, every, auditor, owner

    def members(self) -> list[str]:
        """Names of those that may check its word: the start, then the latest snapshots.

        One more than are asked: the critic itself may be among them.
        """
        snapshots = sorted((p.stem for p in self.folder.glob("round_*.safetensors")), reverse=True)
        started = [START] if self._file(START).exists() else []
        return (started + snapshots)[: self.size + 1] if self.size else []

    def begin(self) -> None:
        """Keep the critic that the run begins with."""
        if self.size and self.owner:
            self._keep(START)

    def after(self, round_: int) -> None:
        """Keep the critic that stands after a round, where one is due; forget the oldest."""
        if not self.owner or self.size < 2 or (round_ + 1) % self.every:
            return
        self._keep(f"round_{round_:05d}")
        snapshots = sorted(self.folder.glob("round_*.safetensors"))
        for path in snapshots[: max(0, len(snapshots) - self.size)]:
            path.unlink()

    def drop_from(self, round_: int) -> None:
        """Forget what an earlier process kept of rounds that are played again."""
        for path in self.folder.glob("round_*.safetensors"):
            if self.owner and int(path.stem.removeprefix("round_")) >= round_:
                path.unlink()

    def ask(
        self, referee: Referee, pairs: Sequence[tuple[Task, Solution]], purpose: str
    ) -> list[list[Sample | None]]:
        """Each member's critiques of the solutions, unread, as `Referee.criticise` gives them.

        Args:
            referee: writes the prompts.
            pairs: tasks and solutions.
            purpose: names the call in the seeds.

        Returns:
            `size` lists; none where there are not yet as many that differ from the critic.
        """
        own = self.critic.weights_copy()
        kept = [(name, self.read(self._file(name))) for name in self.members()]
        others = [(name, weights) for name, weights in kept if not self.same(weights, own)]
        if len(others) < self.size:
            return []
        said = []
        for name, weights in others[: self.size]:
            with self._as(weights):
                said.append(referee.criticise(pairs, self.critic, f"{purpose} by {name}"))
        return said

    @contextmanager
    def as_auditor(self) -> Iterator[None]:
        """Within the block the critic answers with the auditor's weights."""
        assert self.auditor is not None, "ask only where there is one"
        with self._as(self.auditor):
            yield

    @contextmanager
    def _as(self, weights: Weights) -> Iterator[None]:
        own = self.critic.weights_copy()
        self.critic.put_back(weights)
        try:
            yield
        finally:
            self.critic.put_back(own)

    def _keep(self, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.save(self._file(name), self.critic.weights_copy())

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
