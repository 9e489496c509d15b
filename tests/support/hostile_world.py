"""What a hostile program may want: files, sockets, processes and memory outside of its sandbox.

`World` plants them and says afterwards whether any was touched. Placeholders in programs, such as
`@SECRET@`, are replaced by where the things are. Leaves out the programs (`hostile_programs.py`).
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "SPARRING_CANARY"
_VICTIM = (
    "import sys, time\nheld = sys.stdin.readline()\nprint('up', flush=True)\ntime.sleep(3600)\n"
)


class World:
    """Things outside a sandbox, each of which shows whether it was reached.

    Attributes:
        token: in every secret, and in the name of every file that a program creates.
    """

    def __init__(self, folder: Path) -> None:
        # Digits first: an escape such as \0 before the token must not swallow them.
        self.token = "01" + secrets.token_hex(8)
        self.folder, self.signals = folder, list[int]()
        self.secret, self.victim = folder / "secret.txt", folder / "victim.txt"
        self.secret.write_text(self.token)
        self.victim.write_text("untouched")
        self.victim.chmod(0o666)
        self.shared = Path("/dev/shm") / f"canary-{self.token}"
        self.shared.write_text(self.token)
        self._tcp = _listening(socket.AF_INET, ("127.0.0.1", 0))
        self._unix = _listening(socket.AF_UNIX, str(folder / "socket"))
        self._abstract = _listening(socket.AF_UNIX, f"\0{self.token}")
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._udp.setblocking(False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, VARIABLE: self.token},
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(self.token.encode() + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"up\n"
        self._before = signal.signal(signal.SIGUSR1, lambda *_: self.signals.append(1))
        os.environ[VARIABLE] = self.token
        self._mounts = Path("/proc/self/mountinfo").read_text()

    def filled_in(self, program: str) -> str:
        """A program with the places of things here."""
        places = {
            "SECRET": self.secret, "VICTIM": self.victim, "FOLDER": self.folder,
            "SHARED": self.shared, "TOKEN": self.token, "VARIABLE": VARIABLE,
            "PORT": self._tcp.getsockname()[1], "UDP": self._udp.getsockname()[1],
            "UNIX": self.folder / "socket", "PID": self.process.pid, "PARENT": os.getpid(),
            "HOST": os.uname().nodename,
        }  # fmt: skip
        for name, place in places.items():
            program = program.replace(f"@{name}@", str(place))
        return program

    def touched(self) -> list[str]:
        """What was reached since this was last asked."""
        found = []
        if self.secret.read_text() != self.token or self.victim.read_text() != "untouched":
            found.append("a file was changed")
            self.secret.write_text(self.token)
            self.victim.write_text("untouched")
        for name, listener in (
            ("tcp", self._tcp),
            ("unix", self._unix),
            ("abstract", self._abstract),
        ):
            with suppress(BlockingIOError):
                listener.accept()[0].close()
                found.append(f"a connection over {name}")
        with suppress(BlockingIOError):
            self._udp.recv(100)
            found.append("a datagram")
        if self.signals:
            found.append("a signal")
            self.signals.clear()
        if self.process.poll() is not None:
            found.append("a process was killed")
        if Path("/proc/self/mountinfo").read_text() != self._mounts:
            found.append("mounts changed")
        return found + [f"left behind: {path}" for path in self._left_behind()]

    def _left_behind(self) -> Iterator[Path]:
        """Files with the token in their names, which are removed."""
        for place in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", "/", os.getcwd()):
            for path in Path(place).glob(f"left-{self.token}*"):
                yield path
                with suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        for one in (self._tcp, self._unix, self._abstract, self._udp):
            one.close()
        self.process.kill()
        self.process.communicate()
        self.shared.unlink(missing_ok=True)
        signal.signal(signal.SIGUSR1, self._before)
        del os.environ[VARIABLE]


@contextmanager
def planted(folder: Path) -> Iterator[World]:
    world = World(folder)
    try:
        yield world
    finally:
        world.close()


def _listening(family: int, address: tuple[str, int] | str) -> socket.socket:
    found = socket.socket(family)
    found.bind(address)
    found.listen()
    found.setblocking(False)
    return found


def descendants(pid: int) -> set[int]:
    """Processes below one, by the process table."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_text()
                state, parent = stat.rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found, waiting = set[int](), [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found |= set(below)
        waiting += below
    return found
