"""One server: a replica of the weights, started by this run or found by its URL.

Holds its restart, its health, and the check that what answers is vLLM with the policy's model.
Leaves out what is said over HTTP (`rollouts/servers/client.py`) and whose turn it is
(`rollouts/servers/dispatch.py`).
"""

import shlex
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.errors import UserError
from pipelines.policy.manifest import Manifest, manifest_difference
from pipelines.rollouts.pressure import reported_preemptions
from pipelines.rollouts.servers.client import Refused, ReplicaLostError, ServerClient
from pipelines.rollouts.servers.process import ServerProcess, command_flags
from pipelines.rollouts.vllm_options import (
    DEEPSEEK_ROUTING,
    MLA_KERNEL_LATENT,
    engine_options,
    vllm_version,
)
from pipelines.settings.tables import RolloutTable

READY_POLL_SECONDS = 0.25
LOCAL_HOSTS = ("localhost", "127.0.0.1")


@dataclass
class Server:
    """One server, which is a replica of the weights for the sync.

    Args:
        label: names it in errors.
        client: sends it requests.
        process: its process if this run started it, None for a URL.
        settings: deadlines.
    """

    label: str
    client: ServerClient
    process: ServerProcess | None
    settings: RolloutTable

    @property
    def is_remote(self) -> bool:
        """Whether it may be on another machine."""
        host = self.client.address.removeprefix("http://").rpartition(":")[0]
        return self.process is None and host not in LOCAL_HOSTS

    def call(self, method: str, **kwargs: object) -> list[dict]:
        """Call a method of `RolloutWorker` in the server's workers; one answer per worker."""
        return self.client.rpc(method, kwargs, self.settings.request_timeout_seconds)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of each sequence's tokens after the first (nats)."""
        timeout = self.settings.request_timeout_seconds
        with ThreadPoolExecutor(min(len(sequences), self.settings.max_num_seqs)) as pool:
            return list(pool.map(lambda ids: self.client.score(ids, timeout), sequences))

    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of earlier requests.

        Raises:
            ReplicaLostError: the server would not.
        """
        timeout = self.settings.request_timeout_seconds
        if self.client.post("/reset_prefix_cache", {}, timeout) != {"success": True}:
            raise ReplicaLostError(f"{self.label} would not empty its prefix cache")

    def preemptions(self) -> float:
        """Requests preempted since the server's start; 0 from one that is lost.

        Raises:
            OSError: the server reports no statistics.
        """
        try:
            status, text = self.client.get("/metrics", self.settings.liveness_seconds)
        except ReplicaLostError:
            return 0.0
        return reported_preemptions(text.decode() if status == 200 else "")

    def heartbeat(self) -> bool:
        """Whether the engine itself answers: its loop must run, not only its HTTP server."""
        if self.process is not None and not self.process.alive():
            return False
        try:
            self.client.rpc("sync_state", {}, self.settings.liveness_seconds)
        except (ReplicaLostError, Refused):
            return False
        return True

    def restart(self) -> None:
        """Start it anew if this run started it, and wait until it answers.

        Raises:
            ReplicaLostError: it does not.
        """
        if self.process is not None:
            self.process.stop()
            self.process.start()
        self.await_ready()

    def await_ready(self) -> None:
        """Wait until the server answers.

        Raises:
            ReplicaLostError: it ended, with the reason from its log; the time is up; or something
                else answers.
        """
        deadline = time.monotonic() + self.settings.start_timeout_seconds
        last = "no answer"
        while time.monotonic() < deadline:
            if self.process is not None and not self.process.alive():
                reason = self.process.reason()
                if "memory" in reason.lower():  # vLLM names options of its own
                    gib = self.settings.kv_cache_gib
                    reason += f" (rollout.kv_cache_gib = {gib:g}: change it)"
                raise ReplicaLostError(f"{self.label} ended: {reason}")
            try:
                status, _ = self.client.get("/health", self.settings.liveness_seconds)
            except ReplicaLostError as error:
                last = str(error)
            else:
                if status == 200:
                    return
                if 400 <= status < 500:  # a vLLM server answers 200 or 503
                    raise ReplicaLostError(
                        f"{self.label} is not a rollout server, its /health answers {status}: is "
                        f"the port taken by something else? If not, {how_to_start(self.settings)}"
                    )
                last = f"status {status}"
            time.sleep(READY_POLL_SECONDS)
        raise ReplicaLostError(
            f"{self.label} was not ready after rollout.start_timeout_seconds = "
            f"{self.settings.start_timeout_seconds:g}: {last}"
            + ("" if self.process is not None else f"; {how_to_start(self.settings)}")
        )

    def check_model(self, manifest: Manifest, dtype: str) -> None:
        """Refuse a server that is not the vLLM, the model or the precision that the policy needs.

        Raises:
            UserError: what differs, and what to do.
        """
        try:
            states, models = self.call("sync_state"), self.call("sync_model")
        except Refused as error:
            raise UserError(
                f"{self.label} is not a rollout server ({error}): {how_to_start(self.settings)}"
            ) from None
        except ReplicaLostError as error:
            raise UserError(
                f"{self.label} has no sync worker ({error}): {how_to_start(self.settings)}"
            ) from None
        here = vllm_version()
        for state, model in zip(states, models, strict=True):
            if state["vllm"] != here:
                raise UserError(
                    f"{self.label} runs vLLM {state['vllm']}, this run {here}: use one version"
                )
            theirs = {name: tuple(shape) for name, shape in model["manifest"].items()}
            if wrong := manifest_difference(manifest, theirs):
                raise UserError(
                    f"{self.label} serves another model, {model['model']}: of its tensors the "
                    f"policy has {wrong}: start it from the policy's own checkpoint"
                )
            wanted = {
                "dtype": dtype,
                "max_model_len": self.settings.max_model_len,
                "logprobs_mode": "processed_logprobs",
            }
            for name, value in wanted.items():
                if model[name] != value:
                    raise UserError(
                        f"{self.label} was started with {name} {model[name]}, the run needs "
                        f"{value}: start it anew with --{name.replace('_', '-')} {value}"
                    )


def how_to_start(settings: RolloutTable) -> str:
    """What a server that the run is given by its URL must be started with."""
    routing = shlex.join(command_flags(DEEPSEEK_ROUTING))
    return (
        "start it with VLLM_SERVER_DEV_MODE=1 (for latent attention on CPU also VLLM_MLA_DISABLE=1,"
        f" unless the latent is {MLA_KERNEL_LATENT}) and this checkout on PYTHONPATH: python -m "
        "vllm.entrypoints.openai.api_server --host 127.0.0.1 --port PORT --model CHECKPOINT "
        f"--dtype DTYPE --tokens-only {shlex.join(command_flags(engine_options(settings)))} "
        f"(a DeepSeek checkpoint of stock transformers also needs {routing})"
    )
