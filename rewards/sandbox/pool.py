"""The sandbox that works here, and several of it side by side.

Programs are judged in parallel, each in a sandbox that is warm; one that hangs holds up its own.
"""

import logging
import threading
from collections.abc import Callable
from queue import LifoQueue
from typing import TypeVar

from rewards.sandbox import launch
from rewards.sandbox.sandbox import Sandbox, SandboxError
from rewards.sandbox.settings import Kind, SandboxSettings

_log = logging.getLogger(__name__)
T = TypeVar("T")


def choose(settings: SandboxSettings) -> Kind:
    """The kind of sandbox: the one that is set, or the first strong one that works.

    Raises:
        UserError: it does not work here, or none does; the weak one is not chosen unasked.
    """
    if settings.kind == "weak":
        _log.warning("%s", launch.WEAK)
    reasons: list[str] = []
    for kind in launch.strong_kinds() if settings.kind == "auto" else (settings.kind,):
        why = launch.missing(kind) or _tried(settings, kind)
        if not why:
            return kind
        reasons.append(f"{kind}: {why}")
    raise launch.refuse(reasons)


def _tried(settings: SandboxSettings, kind: Kind) -> str:
    """Why a kind does not work; "" if it runs a program."""
    sandbox = Sandbox(settings, timeout_seconds=10.0, kind=kind)
    try:
        outcome = sandbox.run_script(["print(6 * 7)"])
    except SandboxError as error:
        return str(error)
    finally:
        sandbox.close()
    if outcome.stdout == b"42\n" and outcome.exit == 0:
        return ""
    return outcome.fault or f"a program that prints 42 ended as {outcome}"


class SandboxPool:
    """Sandboxes that take one program at a time each; close it to end them.

    Nothing is started before the first program, and a sandbox only when all others are busy.

    Args:
        settings: of each.
        timeout_seconds: a program's processor time.
        size: the most sandboxes, 1 or more.
    """

    def __init__(self, settings: SandboxSettings, timeout_seconds: float, size: int) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least 1 sandbox, got {size}")
        self._settings, self._timeout_seconds, self._size = settings, timeout_seconds, size
        self._sandboxes: list[Sandbox] = []
        self._free: LifoQueue[Sandbox] = LifoQueue()
        self._lock = threading.Lock()

    @property
    def pids(self) -> list[int]:
        """Process ids of the guests that live."""
        return [one.pid for one in self._sandboxes if one.pid is not None]

    def use(self, ask: Callable[[Sandbox], T]) -> T:
        """Call `ask` with a free sandbox, waiting for one.

        Raises:
            UserError: no sandbox works here.
            SandboxError: one that worked does so no longer.
        """
        with self._lock:
            if not self._sandboxes:
                kind = choose(self._settings)
                self._sandboxes = [
                    Sandbox(self._settings, self._timeout_seconds, kind) for _ in range(self._size)
                ]
                for one in reversed(self._sandboxes):
                    self._free.put(one)
        sandbox = self._free.get()
        try:
            return ask(sandbox)
        finally:
            self._free.put(sandbox)

    def close(self) -> None:
        """End the sandboxes; another program starts new ones."""
        for one in self._sandboxes:
            one.close()
