"""How a guest is started: by bubblewrap, in namespaces of our own, or in none.

The two strong kinds differ in who makes the guest's namespaces and root; from there on all is the
same code (`guest.py`, `keeper.py`). Leaves out talking to a guest (`sandbox.py`).
"""

import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data.errors import UserError
from rewards.sandbox.confine import PROGRAM_ID, Limits
from rewards.sandbox.root import DEVICES, library_folders, package_folders
from rewards.sandbox.settings import Kind
from rewards.sandbox.syscalls import architectures

_SOURCES = Path(__file__).resolve().parents[1]  # rewards/, all that a guest imports of ours
_INSIDE = "/sparring"
_NOBODY = 65534
# Programs of one task give the same verdict in every guest: sets of strings keep one order.
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
WEAK = (
    'rewards.sandbox.kind = "weak" runs untrusted programs as your own user. It limits memory, '
    "processor time, files' sizes and output, gives them an empty environment, and refuses new "
    "processes, sockets, signals and tracing where it knows the processor. It does not stop a "
    "program from reading every file that you can read, from writing to or deleting any that you "
    "can write, from reading other processes of yours in /proc, or from leaving files behind"
)


def strong_kinds() -> tuple[Kind, ...]:
    """The kinds that isolate, in the order in which they are tried.

    bubblewrap first, as it is the more widely tried; but for root our own, which alone can give a
    program another user's id.
    """
    own_first: tuple[Kind, ...] = ("namespaces", "bubblewrap")
    return own_first if os.geteuid() == 0 else own_first[::-1]


def missing(kind: Kind) -> str:
    """What a kind needs and this machine lacks; "" if nothing that is known beforehand."""
    if sys.platform != "linux":
        return "it needs Linux"
    if kind == "weak":
        return ""
    if platform.machine() not in architectures():
        return f"no filter of system calls for {platform.machine()} processors"
    absent = kind == "bubblewrap" and shutil.which("bwrap") is None
    return "bwrap is not installed" if absent else ""


def command(kind: Kind, limits: Limits) -> list[str]:
    """The command line of a guest."""
    inside = _INSIDE if kind == "bubblewrap" else str(_SOURCES.parent)
    program = (
        f"import sys; sys.path.insert(0, {inside!r}); from rewards.sandbox.guest import main; "
        "del sys.path[0]; main()"
    )
    given = json.dumps({"launcher": kind, **asdict(limits)})
    python = [os.path.realpath(sys.executable), *("-s", "-S", "-P", "-B", "-c"), program, given]
    return [*_bubblewrap(python[0]), *python] if kind == "bubblewrap" else python


def user_map() -> str:
    """Which users there are in namespaces of our own, in the form of /proc/PID/uid_map.

    An ordinary user is the program's. root stays root for the guest, which has to read Python's
    library whoever owns it, and a program is nobody.
    """
    if os.geteuid() == 0:
        return f"0 0 1\n{PROGRAM_ID} {_NOBODY} 1\n"
    return f"{PROGRAM_ID} {os.geteuid()} 1\n"


def group_map() -> str:
    """The same of groups."""
    if os.geteuid() == 0:
        return f"0 0 1\n{PROGRAM_ID} {_NOBODY} 1\n"
    return f"{PROGRAM_ID} {os.getegid()} 1\n"


def _bubblewrap(python: str) -> list[str]:
    found = ["bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    found += ["--as-pid-1", "--clearenv", "--cap-add", "ALL"]
    found += ["--uid", str(PROGRAM_ID), "--gid", str(PROGRAM_ID)]
    found += [piece for name, value in ENVIRONMENT.items() for piece in ("--setenv", name, value)]
    folders = library_folders()
    if not any(python.startswith(f"{one}/") for one in folders):
        found += ["--ro-bind", python, python]
    for path in folders:
        link = os.path.islink(path)
        found += ["--symlink", os.readlink(path), path] if link else ["--ro-bind", path, path]
    for path in package_folders(folders):
        found += ["--tmpfs", path]
    found += ["--ro-bind", str(_SOURCES), f"{_INSIDE}/rewards", "--dir", "/tmp"]
    for name in DEVICES:
        found += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    return [*found, "--remount-ro", "/", "--chdir", "/"]


def refuse(reasons: Sequence[str]) -> UserError:
    """The error of a machine on which no strong sandbox works."""
    return UserError(
        f"no sandbox for untrusted programs works here ({'; '.join(reasons)}): install bubblewrap, "
        "allow unprivileged user namespaces (in a container: --security-opt seccomp=unconfined, or "
        'a privileged one), or accept the weak sandbox by rewards.sandbox.kind = "weak"'
    )
