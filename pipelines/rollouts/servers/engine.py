"""Rollouts by separate vLLM servers, one or several, behind the interface of the engine in-process.

Requests go to whichever server is free. Whether a server served the policy is asked before and
after each batch: stamps are never used twice, so equal stamps at both ends mean that no other
weights served in between, whoever restarted or overwrote what. A server that is lost (killed, hung,
broken off) is restarted, given the weights again with every check, and what it had not answered is
asked again with the same seeds. Leaves out the weights themselves (`sync/push.py`).
"""

import logging
import math
import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from pipelines.errors import EngineLostError, UnprovenSyncError, UserError
from pipelines.policy.fingerprint import UNPROVEN, NamedTensors
from pipelines.policy.manifest import Manifest
from pipelines.rollouts.concurrency import adaptive_concurrency
from pipelines.rollouts.engine import Completion, Sampling, check_prompts
from pipelines.rollouts.routes import Finished, RouteSource
from pipelines.rollouts.servers.client import ReplicaLostError
from pipelines.rollouts.servers.dispatch import HEARTBEAT_SECONDS, PAUSE_SECONDS, Job, T
from pipelines.rollouts.servers.replica import Server
from pipelines.rollouts.spec import EngineSpec
from pipelines.sync.broadcast import Broadcast, reachable_from
from pipelines.sync.replica import Payload, Prove, check_stamp

logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """Requests on their way: what is still to ask, and who answered what."""

    todo: "queue.SimpleQueue[int]"
    answers: dict[str, dict[int, object]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    given_up: bool = False  # an error or the user ends it: nothing more is sent


class ServerEngine:
    """vLLM servers that sample for one role.

    Args:
        spec: what the servers serve.
        servers: at least one; those with a process have been started.
        folder: private to this engine; weights are handed over in it.

    Attributes:
        num_restarts: servers restarted since the start.
        reissued: indices of the last batch's requests that had to be asked again.
    """

    def __init__(self, spec: EngineSpec, servers: Sequence[Server], folder: Path) -> None:
        self.spec, self.settings = spec, spec.settings
        self.replicas = list(servers)
        self.folder, self.weights = folder, UNPROVEN
        settings = spec.settings
        far = settings.weights_directory is None and any(server.is_remote for server in servers)
        self.broadcasts = far if settings.transfer is None else settings.transfer == "broadcast"
        self.prove: Prove = lambda server, _: check_stamp(
            server, self.weights.stamp
        )  # as loaded from disk
        self.num_restarts, self.restarts_in_a_row = 0, 0
        self.reissued: Sequence[int] = ()
        self.concurrency = adaptive_concurrency(settings, self._preemptions)
        self._lock = threading.Lock()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion a prompt, each with its own seed, from the stamped weights only."""
        check_prompts(prompts, sampling.max_tokens, self.settings.max_model_len)

        def ask(server: Server, index: int) -> tuple[Completion, Finished]:
            timeout = self.settings.request_timeout_seconds
            return server.client.generate(
                prompts[index], sampling, seeds[index], self.spec.eos_id, timeout
            )

        source = self.spec.route_source if sampling.routes else None
        job = Job(ask) if source is None else Job(ask, source.begin, _with_routes(source))
        return [completion for completion, _ in self._serve(len(prompts), job)]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of each sequence's tokens after the first (nats)."""
        check_prompts(sequences, 1, self.settings.max_model_len)

        def ask(server: Server, index: int) -> list[float]:
            return server.client.score(sequences[index], self.settings.request_timeout_seconds)

        return self._serve(len(sequences), Job(ask))

    # -- the sync's side ------------------------------------------------------------------------

    def adopt(self, stamp: str, tensors: Callable[[], NamedTensors], prove: Prove) -> None:
        """Make the weights available to every server, and have every server proven.

        Raises:
            UserError: there is no room for them.
        """
        self.prove = prove
        if self.broadcasts:
            self._tensors = _kept(tensors) if self.settings.max_staleness else tensors
        else:
            self._write(tensors)
        self._each(lambda server: self._ensure_proven(server, expected=False))

    def payload(self, replica: Server) -> Payload:
        """The file's path, or an invitation to a broadcast that starts now."""
        if not self.broadcasts:
            return str(self._file)
        host, deadline = reachable_from(replica.client.address), self.settings.liveness_seconds
        num_workers = len(replica.call("sync_state"))
        return Broadcast(self._tensors, host, num_workers, deadline).message()

    def _write(self, tensors: Callable[[], NamedTensors]) -> None:
        whole = {name: tensor.detach().contiguous() for name, tensor in tensors()}
        try:
            save_file(whole, self._file)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the weights cannot be written to {self._file} ({error}): make room there, or "
                "set rollout.weights_directory"
            ) from None

    @property
    def _file(self) -> Path:
        return self.folder / "weights.safetensors"

    def _each(self, do: Callable[[Server], None]) -> None:
        """With every server, side by side."""
        with ThreadPoolExecutor(len(self.replicas)) as pool:
            list(pool.map(do, self.replicas))

    # -- batches and losses ---------------------------------------------------------------------

    def _serve(self, num: int, job: Job[T]) -> list[T]:
        """Answers to `num` requests, however many servers die on the way."""
        answers: dict[int, T] = {}
        reissued: list[int] = []
        fruitless = 0
        while todo := [index for index in range(num) if index not in answers]:
            self._each(lambda server: self._ensure_proven(server, begin=job.begin))
            batch = self._issue(todo, job.ask)
            proven = self._proven(batch, job)
            answers |= proven
            again = [index for index in todo if index not in answers]
            reissued += again
            fruitless = 0 if proven else fruitless + 1
            if proven:
                self.restarts_in_a_row = 0
            if again:
                logger.warning("%d requests are asked again: %s", len(again), batch.lost)
            if fruitless > self.settings.max_restarts:  # the servers live, and answer nothing
                raise EngineLostError(
                    f"{fruitless} rounds in a row brought no completion: {batch.lost}"
                )
        self.reissued = reissued
        return [answers[index] for index in range(num)]

    def _issue(self, todo: Sequence[int], ask: Callable[[Server, int], T]) -> Batch:
        """Send requests to all servers, each taking the next as soon as it is free."""
        batch = Batch(queue.SimpleQueue())
        for index in todo:
            batch.todo.put(index)
        slots = min(self.settings.max_num_seqs, math.ceil(len(todo) / len(self.replicas)))
        pool = ThreadPoolExecutor(slots * len(self.replicas))
        pending = {
            pool.submit(self._pull, server, place, batch, ask): server
            for server in self.replicas
            for place in range(slots)
        }
        try:
            self._watch(pending, batch)
        finally:  # also where the user pressed Ctrl-C: no thread may wait for a server
            batch.given_up = True
            for server in {id(s): s for f, s in pending.items() if not f.done()}.values():
                server.client.abort()
            pool.shutdown()
        for future in pending:
            future.result()  # a refusal is the caller's mistake
        return batch

    def _pull(
        self, server: Server, place: int, batch: Batch, ask: Callable[[Server, int], T]
    ) -> None:
        """One of the senders of a server; those whose place is beyond the limit pause."""
        answers = batch.answers.setdefault(server.label, {})
        while not batch.given_up and server.label not in batch.lost:
            if place >= self.concurrency.limit and not batch.todo.empty():
                time.sleep(PAUSE_SECONDS)
                continue
            try:
                index = batch.todo.get_nowait()
            except queue.Empty:
                return
            try:
                answers[index] = ask(server, index)
            except ReplicaLostError as error:
                batch.lost[server.label] = str(error)
            except Exception:  # told by `_issue`; senders that pause must not wait for it for ever
                batch.given_up = True
                raise

    def _watch(self, pending: dict[Future[None], Server], batch: Batch) -> None:
        """Wait for a batch, asking engines that still work whether they live."""
        waiting = set(pending)
        while waiting:
            _, waiting = wait(waiting, timeout=HEARTBEAT_SECONDS)
            self.concurrency.poll(max(server.client.num_open for server in self.replicas))
            for server in {id(pending[f]): pending[f] for f in waiting}.values():
                if server.label not in batch.lost and not server.heartbeat():
                    batch.lost[server.label] = "its engine does not answer"
                    server.client.abort()

    def _preemptions(self) -> float:
        return sum(server.preemptions() for server in self.replicas)

    def _proven(self, batch: Batch, job: Job[T]) -> dict[int, T]:
        """The answers of servers that still hold the stamped weights; others' are thrown away."""
        kept: dict[int, T] = {}
        for server in self.replicas:
            if server.label in batch.lost:  # what it had answered can no longer be proven
                continue
            try:
                if self._holds_weights(server):
                    kept |= job.end(server, batch.answers.get(server.label, {}))
                else:
                    batch.lost[server.label] = "its weights are no longer those that were proven"
            except ReplicaLostError as error:
                batch.lost[server.label] = str(error)
        return kept

    def _ensure_proven(
        self,
        server: Server,
        expected: bool = True,
        begin: Callable[[Server], None] = lambda server: None,
    ) -> None:
        """Make a server hold the stamped weights, restarting it if need be.

        Args:
            server: the one to ask.
            expected: it should hold them already; if it does not it is probed out of turn.
            begin: done with it last.

        Raises:
            EngineLostError: `rollout.max_restarts` in a row did not help.
            UnprovenSyncError: it lives, but cannot be proven to hold the weights.
        """
        error = ""
        while True:
            try:
                if error or not server.heartbeat():
                    expected = True
                    self._restart(server, error or "its engine does not answer")
                if not self._holds_weights(server):
                    self.prove(server, expected)
                server.reset_prefix_cache()  # as the engine in-process does
                begin(server)
                return
            except ReplicaLostError as lost:
                error = str(lost)
                logger.warning("%s: %s", server.label, error)

    def _holds_weights(self, server: Server) -> bool:
        try:
            check_stamp(server, self.weights.stamp)
        except UnprovenSyncError:
            return False
        return True

    def _restart(self, server: Server, error: str) -> None:
        with self._lock:
            self.num_restarts += 1
            self.restarts_in_a_row += 1
        if self.restarts_in_a_row > self.settings.max_restarts:
            raise EngineLostError(
                f"{server.label} was lost again after rollout.max_restarts = "
                f"{self.settings.max_restarts} restarts without one completion: {error}"
            )
        if server.process is not None:
            server.process.stop()
            server.process.start()
        server.await_ready()

    def await_ready(self, manifest: Manifest) -> None:
        """Wait for every server, and refuse one that cannot serve the policy.

        Raises:
            UserError: it did not start, is not there, or serves something else.
        """
        for server in self.replicas:
            try:
                server.await_ready()
            except ReplicaLostError as error:
                raise UserError(str(error)) from None
            server.check_model(manifest, self.spec.dtype)

    def close(self) -> None:
        """End the servers that this run started, and remove the weights handed over."""
        for server in self.replicas:
            if server.process is not None:
                server.process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


Served = dict[int, tuple[Completion, Finished]]


def _with_routes(source: RouteSource) -> Callable[[Server, Served], Served]:
    """Adds to a server's completions the routes that the same server tells."""

    def end(server: Server, answers: Served) -> Served:
        routes = source.routes(server, [finished for _, finished in answers.values()])
        return {
            index: (replace(completion, routes=own), finished)
            for (index, (completion, finished)), own in zip(answers.items(), routes, strict=True)
        }

    return end


def _kept(tensors: Callable[[], NamedTensors]) -> Callable[[], NamedTensors]:
    """A copy, for a server that is lost while the policy's own weights are being updated."""
    copies = [(name, tensor.detach().clone()) for name, tensor in tensors()]
    return lambda: iter(copies)
