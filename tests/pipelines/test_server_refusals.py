"""Servers that are not there, answer something else, or never come back: reported in time.

No vLLM server is started here; `tests/pipelines/test_server_engine.py` has those that are.
"""

import importlib.util
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from pipelines.errors import EngineLostError, UserError
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.concurrency import Concurrency
from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.servers.client import Refused
from pipelines.rollouts.servers.dispatch import Dispatch
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.rollouts.servers.process import ServerProcess
from pipelines.rollouts.servers.replica import Server
from pipelines.rollouts.servers.start import _private_folder, find_server
from pipelines.rollouts.spec import EngineSpec
from pipelines.settings.tables import RolloutTable

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)

QUICK = RolloutTable(
    placement="server", max_model_len=64, start_timeout_seconds=1.0, request_timeout_seconds=100,
    liveness_seconds=0.5,
)  # fmt: skip


def _engine(server: Server, tmp_path: Path) -> ServerEngine:
    spec = EngineSpec(tmp_path, server.settings, "float32", (character_tokenizer().eos_token_id,))
    return ServerEngine(spec, [server], tmp_path)


def test_an_unreachable_server_is_told_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(
        UserError,
        match=r"not ready after rollout.start_timeout_seconds = 1: .*--max-model-len 64 ",
    ):
        _engine(find_server(url, QUICK), tmp_path).await_ready({})


def test_a_server_that_accepts_and_never_answers_is_told_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"was not ready after .*timed out"):
            _engine(find_server(url, QUICK), tmp_path).await_ready({})


@pytest.mark.parametrize(
    ("status", "posted", "told"),
    [
        (200, 404, "is not a rollout server .*VLLM_SERVER_DEV_MODE=1"),
        (200, 200, "has no sync worker .*VLLM_SERVER_DEV_MODE=1"),
        (404, 404, "health answers 404: is the port"),
    ],
)
def test_a_port_that_something_else_has_taken_is_told_at_once(
    tmp_path: Path, status: int, posted: int, told: str
) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def do_POST(self) -> None:
            """As a web application that answers everything with its one page."""
            self.send_response(posted)
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        with pytest.raises(UserError, match=told):
            _engine(find_server(url, QUICK), tmp_path).await_ready({})
        other.shutdown()


def test_a_server_that_never_comes_back_ends_the_run_after_its_restarts(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path, {}, {}, tmp_path, "broken")
    process.command = [
        "bash",
        "-c",
        "echo '(EngineCore pid=7) ERROR ValueError: no memory'; exit 1",
    ]
    settings = QUICK.model_copy(update={"max_restarts": 2, "start_timeout_seconds": 30.0})
    server = find_server("http://127.0.0.1:9", settings)
    server.process = process
    engine = _engine(server, tmp_path)
    with pytest.raises(EngineLostError, match=r"max_restarts = 2 restarts .*ValueError: no memory"):
        engine.generate([[5, 6]], Sampling(4), [1])
    assert engine.restarts.num == 3
    process.stop()


@pytest.mark.timeout(60)
def test_a_refusal_ends_the_senders_that_wait() -> None:
    """Of four senders three wait for room, which never comes."""
    server = find_server("http://127.0.0.1:9", QUICK)
    server.heartbeat = lambda: True  # type: ignore[method-assign]
    concurrency = Concurrency(4, [])
    concurrency.limit = 1

    def refuse(server: Server, index: int) -> None:
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        Dispatch([server], range(8), refuse, concurrency).run()


def test_weights_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(UserError, match=r"set rollout.weights_directory to a folder that exists"):
        _private_folder(QUICK.model_copy(update={"weights_directory": absent}))
    engine = _engine(find_server("http://127.0.0.1:9", QUICK), absent)
    with pytest.raises(UserError, match=r"the weights cannot be written to .*absent"):
        engine.handover.publish(lambda: iter([("a", torch.ones(2))]))


def test_a_server_ends_for_the_reason_of_its_last_start(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path, {}, {}, tmp_path, "restarted")
    for script, reason in (("echo ValueError: poor", "ValueError: poor"), ("", "nothing")):
        process.command = ["bash", "-c", script]
        process.start()
        while process.alive():
            time.sleep(0.01)
        assert process.reason().endswith(reason)
        process.stop()
