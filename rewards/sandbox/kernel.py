"""Calls to the kernel that Python has no function for: namespaces, mounts, capabilities, seccomp.

Thin and Linux only. What they are put together to is in `root.py` and `confine.py`.
"""

import ctypes
import os
import platform
import struct
from contextlib import suppress

from rewards.sandbox.syscalls import filter_program

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2

_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 63

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_SECCOMP_MODE_FILTER = 2


def unshare(flags: int) -> None:
    """Leave namespaces for new ones.

    Raises:
        OSError: the kernel refuses.
    """
    _checked("unshare", ctypes.c_int(flags))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2).

    Raises:
        OSError: the kernel refuses.
    """
    _checked(
        "mount", source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags),
        data.encode() or None,
    )  # fmt: skip


def restrict_mount(path: str, attributes: int, recursive: bool = False) -> None:
    """Add MS_RDONLY, MS_NOSUID, MS_NODEV or MS_NOEXEC to a mount (mount_setattr(2), Linux 5.12).

    Raises:
        OSError: the kernel refuses.
    """
    # The attributes' bits are those of the first four mount flags.
    wanted = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0), 32)
    flags = _AT_RECURSIVE if recursive else 0
    _checked(
        "syscall", ctypes.c_long(_MOUNT_SETATTR), ctypes.c_long(_AT_FDCWD), path.encode(),
        ctypes.c_long(flags), wanted, ctypes.c_size_t(32),
    )  # fmt: skip


def enter_root(path: str) -> None:
    """Make a mount the root and let go of the old one.

    Raises:
        OSError: the kernel refuses.
    """
    os.chdir(path)
    _checked("syscall", ctypes.c_long(_PIVOT_ROOT[platform.machine()]), b".", b".")
    _checked("umount2", b".", MNT_DETACH)
    os.chdir("/")


def name_host(name: str) -> None:
    """Name the host, in a UTS namespace of our own.

    Raises:
        OSError: the kernel refuses.
    """
    _checked("sethostname", name.encode(), ctypes.c_size_t(len(name.encode())))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent's thread ends."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def drop_capabilities() -> None:
    """Give up all capabilities, and those that a program could be given."""
    for capability in range(_LAST_CAPABILITY + 1):
        # Fails beyond the last that the kernel knows, and without the right to drop any.
        with suppress(OSError):
            _prctl(_PR_CAPBSET_DROP, capability)
    with suppress(OSError):  # a kernel without ambient capabilities has none to clear
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0), 8)
    none = ctypes.create_string_buffer(24)
    _checked("syscall", ctypes.c_long(_CAPSET[platform.machine()]), header, none)


def forbid_new_privileges() -> None:
    """No program that this process executes may gain privileges; nobody may trace it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)


def filter_system_calls() -> None:
    """Install the seccomp filter of `syscalls.py`, for good.

    Raises:
        OSError: the kernel has no seccomp.
    """
    code = filter_program(platform.machine())
    array = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(
        struct.pack("@HP", len(code) // 8, ctypes.addressof(array))
    )
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    zero = ctypes.c_ulong(0)
    _checked("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(pointer), zero, zero)


def _checked(name: str, *arguments: object) -> None:
    if getattr(_libc(), name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
