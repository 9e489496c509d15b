"""What every program does first: a checkout of its own, clear failures, quiet libraries.

Imports neither torch nor any other library that reads the environment set here. Leaves out the
failures themselves (`pipelines/errors.py`).
"""

import contextlib
import ctypes
import importlib.util
import logging
import os
import platform
import select
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from pipelines.errors import EngineLostError, UnprovenSyncError, UserError

PACKAGES = ("pipelines", "model", "rewards", "critic", "data")

logger = logging.getLogger(__name__)

USER_ERROR, UNPROVEN_SYNC, ENGINE_LOST, INTERRUPTED = 2, 4, 5, 130
# How a launcher is called that writes more when a program of its ends badly.
LAUNCHERS = {"accelerate", "torchrun", "accelerate.commands.launch", "torch.distributed.run"}
LAUNCHER_SECONDS = 30.0
LINGER_SECONDS = 10.0  # of a process that is not rank 0, after its last line
ENVIRONMENT = {
    "KMP_BLOCKTIME": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
# glibc's mallopt: option number (malloc.h) and value.
MALLOC_OPTIONS = {
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
    "M_TOP_PAD": (-2, 64 * 2**20),
    "M_MMAP_THRESHOLD": (-3, 2**30),
}


@contextlib.contextmanager
def fail_clearly() -> Iterator[None]:
    """Turn what a user did or must know into one line and an exit status.

    A `UserError` is a mistake (2), an `UnprovenSyncError` ends a run whose samples may not be
    trusted (4), an `EngineLostError` one whose sampler is gone (5); Ctrl-C and SIGTERM are 130.
    Anything else is a bug and keeps its traceback. Every process reports its own mistake, since
    perhaps only its servers failed. An exception's notes, such as how to go on, follow its line.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        whose = "" if rank == "0" else f" (process {rank})"
        _end(f"error{whose}: {' '.join(str(error).split())}", error, USER_ERROR)
    except UnprovenSyncError as error:
        _end(f"weight sync not proven, run stopped: {error}", error, UNPROVEN_SYNC)
    except EngineLostError as error:
        _end(f"rollout engine lost, run stopped: {error}", error, ENGINE_LOST)
    except KeyboardInterrupt as error:
        _end("interrupted", error, INTERRUPTED, lingers=False)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _end(line: str, error: BaseException, status: int, lingers: bool = True) -> NoReturn:
    line = "; ".join([line, *getattr(error, "__notes__", [])])
    sys.stderr.write(f"{line}\n")  # `print` unbuffered writes a line and its end apart
    sys.stderr.flush()
    if os.environ.get("RANK", "0") == "0":
        _say_last(line)
    elif lingers:
        # The launcher ends every process as soon as one ends: let rank 0 say its line first.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))
        time.sleep(LINGER_SECONDS)
    raise SystemExit(status) from None


def _say_last(line: str) -> None:
    """Say a line once more when the launcher has ended.

    `accelerate launch` writes a traceback of its own below the line of a program that ends with
    another status than 0, and that is what a person would read last.
    """
    parent = os.getppid()
    try:
        words = Path(f"/proc/{parent}/cmdline").read_text(errors="replace").split("\0")[:4]
        if not LAUNCHERS & {word.rpartition("/")[2] for word in words}:
            return
        launcher = os.pidfd_open(parent)
    except (OSError, AttributeError):  # it has ended before us, or this is no Linux
        return
    if os.fork():
        return
    try:  # a process of its own, which outlives the launcher and does nothing else
        os.setsid()
        waiting = select.poll()
        waiting.register(launcher, select.POLLIN)
        waiting.poll(1000 * LAUNCHER_SECONDS)
        os.write(2, f"{line}\n".encode())
    finally:
        os._exit(0)


def prepare_process() -> None:
    """Set what libraries read when they are imported: call it before torch is.

    Two OpenMP runtimes (torch's and vLLM's) share the cores; threads that spin while they wait
    slow each other down by an order of magnitude, so they sleep instead.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("transformers", "trl", "accelerate", "datasets", "vllm", "torch._library.triton"):
        logging.getLogger(name).setLevel(logging.ERROR)
    keep_freed_memory()
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def keep_freed_memory() -> None:
    """Let the C library reuse what was freed, where it is glibc; elsewhere nothing changes.

    By default glibc returns every large block to the kernel at once, and the kernel zeroes the
    next one page by page: a training step, whose tensors are the same every time, spends up to a
    quarter of its time there. The process keeps its peak of memory instead (`docs/model.md`).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for name, (option, value) in MALLOC_OPTIONS.items():
        if libc.mallopt(option, value) != 1:
            logger.warning("glibc refused %s=%d: steps will be slower", name, value)


def on_cpu() -> bool:
    """Whether this machine has no accelerator."""
    import torch  # only now: it reads what `prepare_process` sets

    return not torch.accelerator.is_available()


def require_checkout(root: Path | None = None) -> None:
    """Refuse to start where one of the five packages would be imported from another place.

    Args:
        root: the checkout; by default the one that holds this file.

    Raises:
        UserError: a package cannot be found, or resolves outside the checkout.
    """
    root = (root or Path(__file__).parents[1]).resolve()
    for name in PACKAGES:
        found = package_folders(name)
        if not found:
            raise UserError(
                f"package {name!r} cannot be imported: run `make setup` in {root} and start with "
                "its .venv"
            )
        foreign = [folder for folder in found if folder != root / name]
        if foreign:
            raise UserError(
                f"package {name!r} resolves to {foreign[0]}, outside the checkout {root}: start "
                "with this checkout's own .venv (`make setup`), and remove that folder from "
                "PYTHONPATH or uninstall the package that brought it"
            )


def package_folders(name: str) -> tuple[Path, ...]:
    """The folders that `import name` would read, without importing it; empty where it fails."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return ()
    if spec.submodule_search_locations is None:  # a plain module such as data.py
        return (Path(spec.origin or name).resolve(),)
    return tuple(Path(folder).resolve() for folder in spec.submodule_search_locations)
