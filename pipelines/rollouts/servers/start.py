"""Starts a role's servers, or finds them by their URLs.

Leaves out a server's process (`rollouts/servers/process.py`) and waiting until it is ready.
"""

import atexit
import tempfile
from pathlib import Path

from pipelines.errors import UserError
from pipelines.rollouts.servers.client import ServerClient
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.rollouts.servers.process import ServerProcess
from pipelines.rollouts.servers.replica import Server
from pipelines.rollouts.spec import EngineSpec
from pipelines.rollouts.vllm_options import SYNC_WORKER
from pipelines.settings.tables import RolloutTable

SHARED_MEMORY = Path("/dev/shm")


def start_server(spec: EngineSpec, folder: Path, label: str, worker: str = SYNC_WORKER) -> Server:
    """Start a server of our own; `await_ready` waits for it.

    Args:
        spec: what it serves.
        folder: private; gets its socket and log.
        label: names it.
        worker: dotted path of the class that vLLM mixes into its worker.
    """
    options = {**spec.options, "worker_extension_cls": worker}
    process = ServerProcess(spec.directory, options, spec.attention.environment, folder, label)
    process.start()
    return Server(f"server {label}", ServerClient(str(process.socket)), process, spec.settings)


def find_server(url: str, settings: RolloutTable) -> Server:
    """A server that somebody else started."""
    return Server(f"server {url}", ServerClient(url), None, settings)


def open_engine(name: str, spec: EngineSpec, rank: int = 0, world_size: int = 1) -> ServerEngine:
    """A role's engine: its servers are started, or found by their URLs; nothing is waited for.

    Args:
        name: "learner" or "critic".
        spec: what they serve.
        rank: of this process; each process has servers of its own.
        world_size: number of processes.

    Raises:
        UserError: the URLs cannot be shared out evenly.
    """
    settings = spec.settings
    urls = settings.urls.get(name, ())
    if len(urls) % world_size:
        raise UserError(
            f"rollout.urls.{name} names {len(urls)} servers for {world_size} processes: each "
            "needs the same number of its own"
        )
    folder = _private_folder(settings)
    if urls:
        servers = [find_server(url, settings) for url in urls[rank::world_size]]
    else:
        labels = [f"{name}-{rank}-{number}" for number in range(settings.servers)]
        servers = [start_server(spec, folder, label) for label in labels]
    engine = ServerEngine(spec, servers, folder)
    atexit.register(engine.close)
    return engine


def _private_folder(settings: RolloutTable) -> Path:
    """A folder for sockets, logs and weights, in memory where the system offers that.

    Raises:
        UserError: nothing can be written where the settings want it.
    """
    base = settings.weights_directory or (SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
    try:
        return Path(tempfile.mkdtemp(prefix="sparring-", dir=base))
    except OSError as error:
        raise UserError(
            f"weights cannot be handed over in {base} ({error.strerror}): set "
            "rollout.weights_directory to a folder that exists and can be written to"
        ) from None
