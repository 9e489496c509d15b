"""What a forked process gives up before it runs anything of a program's or a test's.

In this order: the guest's files (a mount namespace with an empty /tmp of its own), its user id, the
resources beyond its limits, all capabilities, and the system calls that are not on the list. Leaves
out the pid namespace, which the keeper makes before it forks a program.
"""

import math
import os
import platform
import resource
from dataclasses import dataclass

from rewards.sandbox import kernel, root
from rewards.sandbox.syscalls import architectures

PROGRAM_ID = 1000  # the user and group of a program, inside
_OPEN_FILES = 64
_OWN_PROCESSES = 8  # guest, keeper and examiner, which count to the same user


@dataclass(frozen=True)
class Limits:
    """What a program may use; the guest gets them as JSON.

    Attributes:
        isolated: whether namespaces separate it; False is the weak sandbox.
        cpu_seconds: of processor time, rounded up to whole ones.
        wall_seconds: by the clock.
        memory_mb: MiB of address space.
        tmp_mb: MiB of its /tmp, and of any one file.
        output_kb: KiB of its output.
        threads: the most.
    """

    isolated: bool
    cpu_seconds: float
    wall_seconds: float
    memory_mb: int
    tmp_mb: int
    output_kb: int
    threads: int


def confine(limits: Limits) -> None:
    """Give up, for good, what a program must not have.

    Raises:
        OSError: the kernel refuses a part of it; nothing may run then.
    """
    if limits.isolated:
        kernel.unshare(kernel.NEWNS)
        root.private_tmp(limits.tmp_mb)
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(PROGRAM_ID, PROGRAM_ID, PROGRAM_ID)
            os.setresuid(PROGRAM_ID, PROGRAM_ID, PROGRAM_ID)
    else:
        os.setsid()
    os.umask(0o077)
    _limit_resources(limits)
    if limits.isolated:
        kernel.drop_capabilities()
    kernel.forbid_new_privileges()
    if limits.isolated or platform.machine() in architectures():
        kernel.filter_system_calls()


def _limit_resources(limits: Limits) -> None:
    mebibyte = 1024 * 1024
    for which, value in (
        (resource.RLIMIT_AS, limits.memory_mb * mebibyte),
        (resource.RLIMIT_FSIZE, limits.tmp_mb * mebibyte),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_CPU, math.ceil(limits.cpu_seconds)),
    ):
        _lower(which, value)
    if limits.isolated:  # else it would count all processes of the user
        _lower(resource.RLIMIT_NPROC, limits.threads + _OWN_PROCESSES)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))
