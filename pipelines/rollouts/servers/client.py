"""Requests to one vLLM API server over HTTP, on a TCP port or a Unix socket.

Tokens in, tokens and log-probabilities out (`/inference/v1/generate`, so that no text is ever
tokenised again), and calls to the worker (`/collective_rpc`). Every wait has a deadline. Leaves out
whose turn it is (`rollouts/servers/dispatch.py`) and what becomes of a lost server
(`rollouts/servers/engine.py`).
"""

import base64
import contextlib
import http.client
import io
import json
import socket
import threading
from collections.abc import Sequence

import numpy as np

from pipelines.errors import UserError
from pipelines.rollouts.engine import Completion, Sampling
from pipelines.rollouts.routes import Finished


class ReplicaLostError(RuntimeError):
    """A server did not answer, broke off, or answered that its engine is broken."""


class Refused(UserError):
    """A server understood a request and will not serve it: asking again would not help."""


class ServerClient:
    """Sends requests to one server; may be used from several threads.

    Args:
        address: "http://host:port", or the path of a Unix socket.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def num_open(self) -> int:
        """Requests in flight."""
        return len(self._open)

    def get(self, path: str, timeout: float) -> tuple[int, bytes]:
        return self._request("GET", path, None, timeout)

    def post(self, path: str, body: dict, timeout: float) -> dict:
        """The answer to a request that must succeed.

        Raises:
            Refused: status 4xx; the server's own words.
            ReplicaLostError: anything else.
        """
        status, text = self._request("POST", path, body, timeout)
        answer = _table(text)
        if status == 200:
            return answer
        said = answer.get("error", answer)
        message = said.get("message", said) if isinstance(said, dict) else said
        kind = Refused if 400 <= status < 500 else ReplicaLostError
        raise kind(f"{self.address} answered {status} to {path}: {message}")

    def _request(
        self, method: str, path: str, body: dict | None, timeout: float
    ) -> tuple[int, bytes]:
        connection = _connection(self.address, timeout)
        try:
            connection.connect()
            with self._lock:
                self._open.add(connection.sock)
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ReplicaLostError(f"{self.address} {path}: {reason}") from None
        finally:
            with self._lock:
                self._open.discard(connection.sock)
            connection.close()
        return response.status, text

    def abort(self) -> None:
        """Break off every request in progress, in whatever thread it waits."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):  # closed in the meantime
                    sock.shutdown(socket.SHUT_RDWR)

    def rpc(self, method: str, kwargs: dict, timeout: float) -> list[dict]:
        """Call a method of the server's workers; one answer per worker, and at least one.

        Raises:
            ReplicaLostError: among others where nobody answered: silence proves nothing.
        """
        body = {"method": method, "kwargs": kwargs, "timeout": timeout}
        answer = self.post("/collective_rpc", body, timeout)
        results: list[dict] = answer.get("results") or []
        if not results:
            raise ReplicaLostError(f"{self.address} has no worker that answers {method}: {answer}")
        return results

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        seed: int,
        end_ids: Sequence[int],
        timeout: float,
    ) -> tuple[Completion, Finished]:
        """Sample one completion; returns beside it what its routes are asked for by."""
        params = {
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
            "logprobs": 0,
            "detokenize": False,
            "stop_token_ids": list(end_ids),
        }
        body = {"token_ids": list(prompt), "sampling_params": params}
        answer = self.post("/inference/v1/generate", body, timeout)
        (choice,) = answer["choices"]
        if choice["finish_reason"] not in ("stop", "length"):
            raise ReplicaLostError(f"{self.address} ended a request: {choice['finish_reason']}")
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        ids, returned = choice["token_ids"], choice["routed_experts"]
        finished = Finished(
            answer["request_id"],
            [*prompt, *ids],
            None if returned is None else np.load(io.BytesIO(base64.b64decode(returned))),
        )
        return Completion(ids, logprobs, choice["finish_reason"] == "length"), finished

    def score(self, ids: Sequence[int], timeout: float) -> list[float]:
        """Log-probabilities of a sequence's tokens after the first (nats)."""
        params = {"temperature": 1.0, "max_tokens": 1, "seed": 0, "prompt_logprobs": 0}
        body = {"token_ids": list(ids), "sampling_params": params | {"detokenize": False}}
        found = self.post("/inference/v1/generate", body, timeout)["prompt_logprobs"]
        return [
            entry[str(token)]["logprob"] for token, entry in zip(ids[1:], found[1:], strict=True)
        ]


def _table(text: bytes) -> dict:
    try:
        answer = json.loads(text) if text else {}
    except ValueError:
        answer = " ".join(text[:200].decode(errors="replace").split())
    return answer if isinstance(answer, dict) else {"error": str(answer)}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _connection(address: str, timeout: float) -> http.client.HTTPConnection:
    if not address.startswith("http://"):
        return _UnixConnection(address, timeout)
    host, _, port = address.removeprefix("http://").rpartition(":")
    return http.client.HTTPConnection(host, int(port), timeout=timeout)
