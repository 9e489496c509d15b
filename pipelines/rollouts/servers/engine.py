"""Rollouts by separate vLLM servers, one or several, behind the interface of the engine in-process.

Requests go to whichever server is free. Whether a server served the policy is asked before and
after each batch: stamps are never used twice, so equal stamps at both ends mean that no other
weights served in between, whoever restarted or overwrote what. A server that is lost (killed, hung,
broken off) is restarted, given the weights again with every check, and what it had not answered is
asked again with the same seeds. Leaves out the sending of one batch's requests
(`rollouts/servers/dispatch.py`), the weights (`rollouts/servers/handover.py`) and their checks
(`sync/proof.py`).
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pipelines.errors import EngineLostError, UnprovenSyncError, UserError
from pipelines.policy.fingerprint import UNPROVEN
from pipelines.policy.manifest import Manifest
from pipelines.rollouts.concurrency import adaptive_concurrency
from pipelines.rollouts.engine import Completion, Sampling, check_prompts
from pipelines.rollouts.servers.client import ReplicaLostError
from pipelines.rollouts.servers.dispatch import Dispatch
from pipelines.rollouts.servers.handover import Handover
from pipelines.rollouts.servers.jobs import GenerateJob, Job, ScoreJob, T
from pipelines.rollouts.servers.replica import Server
from pipelines.rollouts.servers.restarts import Restarts
from pipelines.rollouts.spec import EngineSpec
from pipelines.sync.proof import Proof
from pipelines.sync.replica import check_stamp

logger = logging.getLogger(__name__)


class ServerEngine:
    """vLLM servers that sample for one role.

    Args:
        spec: what the servers serve.
        servers: at least one; those with a process have been started.
        folder: private to this engine; weights are handed over in it.

    Attributes:
        reissued: indices of the last batch's requests that had to be asked again.
        restarts: of its servers.
    """

    def __init__(self, spec: EngineSpec, servers: Sequence[Server], folder: Path) -> None:
        self.spec, self.settings, self.folder = spec, spec.settings, folder
        self.replicas, self.weights = list(servers), UNPROVEN
        self.handover = Handover(folder, servers, spec.settings)
        self.proof: Proof | None = None  # of what was published last
        self.restarts = Restarts(spec.settings.max_restarts)
        self.reissued: Sequence[int] = ()
        self.concurrency = adaptive_concurrency(spec.settings, self._preemptions)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion per prompt, each with its own seed, from stamped weights only."""
        check_prompts(prompts, sampling.max_tokens, self.settings.max_model_len)
        job = GenerateJob(
            prompts,
            sampling,
            seeds,
            self.spec.end_ids,
            self.settings.request_timeout_seconds,
            self.spec.route_source if sampling.routes else None,
        )
        return [completion for completion, _ in self._serve(len(prompts), job)]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of each sequence's tokens after the first (nats)."""
        check_prompts(sequences, 1, self.settings.max_model_len)
        job = ScoreJob(sequences, self.settings.request_timeout_seconds)
        return self._serve(len(sequences), job)

    def publish(self, proof: Proof) -> None:
        """Make the weights available to every server, and have every server proven.

        Raises:
            UnprovenSyncError: a server cannot be proven to hold them.
            EngineLostError: a server was lost again and again.
            UserError: there is no room for them.
        """
        self.proof = proof
        self.handover.publish(proof.tensors)
        self._side_by_side(partial(self._ensure_proven, was_proven=False))

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

    def _preemptions(self) -> float:
        return sum(server.preemptions() for server in self.replicas)

    def _side_by_side(self, do: Callable[[Server], None]) -> None:
        with ThreadPoolExecutor(len(self.replicas)) as pool:
            list(pool.map(do, self.replicas))

    # -- batches ----------------------------------------------------------------------------------

    def _serve(self, num: int, job: Job[T]) -> list[T]:
        """Answers to `num` requests, however many servers die on the way.

        Raises:
            EngineLostError: the servers live, but nothing that they answer can be proven.
        """
        answers: dict[int, T] = {}
        reissued: list[int] = []
        fruitless = 0
        while todo := [index for index in range(num) if index not in answers]:
            self._side_by_side(partial(self._prepare, job=job))
            dispatch = Dispatch(self.replicas, todo, job.ask, self.concurrency)
            dispatch.run()
            proven = self._proven(dispatch, job)
            answers |= proven
            again = [index for index in todo if index not in answers]
            reissued += again
            if again:
                logger.warning("%d requests are asked again: %s", len(again), dispatch.lost)
            if proven:
                fruitless = 0
                self.restarts.helped()
                continue
            fruitless += 1
            if fruitless > self.settings.max_restarts:
                raise EngineLostError(
                    f"{fruitless} rounds in a row brought no completion: {dispatch.lost}"
                )
        self.reissued = reissued
        return [answers[index] for index in range(num)]

    def _prepare(self, server: Server, job: Job[T]) -> None:
        self._ensure_proven(server, was_proven=True, job=job)

    def _proven(self, dispatch: Dispatch[T], job: Job[T]) -> dict[int, T]:
        """The answers of servers that still hold the stamped weights; others' are thrown away."""
        kept: dict[int, T] = {}
        for server in self.replicas:
            if server.label in dispatch.lost:  # what it had answered can no longer be proven
                continue
            try:
                if self._holds_weights(server):
                    kept |= job.end(server, dispatch.answers[server.label])
                else:
                    reason = "its weights are no longer those that were proven"
                    dispatch.lost[server.label] = reason
            except ReplicaLostError as error:
                dispatch.lost[server.label] = str(error)
        return kept

    # -- weights and losses -----------------------------------------------------------------------

    def _ensure_proven(self, server: Server, was_proven: bool, job: Job[T] | None = None) -> None:
        """Make a server hold the published weights, restarting it if need be.

        Args:
            server: the one to ask.
            was_proven: it should hold them already; if it does not, it was lost.
            job: it is prepared for this job last.

        Raises:
            EngineLostError: `rollout.max_restarts` in a row did not help.
            UnprovenSyncError: it lives, but cannot be proven to hold the weights.
        """
        lost_for = None if server.heartbeat() else "its engine does not answer"
        while True:
            try:
                if lost_for is not None:
                    self.restarts.count(server.label, lost_for)
                    server.restart()
                if not self._holds_weights(server):
                    self._prove(server, lost=was_proven or lost_for is not None)
                server.reset_prefix_cache()  # as the engine in-process does
                if job is not None:
                    job.begin(server)
                return
            except ReplicaLostError as error:
                lost_for = str(error)
                logger.warning("%s: %s", server.label, lost_for)

    def _prove(self, server: Server, lost: bool) -> None:
        if self.proof is not None:
            self.proof.prove(server, partial(self.handover.payload, server), lost)
        check_stamp(server, self.weights.stamp)  # refused where a later sync never published

    def _holds_weights(self, server: Server) -> bool:
        try:
            check_stamp(server, self.weights.stamp)
        except UnprovenSyncError:
            return False
        return True
