# ruff: noqa: E501  (one program, one line)
"""Programs that try to get out of a sandbox, or to bring down the machine that it is on.

Each prints ESCAPED if it gets what it wants, or is seen to by `hostile_world.py`. `Bare.ESCAPES`
marks those that do get it without any sandbox, where they are run as well: so the test that they do
not get it in one can fail. The others need rights that a test may not have, or would do harm.
"""

from dataclasses import dataclass
from enum import Enum


class Bare(Enum):
    """What becomes of a program that runs without a sandbox."""

    ESCAPES = "it gets what it wants"
    NOT_TRIED = "it would do harm, or needs rights that a test may not have"


@dataclass(frozen=True)
class Hostile:
    """One program, and whether it is also run bare."""

    name: str
    program: str
    bare: Bare = Bare.ESCAPES


def attempt(name: str, code: str, bare: Bare = Bare.ESCAPES, imports: str = "os") -> Hostile:
    """A program that escapes if its code raises nothing."""
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    return Hostile(
        name,
        f"import {imports}\ntry:\n{body}\n    print('ESCAPED')\n"
        "except BaseException as error:\n    print('stopped:', type(error).__name__, error)\n",
        bare,
    )


def call(name: str, x86: int, aarch64: int, arguments: str = "0, 0, 0, 0, 0") -> Hostile:
    """A system call by number; only the filter refuses it with EPERM before anything else."""
    return Hostile(
        name,
        "import ctypes, errno, platform\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"number = {x86} if platform.machine() == 'x86_64' else {aarch64}\n"
        f"result = libc.syscall(number, {arguments})\n"
        "said = errno.errorcode.get(ctypes.get_errno())\n"
        "print('stopped' if result == -1 and said in ('EPERM', 'ENOSYS', 'ENOTTY') else f'ESCAPED {said}')\n",
        Bare.NOT_TRIED,
    )


LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"

PROCESSES = [
    attempt("fork", "if os.fork() == 0: os._exit(0)"),
    attempt("fork bomb", "for _ in range(1000):\n    if os.fork() == 0: os._exit(0)", Bare.NOT_TRIED),
    attempt("vfork", f"{LIBC}pid = libc.vfork()\nif pid == 0: libc._exit(0)\nassert pid > 0",
            Bare.NOT_TRIED),
    attempt("subprocess", "subprocess.run(['/bin/true'], check=True)", imports="subprocess"),
    attempt("shell", "assert os.system('true') == 0"),
    attempt("exec itself", "os.execv('/bin/echo', ['echo', 'ESCAPED'])"),
    attempt("posix_spawn", "os.posix_spawn('/bin/true', ['true'], {})"),
    attempt("multiprocessing", "multiprocessing.get_context('fork').Process(target=print).start()",
            imports="multiprocessing"),
    attempt("daemon by double fork",
            "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            "        import time\n        time.sleep(2)\n    os._exit(0)"),
    attempt("session of its own", "if os.fork() == 0:\n    os.setsid()\n    os._exit(0)"),
    attempt("clone with flags", f"{LIBC}pid = libc.syscall(56, 17, 0, 0, 0, 0)\n"
            "if pid == 0: libc._exit(0)\nassert pid > 0", Bare.NOT_TRIED),
    attempt("thread bomb",
            "threading.stack_size(65536)\ngate = threading.Event()\nfor _ in range(400):\n"
            "    threading.Thread(target=gate.wait, args=(0.5,), daemon=True).start()",
            imports="threading"),
    attempt("signal its parent", "os.kill(os.getppid(), 10)"),
    attempt("signal the run", "os.kill(@PARENT@, 10)"),
    attempt("kill another process", "os.kill(@PID@, 0)"),
    attempt("signal everything", "os.kill(-1, 9)", Bare.NOT_TRIED),
    attempt("signal its group", "os.killpg(0, 0)"),
    attempt("signal by pidfd", "signal.pidfd_send_signal(os.pidfd_open(@PID@), 0)",
            imports="os, signal"),
    attempt("stop itself", "os.kill(os.getpid(), 19)", Bare.NOT_TRIED),
    attempt("renice the run", "os.setpriority(os.PRIO_PROCESS, @PID@, 1)"),
    attempt("limits of another process",
            "resource.prlimit(@PID@, resource.RLIMIT_NOFILE, (1024, 1024))", imports="resource"),
    attempt("raise its own limits",
            "infinite = resource.RLIM_INFINITY\n"
            "for which in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):\n"
            "    resource.setrlimit(which, (infinite, infinite))", Bare.NOT_TRIED,
            imports="resource"),
]  # fmt: skip

MEMORY = [
    attempt("memory bomb", "held = bytearray(1_000_000_000)"),
    attempt("memory by mapping", "held = mmap.mmap(-1, 4_000_000_000)", imports="mmap"),
    attempt("memory in small pieces", "held = []\nfor n in range(20):\n    held.append(b'x' * 10_000_000)"),
    attempt("memory by memfd", "os.memfd_create('held')"),
    attempt("shared memory of System V",
            f"{LIBC}assert libc.shmget(0, 1 << 20, 0o1600) >= 0", Bare.NOT_TRIED),
    attempt("shared memory by name",
            "shared_memory.SharedMemory('left-@TOKEN@', True, 4096)",
            imports="multiprocessing.shared_memory as shared_memory"),
    attempt("read shared memory", "print(open('@SHARED@').read())"),
    attempt("memory of another process", "print(open('/proc/@PID@/mem', 'rb'))", Bare.NOT_TRIED),
    attempt("memory by process_vm_readv",
            f"{LIBC}import struct\nhere = ctypes.create_string_buffer(8)\n"
            "vector = struct.pack('PP', ctypes.addressof(here), 8)\n"
            "box = ctypes.create_string_buffer(vector)\n"
            "libc.process_vm_readv(@PID@, box, 1, box, 1, 0)\n"
            "assert ctypes.get_errno() != 1", Bare.NOT_TRIED),
    attempt("memory that cannot be swapped", f"{LIBC}assert libc.mlockall(3) == 0", Bare.NOT_TRIED),
    attempt("memory in pipes", f"{LIBC}pipes = [os.pipe() for _ in range(20)]\n"
            "for read, _ in pipes: assert fcntl.fcntl(read, 1031, 1 << 20) == 1 << 20",
            imports="os, fcntl"),
    attempt("memory in sockets", "pairs = [socket.socketpair() for _ in range(20)]\n"
            "for one, _ in pairs: one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)",
            imports="socket"),
    attempt("memory on every node", f"{LIBC}assert libc.syscall(237, 0, 0, 0, 0, 0, 0) == 0",
            Bare.NOT_TRIED),
    call("asynchronous reads", 206, 0, "65536, 0, 0, 0, 0"),
    call("protection keys", 330, 289, "0, 0, 0, 0, 0"),
    call("key ring", 250, 219, "2, 0, 0, 0, 0"),
    call("add a key", 248, 217, 'b"user", b"left", b"x", 1, -3'),
]  # fmt: skip

FILES = [
    attempt("read a secret", "print(open('@SECRET@').read())"),
    attempt("read a secret by a link",
            "os.symlink('@SECRET@', 'link')\nprint(open('link').read())\nos.unlink('link')"),
    attempt("read a secret by ..", "print(open('../' * 20 + '@SECRET@').read())"),
    attempt("hard link to a secret", "os.link('@SECRET@', '@FOLDER@/left')\nos.unlink('@FOLDER@/left')"),
    attempt("write a file", "open('@VICTIM@', 'w').write('touched')"),
    attempt("append by descriptor", "os.write(os.open('@VICTIM@', os.O_WRONLY | os.O_APPEND), b'x')"),
    attempt("delete a file", "os.rename('@VICTIM@', '@VICTIM@.gone')\n"
            "os.rename('@VICTIM@.gone', '@VICTIM@')"),
    attempt("lock a file of the library", "fcntl.flock(open(os.__file__), fcntl.LOCK_EX | fcntl.LOCK_NB)",
            imports="os, fcntl"),
    attempt("lock a device", "fcntl.lockf(open('/dev/null', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)",
            imports="fcntl"),
    attempt("watch the library", "fcntl.fcntl(os.open(os.path.dirname(os.__file__), os.O_RDONLY),"
            " fcntl.F_NOTIFY, fcntl.DN_ACCESS)", imports="os, fcntl"),
    attempt("a signal when a file is ready", "read, write = os.pipe()\n"
            "fcntl.fcntl(read, fcntl.F_SETOWN, os.getpid())\nfcntl.fcntl(read, 10, 10)",
            imports="os, fcntl"),
    attempt("touch the library", "os.utime(os.__file__)", Bare.NOT_TRIED),
    attempt("link to the library", "os.link(os.__file__, 'left-@TOKEN@')", Bare.NOT_TRIED),
    attempt("move /tmp away", "os.rename('/tmp', '/left')", Bare.NOT_TRIED),
    attempt("out by an open folder", "top = os.open('/', os.O_PATH)\nfor _ in range(9):\n"
            "    top = os.open('..', os.O_PATH, dir_fd=top)\nos.stat('@SECRET@'[1:], dir_fd=top)"),
    attempt("run a file of its own", "open('left-@TOKEN@', 'w').write('#!/bin/sh\\necho ESCAPED')\n"
            "os.chmod('left-@TOKEN@', 0o4777)\nos.execv('left-@TOKEN@', ['left'])"),
    attempt("map a file of its own as code", "file = open('left-@TOKEN@', 'wb+')\nfile.truncate(4096)\n"
            "mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)", imports="mmap"),
    attempt("fill /tmp with files that have no name", "held = []\nfor n in range(40):\n"
            "    held.append(open(f'left-@TOKEN@-{n}', 'wb', 0))\n    os.unlink(held[-1].name)\n"
            "    assert held[-1].write(bytes(1 << 19)) == 1 << 19"),
    attempt("a file without a name", "file = os.open('/dev', os.O_TMPFILE | os.O_RDWR)", Bare.NOT_TRIED),
    attempt("list a folder", "assert 'secret.txt' in os.listdir('@FOLDER@')"),
    attempt("list home", "os.listdir(os.path.expanduser('~'))"),
    attempt("read passwords", "print(open('/etc/passwd').read())"),
    attempt("write to the library",
            "path = os.path.join(os.path.dirname(os.__file__), 'left.py')\n"
            "assert os.access(os.path.dirname(path), os.W_OK)", Bare.NOT_TRIED),
    attempt("write to the root", "open('/left-@TOKEN@', 'w')", Bare.NOT_TRIED),
    attempt("write to /dev", "open('/dev/left', 'w')", Bare.NOT_TRIED),
    attempt("leave a file in /tmp", "open('/tmp/left-@TOKEN@', 'w').write('x')\nraise SystemExit"),
    attempt("leave a file in /var/tmp", "open('/var/tmp/left-@TOKEN@', 'w').write('x')"),
    attempt("read a disk", "open('/dev/vda', 'rb').read(1)", Bare.NOT_TRIED),
    attempt("open the terminal", "open('/dev/tty')", Bare.NOT_TRIED),
    attempt("make a device", "os.mknod('left', 0o20666, os.makedev(1, 1))", Bare.NOT_TRIED),
    attempt("a big file", "with open('left-@TOKEN@', 'wb') as file:\n"
            "    for _ in range(64):\n        file.write(bytes(1 << 20))"),
    attempt("many files", "for n in range(20_000): open(f'left-@TOKEN@-{n}', 'w').close()",
            Bare.NOT_TRIED),
    attempt("a sparse file", "os.truncate(os.open('left-@TOKEN@', os.O_CREAT | os.O_RDWR), 1 << 40)"),
    attempt("many open files", "held = [os.dup(1) for _ in range(200)]"),
    attempt("set-user-id", "os.setuid(0)\nassert os.getuid() == 0\nopen('/etc/shadow')", Bare.NOT_TRIED),
]  # fmt: skip

INSIGHT = [
    attempt("environment", "print(os.environ['@VARIABLE@'])"),
    attempt("environment of its process", "print(open('/proc/self/environ').read())"),
    attempt("environment of the run", "print(open('/proc/@PID@/environ').read())"),
    attempt("command lines", "print(open('/proc/@PID@/cmdline').read())"),
    attempt("other processes", "assert any(n.isdigit() for n in os.listdir('/proc'))"),
    attempt("the root of another process", "os.listdir('/proc/@PID@/root')"),
    attempt("descriptors of the run", "os.listdir('/proc/@PID@/fd')"),
    attempt("settings of the kernel", "open('/proc/sys/kernel/core_pattern').read()"),
    attempt(
        "inherited descriptors",
        "for n in range(7, 200):\n    try:\n        os.fstat(n)\n"
        "    except OSError: continue\n    break\nelse: raise OSError('none')",
        Bare.NOT_TRIED,
    ),
    attempt("the machine's name", "assert os.uname().nodename == '@HOST@'"),
    attempt(
        "source of the sandbox",
        "assert any('code_verifier.py' in names for top in ('/sparring',"
        " *sys.path) for _, _, names in os.walk(top))",
        Bare.NOT_TRIED,
        imports="os, sys",
    ),
    attempt("packages that are installed", "import pydantic", Bare.NOT_TRIED),
    attempt("modules of the run", "import rewards", Bare.NOT_TRIED),
]

NETWORK = [
    attempt("tcp", "socket.create_connection(('127.0.0.1', @PORT@), 2)", imports="socket"),
    attempt("udp", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'@TOKEN@',"
            " ('127.0.0.1', @UDP@))", imports="socket"),
    attempt("unix socket", "socket.socket(socket.AF_UNIX).connect('@UNIX@')", imports="socket"),
    attempt("abstract socket", "socket.socket(socket.AF_UNIX).connect('\\x00@TOKEN@')",
            imports="socket"),
    attempt("listen", "socket.create_server(('127.0.0.1', 0))", imports="socket"),
    attempt("raw packets", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", Bare.NOT_TRIED,
            imports="socket"),
    attempt("netlink", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", imports="socket"),
    attempt("datagrams from a pair",
            "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)", imports="socket"),
]  # fmt: skip

KERNEL = [
    call("ptrace", 101, 117, "0, 0, 0, 0, 0"),
    call("unshare a user namespace", 272, 97, "0x10000000, 0, 0, 0, 0"),
    call("unshare mounts", 272, 97, "0x20000, 0, 0, 0, 0"),
    call("join a namespace", 308, 268, "0, 0, 0, 0, 0"),
    call("mount", 165, 40, 'b"none", b"/tmp", b"tmpfs", 0, 0'),
    call("bind the root", 165, 40, 'b"/", b"/tmp", 0, 4096, 0'),
    call("remount the root", 165, 40, 'b"none", b"/", 0, 32, 0'),
    call("unmount", 166, 39, 'b"/tmp", 2, 0, 0, 0'),
    call("new mount interface", 430, 430, 'b"tmpfs", 0, 0, 0, 0'),
    call("chroot", 161, 51, 'b"/tmp", 0, 0, 0, 0'),
    call("pivot_root", 155, 41, 'b"/tmp", b"/tmp", 0, 0, 0'),
    call("kexec", 246, 104, "0, 0, 0, 0, 0"),
    call("load a module", 175, 105, "0, 0, 0, 0, 0"),
    call("reboot", 169, 142, "0, 0, 0, 0, 0"),
    call("bpf", 321, 280, "0, 0, 0, 0, 0"),
    call("perf", 298, 241, "0, 0, -1, -1, 0"),
    call("io_uring", 425, 425, "1, 0, 0, 0, 0"),
    call("userfaultfd", 323, 282, "0, 0, 0, 0, 0"),
    call("another filter", 317, 277, "1, 0, 0, 0, 0"),
    call("clone3", 435, 435, "0, 0, 0, 0, 0"),
    call("open by handle", 304, 265, "0, 0, 0, 0, 0"),
    call("signal with data", 129, 138, "1, 10, 0, 0, 0"),
    call("signal a thread", 234, 131, "1, 1, 10, 0, 0"),
    call("signals on a timer", 222, 107, "0, 0, 0, 0, 0"),
    call("choose a processor", 203, 122, "0, 0, 0, 0, 0"),
    call("real time", 144, 119, "0, 1, 0, 0, 0"),
    call("another personality", 135, 92, "0x0040000, 0, 0, 0, 0"),
    call("kernel's log", 103, 116, "3, 0, 0, 0, 0"),
    call("watch files", 254, 26, "0, 0, 0, 0, 0"),
    call("watch a mount", 300, 262, "0, 0, 0, 0, 0"),
    call("pages into a pipe", 278, 75, "0, 0, 0, 0, 0"),
    call("send a descriptor", 46, 211, "0, 0, 0, 0, 0"),
    call("message queue", 240, 180, "0, 0, 0, 0, 0"),
    call("semaphore", 64, 190, "0, 1, 0o1600, 0, 0"),
    call("accounting", 163, 89, "0, 0, 0, 0, 0"),
    call("swap", 167, 224, "0, 0, 0, 0, 0"),
    call("host name", 170, 161, 'b"left", 4, 0, 0, 0'),
    call("clock", 227, 112, "0, 0, 0, 0, 0"),
    call("terminal input", 16, 29, "0, 0x5412, 0, 0, 0"),
    Hostile("32-bit system call", "import ctypes, mmap, platform\n"
            "assert platform.machine() == 'x86_64', 'ESCAPED is not tried'\n"
            "# mov eax, 20 (getpid of i386); int 0x80; ret\n"
            "code = bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3])\n"
            "page = mmap.mmap(-1, 4096, prot=7)\npage.write(code)\n"
            "here = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
            "ctypes.CFUNCTYPE(ctypes.c_int)(here)()\nprint('ESCAPED')\n", Bare.NOT_TRIED),
]  # fmt: skip

HOSTILE = [*PROCESSES, *MEMORY, *FILES, *INSIGHT, *NETWORK, *KERNEL]
