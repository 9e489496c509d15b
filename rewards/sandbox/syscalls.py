"""Which system calls a program may make: an allow list, as a seccomp filter in classic BPF.

What is not on the list fails with EPERM; calls newer than the list fail with ENOSYS, so that libc
falls back to older ones. Calls of another architecture's table (32-bit, x32) kill the program. Not
on the list are, among others: new processes and programs, signals to any process, sockets to
anywhere, namespaces, mounts, ptrace and others' memory, keyrings, shared memory, locks on files
(the library's are the machine's own), io_uring, bpf, perf, and all that administrators do. Sources:
seccomp(2), linux/filter.h, the kernel's own tables.
"""

import errno
import struct
from collections.abc import Sequence

# name:number on x86_64:number on aarch64
_TABLE = """
read:0:63 write:1:64 open:2:- openat:257:56 close:3:57 stat:4:- fstat:5:80 lstat:6:-
newfstatat:262:79 poll:7:- ppoll:271:73 select:23:- pselect6:270:72 lseek:8:62 mmap:9:222
mprotect:10:226 munmap:11:215 brk:12:214 mremap:25:216 madvise:28:233 msync:26:227 mincore:27:232
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136
rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132 pread64:17:67 pwrite64:18:68
readv:19:65 writev:20:66 preadv:295:69 pwritev:296:70 access:21:- faccessat:269:48
faccessat2:439:439 pipe:22:- pipe2:293:59 sched_yield:24:124 dup:32:23 dup2:33:- dup3:292:24
pause:34:- nanosleep:35:101 clock_nanosleep:230:115 getitimer:36:102 setitimer:38:103 alarm:37:-
getpid:39:172 gettid:186:178 getppid:110:173 getpgrp:111:- getpgid:121:155 getsid:124:156
getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getresuid:118:148 getresgid:120:150
getgroups:115:158 uname:63:160 fsync:74:82 fdatasync:75:83 truncate:76:45
ftruncate:77:46 getdents:78:- getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 rename:82:-
renameat:264:38 renameat2:316:276 mkdir:83:- mkdirat:258:34 rmdir:84:- creat:85:- link:86:-
linkat:265:37 unlink:87:- unlinkat:263:35 symlink:88:- symlinkat:266:36 readlink:89:-
readlinkat:267:78 chmod:90:- fchmod:91:52 fchmodat:268:53 umask:95:166 gettimeofday:96:169
time:201:- times:100:153 clock_gettime:228:113 clock_getres:229:114 getrusage:98:165
sysinfo:99:179 statfs:137:43 fstatfs:138:44 statx:332:291 utime:132:- utimes:235:-
utimensat:280:88 futimesat:261:- futex:202:98 set_robust_list:273:99 set_tid_address:218:96
rseq:334:293 membarrier:324:283 sched_getaffinity:204:123 sched_getparam:143:121
sched_getscheduler:145:120 sched_get_priority_max:146:125 sched_get_priority_min:147:126
getpriority:140:141 arch_prctl:158:- getrandom:318:278 exit:60:93 exit_group:231:94
restart_syscall:219:128 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:-
epoll_pwait:281:22 eventfd2:290:19 wait4:61:260 waitid:247:95 fadvise64:221:223 getcpu:309:168
sendfile:40:71 close_range:436:436 recvfrom:45:207 sendto:44:206 shutdown:48:210 getrlimit:97:163
"""
# Allowed with certain arguments only; see `_conditional`.
_IOCTL, _CLONE, _PRLIMIT = (16, 29), (56, 220), (302, 261)
_SOCKETPAIR, _FCNTL = (53, 199), (72, 25)
_CLONE3 = 435  # its flags lie in memory, where no filter sees them: libc falls back to clone
_FIRST_OPTIONAL = 424  # from here on numbers are one table, and libc can do without

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_AND = 0x54
_NUMBER_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16

_CLONE_THREAD = 0x00010000
# NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC; NEWUSER, NEWPID and NEWNET.
_CLONE_NEW = 0x80 | 0x20000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x70000000
# TCGETS (is it a terminal?), FIONBIO, FIONREAD, FIOCLEX, FIONCLEX
_IOCTLS = (0x5401, 0x5421, 0x541B, 0x5451, 0x5450)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1032)
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF

Instruction = tuple[int, int, int, int]


def architectures() -> tuple[str, ...]:
    """The machines that there is a filter for."""
    return tuple(_AUDIT_ARCH)


def allowed(machine: str) -> dict[str, int]:
    """Numbers of the calls that are allowed whatever their arguments, by name.

    Args:
        machine: "x86_64" or "aarch64".
    """
    column = 1 + list(_AUDIT_ARCH).index(machine)
    rows = [row.split(":") for row in _TABLE.split()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def filter_program(machine: str) -> bytes:
    """The filter as an array of `struct sock_filter`.

    Args:
        machine: "x86_64" or "aarch64".
    """
    place = list(_AUDIT_ARCH).index(machine)
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JEQ, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]
    for number in allowed(machine).values():
        code += [(_JEQ, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for numbers, check in _conditional():
        code += [(_JEQ, 0, len(check), numbers[place]), *check]
    code += [
        (_JEQ, 0, 1, _CLONE3), _fail(errno.ENOSYS),
        (_JGE, 0, 1, _FIRST_OPTIONAL), _fail(errno.ENOSYS),
        _fail(errno.EPERM),
    ]  # fmt: skip
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def _conditional() -> list[tuple[tuple[int, int], list[Instruction]]]:
    """Calls with a check of their arguments; each check ends in a verdict."""
    return [
        (_CLONE, [  # a thread of this process, and nothing else
            _argument(0), (_JSET, 0, 2, _CLONE_THREAD), (_JSET, 1, 0, _CLONE_NEW), _allow(),
            _fail(errno.EPERM),
        ]),
        (_PRLIMIT, [_argument(0), (_JEQ, 0, 1, 0), _allow(), _fail(errno.EPERM)]),  # itself
        (_IOCTL, [_argument(1), *_one_of(_IOCTLS), _fail(errno.ENOTTY)]),
        (_FCNTL, [_argument(1), *_one_of(_FCNTLS), _fail(errno.EPERM)]),
        (_SOCKETPAIR, [  # two ends in one process, which an event loop wakes itself with
            _argument(0), (_JEQ, 0, 4, _AF_UNIX), _argument(1), (_AND, 0, 0, _SOCK_TYPE_MASK),
            (_JEQ, 0, 1, _SOCK_STREAM), _allow(), _fail(errno.EPERM),
        ]),
    ]  # fmt: skip


def _one_of(values: Sequence[int]) -> list[Instruction]:
    return [step for value in values for step in ((_JEQ, 0, 1, value), _allow())]


def _argument(index: int) -> Instruction:
    """Load the lower half of an argument, which is all that these calls read of it."""
    return (_LOAD, 0, 0, _ARGS_AT + 8 * index)


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def _fail(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)
