"""One atomic checkpoint per round, and what a resumed run restores from it.

    RUN/checkpoints/round_00003/  learner/, critic/ (exports), state_*.pt, state.json, rng_*.pt;
                                  with LoRA the exports are merged, and *_adapter/ are not
    RUN/best                      a link to one of them, where the run selects

Leaves out the run's other files (`run/directory.py`) and its settings (`run/resumed.py`).
"""

import json
import os
import random
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel

from data.atomic import PARTIAL_SUFFIX, atomic_folder
from pipelines.errors import UserError
from pipelines.policy.adapter import export_adapter
from pipelines.policy.checkpoint import export_policy, trained_tensors
from pipelines.rollouts.sample import Weights
from pipelines.run.schedule import moved
from pipelines.training.trainer import RoleTrainer

KEPT_CHECKPOINTS = 3


class Part(Protocol):
    """Something that a later process continues."""

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: dict) -> None: ...


@dataclass
class Checkpoints:
    """The checkpoints of a run; every process writes its random state, rank 0 the rest."""

    path: Path
    processes: PartialState

    def folder(self, round_: int) -> Path:
        """Where a round's checkpoint lies."""
        return self.path / f"round_{round_:05d}"

    def rounds(self) -> list[int]:
        """The rounds whose complete checkpoints are still there, in order."""
        found = sorted(self.path.glob("round_?????"))
        return [int(folder.name.removeprefix("round_")) for folder in found]

    def last_round(self) -> int | None:
        """The newest complete checkpoint's round."""
        return self.rounds()[-1] if self.rounds() else None

    def last_in_words(self) -> str:
        """The newest complete checkpoint, for a person."""
        last = self.last_round()
        if last is None:
            return "none: the run starts again from its own models"
        return str(self.folder(last))

    def commit(
        self,
        round_: int,
        roles: Mapping[str, RoleTrainer],
        parts: Mapping[str, Part],
        keep: Collection[int],
        best: int | None = None,
    ) -> None:
        """Write everything a later process needs to continue after this round, atomically.

        Args:
            round_: the round just finished.
            roles: both policies.
            parts: the run's other parts, whose states JSON can hold.
            keep: earlier rounds whose checkpoints must not be pruned (the last clean one).
            best: another (the best one), which `RUN/best` shall name.
        """
        is_main = self.processes.is_main_process
        barrier = self.processes.wait_for_everyone
        with atomic_folder(self.folder(round_), owner=is_main, barrier=barrier) as partial:
            torch.save(rng_state(), partial / f"rng_{self.processes.process_index}.pt")
            if is_main:
                for name, role in roles.items():
                    export_policy(role.policy, partial / name)
                    role.sampler.tokenizer.save_pretrained(partial / name)
                    if isinstance(role.policy, PeftModel):
                        export_adapter(role.policy, partial / f"{name}_adapter")
                        role.sampler.tokenizer.save_pretrained(partial / f"{name}_adapter")
                    state = {"trainer": role.state_dict(), "weights": trained_tensors(role.policy)}
                    torch.save(state, partial / f"state_{name}.pt")
                states = {name: part.state_dict() for name, part in parts.items()}
                (partial / "state.json").write_text(json.dumps(states))
        self.point_to_best(best)  # before the one that was the best is pruned
        if is_main:
            self._prune(round_, {*keep, best})
        barrier()

    @property
    def best(self) -> Path:
        """The link to the best checkpoint, where a run selects one."""
        return self.path.parent / "best"

    def point_to_best(self, round_: int | None) -> None:
        """Let `RUN/best` name a round's checkpoint, or be absent; it is never half a link."""
        if not self.processes.is_main_process:
            return
        if round_ is None:
            self.best.unlink(missing_ok=True)
            return
        fresh = self.best.with_name(f"best{PARTIAL_SUFFIX}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.folder(round_).relative_to(self.path.parent))
        os.replace(fresh, self.best)

    def weights(self, round_: int, name: str) -> Weights:
        """A role's tensors that training changes, as they were after a round."""
        file = self.folder(round_) / f"state_{name}.pt"
        saved: Weights = torch.load(file, weights_only=False, map_location="cpu")["weights"]
        return saved

    def restore(
        self, round_: int, roles: Mapping[str, RoleTrainer], parts: Mapping[str, Part]
    ) -> list[str]:
        """Load what `commit` wrote; random states last.

        Returns:
            Whose learning rate goes on otherwise than it would have, and how; one line each.

        Raises:
            UserError: an earlier version of the program wrote it, with other parts.
        """
        folder = self.folder(round_)
        states = json.loads((folder / "state.json").read_text())
        if states.keys() != parts.keys():
            raise _of_another_version(folder)
        try:
            for name, part in parts.items():
                part.load_state_dict(states[name])
        except KeyError as error:  # a part keeps more now than it did
            raise _of_another_version(folder) from error
        said = []
        for name, role in roles.items():
            saved = torch.load(folder / f"state_{name}.pt", weights_only=False, map_location="cpu")
            state, change = moved(saved["trainer"], role.spec)
            role.load_state_dict(state, saved["weights"].items())
            said += [change] if change else []
        own = folder / f"rng_{self.processes.process_index}.pt"
        set_rng_state(torch.load(own, weights_only=False))
        return said

    def _prune(self, round_: int, keep: set[int | None]) -> None:
        kept = {round_ - i for i in range(KEPT_CHECKPOINTS)} | keep
        for folder in self.path.glob("round_*"):
            number = folder.name.removeprefix("round_")
            if number.endswith(PARTIAL_SUFFIX) or int(number) not in kept:
                shutil.rmtree(folder)


def _of_another_version(folder: Path) -> UserError:
    return UserError(
        f"{folder} was written by another version of Sparring: go on with that version, or start a "
        f"new run with learner.model={folder / 'learner'} and critic.model={folder / 'critic'}"
    )


def rng_state() -> dict[str, object]:
    """The states of every generator that a run draws from."""
    state: dict[str, object] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.accelerator.is_available():
        state["accelerator"] = torch.get_device_module().get_rng_state()  # each process has one
    return state


def set_rng_state(state: dict) -> None:
    """Restore what `rng_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "accelerator" in state and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(state["accelerator"])
