"""What every entry point needs of its process: clear failures, quiet libraries, its task source."""

import contextlib
import ctypes
import logging
import os
import platform
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import NoReturn

from data.sources import TaskSource, make_source
from pipelines.settings import Settings

logger = logging.getLogger(__name__)

USER_ERROR, UNPROVEN_SYNC, ENGINE_LOST, INTERRUPTED = 2, 4, 5, 130
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


class UnprovenSyncError(RuntimeError):
    """The engine does not hold the policy's weights; no sample may be used."""


class EngineLostError(RuntimeError):
    """A rollout server died, and restarting it did not help."""


@contextlib.contextmanager
def fail_clearly() -> Iterator[None]:
    """Turn what a user did or must know into one line and an exit status of its own.

    A ValueError is a mistake (2; each process tells its own: one's servers alone may fail), an
    `UnprovenSyncError` ends a run that no sample may be trusted of (4), an `EngineLostError` one
    whose sampler is gone (5), Ctrl-C and SIGTERM are 130. Anything else is a bug and keeps its
    traceback.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except ValueError as error:
        rank = os.environ.get("RANK", "0")  # mostly all make it, but each has servers of its own
        whose = "" if rank == "0" else f" (process {rank})"
        _end(f"error{whose}: {' '.join(str(error).split())}", USER_ERROR)
    except UnprovenSyncError as error:
        _end(f"weight sync not proven, run stopped: {error}", UNPROVEN_SYNC)
    except EngineLostError as error:
        _end(f"rollout engine lost, run stopped: {error}", ENGINE_LOST)
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _end(line: str, status: int) -> NoReturn:
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(status) from None


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


def build_source(settings: Settings) -> TaskSource:
    """The task source that the `[tasks]` table describes."""
    tasks = settings.tasks
    if tasks.source == "reasoning_gym":
        return make_source("reasoning_gym", family=tasks.family, params=tasks.params)
    if tasks.source == "jsonl":
        return make_source("jsonl", path=tasks.path)
    return make_source(
        "dataset", path=tasks.path, split=tasks.dataset_split,
        question_field=tasks.question_field, answer_field=tasks.answer_field,
    )  # fmt: skip
