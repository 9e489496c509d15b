"""The files that a sandbox has: Python's library and the system's shared ones, read-only.

Beside them /dev/null, zero, random and urandom, and an empty /tmp. There is no /proc, /etc, /sys,
/home or /run. Installed packages (site-packages) are hidden. The mounts exist in the guest's own
mount namespace alone and end with it.
"""

import os
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress

from rewards.sandbox import kernel

DEVICES = ("null", "zero", "random", "urandom")
_STAGE = "/tmp"  # any folder that exists everywhere: what is mounted here, only the guest sees


def library_folders() -> list[str]:
    """Folders of Python's library and of shared libraries, as they stand on the host."""
    base = sys.base_prefix
    wanted = [
        *(f"{base}/lib", f"{base}/lib64", sysconfig.get_path("stdlib")),
        *("/usr/lib", "/usr/lib64", "/lib", "/lib64"),
    ]
    return _outermost([one for one in wanted if os.path.isdir(one)])


def package_folders(folders: Sequence[str]) -> list[str]:
    """Folders of installed packages within these."""
    wanted = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for prefix in (sys.base_prefix, "/usr", "/usr/local"):
        wanted |= {f"{prefix}/lib/{version}/site-packages", f"{prefix}/lib/python3/dist-packages"}
    inside = [one for one in wanted if any(one.startswith(f"{top}/") for top in folders)]
    return sorted(one for one in inside if os.path.isdir(one))


def enter() -> None:
    """Build the root in this mount namespace, which must be the guest's own, and enter it.

    Raises:
        OSError: the kernel refuses.
    """
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    folders = library_folders()
    hidden = package_folders(folders)
    # Opened before the stage hides what may lie below it.
    sources = [(one, os.open(one, os.O_PATH)) for one in folders if not os.path.islink(one)]
    devices = [(f"/dev/{one}", os.open(f"/dev/{one}", os.O_PATH)) for one in DEVICES]
    links = [(one, os.readlink(one)) for one in folders if os.path.islink(one)]
    plain = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", _STAGE, "tmpfs", plain, "size=1m,mode=755")
    for path, descriptor in sources:
        os.makedirs(_STAGE + path, exist_ok=True)
        _bind(descriptor, _STAGE + path, kernel.MS_RDONLY | plain)
    for path, target in links:
        with suppress(FileExistsError):
            os.symlink(target, _STAGE + path)
    for path in hidden:
        hide(_STAGE + path)
    os.mkdir(f"{_STAGE}/dev")
    for path, descriptor in devices:
        os.close(os.open(_STAGE + path, os.O_CREAT | os.O_WRONLY, 0o666))
        _bind(descriptor, _STAGE + path, kernel.MS_NOSUID | kernel.MS_NOEXEC)
    os.mkdir(f"{_STAGE}/tmp")
    kernel.restrict_mount(_STAGE, kernel.MS_RDONLY | plain)
    kernel.enter_root(_STAGE)


def hide(path: str) -> None:
    """Mount an empty folder over one, in this mount namespace.

    Raises:
        OSError: the kernel refuses.
    """
    plain = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", path, "tmpfs", plain, "size=4k,mode=555")
    kernel.restrict_mount(path, kernel.MS_RDONLY)


def private_tmp(size_mb: int) -> None:
    """Mount an empty /tmp in this mount namespace, and go there.

    Raises:
        OSError: the kernel refuses.
    """
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("tmpfs", "/tmp", "tmpfs", flags, f"size={size_mb}m,nr_inodes=4096,mode=1777")
    os.chdir("/tmp")


def _bind(descriptor: int, target: str, attributes: int) -> None:
    source = f"/proc/self/fd/{descriptor}"
    kernel.mount(source, target, flags=kernel.MS_BIND | kernel.MS_REC)
    kernel.restrict_mount(target, attributes, recursive=True)
    os.close(descriptor)


def _outermost(paths: Sequence[str]) -> list[str]:
    """Without those that lie within another."""
    distinct = sorted(set(paths), key=len)
    found: list[str] = []
    for path in distinct:
        if not any(path.startswith(f"{one}/") for one in found):
            found.append(path)
    return found
