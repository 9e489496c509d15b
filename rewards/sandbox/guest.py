"""The fork server inside one sandbox: `python -c "... guest.main()" LIMITS`.

Its standard input brings jobs and its output takes replies. For every job it forks a keeper; after
each it kills and reaps whatever is left in its pid namespace, so that nothing of one program meets
the next. It imports the common parts of the standard library once, so that programs need not. It
ends when its input does: with the run's process, however that ends.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import sys

from rewards.sandbox import kernel, root
from rewards.sandbox.confine import Limits
from rewards.sandbox.keeper import NO_MORE_JOBS, keep

UNSHARED, MAPPED, READY = b"U", b"M", b"R"
_ALL = (
    kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS
    | kernel.NEWCGROUP
)  # fmt: skip
# What programs import most: paid for once.
_PRELOADED = (
    "abc", "array", "bisect", "calendar", "cmath", "collections.abc", "contextlib", "copy",
    "dataclasses", "datetime", "decimal", "encodings.ascii", "encodings.idna", "encodings.latin_1",
    "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math",
    "numbers", "operator", "queue", "random", "re", "statistics", "string", "textwrap", "threading",
    "time", "traceback", "typing", "unicodedata", "uuid", "zlib",
)  # fmt: skip


def main() -> None:
    """Set up as asked and serve; does not return."""
    given = json.loads(sys.argv[1])
    launcher = given.pop("launcher")
    limits = Limits(**given)
    os.environ.clear()
    sys.argv = [""]
    for name in _PRELOADED:
        importlib.import_module(name)
    if launcher == "namespaces":
        _enter_namespaces()
    if limits.isolated:
        kernel.name_host("sandbox")
    if launcher == "bubblewrap":
        root.hide(os.path.dirname(os.path.dirname(__file__)))  # it has imported what it needs
    os.chdir("/tmp")
    os.write(1, READY)
    gc.collect()
    gc.freeze()
    _serve(limits)
    os._exit(0)


def _enter_namespaces() -> None:
    """Continue as the first process of new namespaces, with a root of our own."""
    kernel.unshare(_ALL)
    os.write(1, UNSHARED)
    if os.read(0, 1) != MAPPED:  # user ids, by the run's process
        os._exit(1)
    if os.getuid() == 0:
        os.setgroups([])
    root.enter()
    pid = os.fork()
    if pid:
        for descriptor in range(3):
            os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
    kernel.die_with_parent()


def _serve(limits: Limits) -> None:
    while True:
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(keep(limits))
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        _sweep()
        if not os.WIFEXITED(status) or os.WEXITSTATUS(status) != 0:
            return


def _sweep() -> None:
    """Kill and reap all that is left of a job."""
    if os.getpid() == 1:  # else this would reach processes that are not ours
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


__all__ = ["MAPPED", "NO_MORE_JOBS", "READY", "UNSHARED", "main"]
