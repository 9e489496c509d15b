"""One vLLM API server as a child of the run: started, watched, ended.

It listens on a Unix socket in a private folder, so that no port can be taken and nobody else can
reach its developer endpoints, which `/collective_rpc` needs. Leaves out requests to it
(`rollouts/servers/client.py`) and when it is restarted (`rollouts/servers/engine.py`).
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pipelines.process import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[3]
# What a launcher says of the trainers' process group is not the server's.
LAUNCHER_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
LOG_TAIL_BYTES = 64_000
# A line of vLLM's log with the exception that ended it; its prefix names process and place.
ERROR_LINE = re.compile(
    r"^(?:\(.*?\) )?(?:ERROR [^\]]*\] )?\s*((?:\w+\.)*\w*(?:Error|Exception): .+)"
)
# Said of the real error before, so no news.
CONSEQUENCES = ("Engine core initialization failed", "Engine process failed to start")


class ServerProcess:
    """A vLLM API server in a process group of its own.

    Args:
        directory: the checkpoint to start from.
        options: vLLM's engine options, as `LLM` would take them.
        environment: what to add to the environment.
        folder: private; gets the socket and the log.
        label: names the server's files.
    """

    def __init__(
        self,
        directory: Path,
        options: Mapping[str, object],
        environment: Mapping[str, str],
        folder: Path,
        label: str,
    ) -> None:
        self.socket, self.log = folder / f"{label}.sock", folder / f"{label}.log"
        self.command = [
            *(
                sys.executable,
                "-m",
                "pipelines.rollouts.servers.warden",
                str(os.getpid()),
                str(folder),
            ),
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(directory.resolve()), "--uds", str(self.socket), "--tokens-only"),
            *("--disable-uvicorn-access-log", *command_flags(options)),
        ]
        self.environment = _environment(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # earlier starts wrote what is before

    def start(self) -> None:
        """Start it anew; it answers on its socket some seconds later."""
        assert self._process is None, "stop() comes first"
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.command, env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process group; its leader is the warden."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Kill the whole group: no process of a broken engine may linger and hold its memory."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self.socket.unlink(missing_ok=True)

    def reason(self) -> str:
        """What the log says of its end: the last exception that is not a mere consequence."""
        log = self.log.read_bytes()[self._log_start :]
        text = log[-LOG_TAIL_BYTES:].decode(errors="replace")
        errors = [found.group(1) for line in text.splitlines() if (found := ERROR_LINE.match(line))]
        causes = [line for line in errors if not any(known in line for known in CONSEQUENCES)]
        lines = text.splitlines() or ["its log says nothing"]
        return (causes or errors or lines)[-1]


def command_flags(options: Mapping[str, object]) -> list[str]:
    """Engine options as the server's command line takes them."""
    flags = []
    for name, value in options.items():
        words = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{words}" if value else f"--no-{words}")
        else:
            flags += [f"--{words}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: this checkout first on the path, developer endpoints on."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Without multiprocessing the worker runs in the engine's process, which is one of its own all
    # the same: one process less, and no shared-memory queue that a kill would leave behind.
    own = {"PYTHONPATH": path, "VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    inherited = {n: v for n, v in os.environ.items() if n not in LAUNCHER_VARIABLES}
    return {**ENVIRONMENT, **inherited, **own, "VLLM_LOGGING_LEVEL": "WARNING", **more}
