"""Starts a role's servers, or finds them by their URLs."""

import atexit
import tempfile
from pathlib import Path

from transformers import AutoConfig

from pipelines.errors import UserError
from pipelines.rollouts.routes import returned_option, route_source
from pipelines.rollouts.servers.client import ServerClient
from pipelines.rollouts.servers.engine import ServerEngine
from pipelines.rollouts.servers.process import ServerProcess
from pipelines.rollouts.servers.replica import Server
from pipelines.rollouts.vllm_options import SYNC_WORKER, choose_attention, engine_options
from pipelines.settings.tables import RolloutTable

SHARED_MEMORY = Path("/dev/shm")


def start_server(
    directory: Path,
    settings: RolloutTable,
    dtype: str,
    folder: Path,
    label: str,
    worker: str = SYNC_WORKER,
) -> Server:
    """Start a server of our own; `await_ready` waits for it."""
    config = AutoConfig.from_pretrained(directory)
    attention = choose_attention(config)
    options = {"dtype": dtype, **engine_options(settings), **attention.options}
    options |= returned_option(config, settings.routing_replay)
    options["worker_extension_cls"] = worker
    process = ServerProcess(directory, options, attention.environment, folder, label)
    process.start()
    return Server(f"server {label}", ServerClient(str(process.socket)), process, settings)


def find_server(url: str, settings: RolloutTable) -> Server:
    """A server that somebody else started."""
    return Server(f"server {url}", ServerClient(url), None, settings)


def open_engine(
    name: str,
    directory: Path,
    settings: RolloutTable,
    dtype: str,
    eos_id: int,
    rank: int = 0,
    world_size: int = 1,
) -> ServerEngine:
    """A role's engine: its servers are started, or found by their URLs; nothing is waited for.

    Args:
        name: "learner" or "critic".
        directory: the checkpoint that the role starts from.
        settings: the `[rollout]` table.
        dtype: the policy's.
        eos_id: the token id that ends a completion.
        rank: of this process; each process has servers of its own.
        world_size: number of processes.

    Raises:
        UserError: the URLs cannot be shared out evenly.
    """
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
        servers = [start_server(directory, settings, dtype, folder, label) for label in labels]
    source = route_source(
        AutoConfig.from_pretrained(directory),
        settings.routing_replay,
        eager=bool(engine_options(settings)["enforce_eager"]),
    )
    engine = ServerEngine(servers, settings, eos_id, folder, source)
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
