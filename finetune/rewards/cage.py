"""A program of its own: one answer's code, run within limits. Started by `rewards/code.py`; imports nothing of ours.

    python -I -S -B cage.py RUNNER FOLDER SECONDS CLOCK MEMORY RESULT

It leaves the network and the other processes behind (namespaces), the files outside its folder (Landlock), takes
limits on processor time, memory, file sizes and processes, and starts RUNNER, which reads its work from stdin and
writes to the descriptor RESULT. It ends RUNNER, with all that RUNNER started, when its time is up or when whoever
holds the other end of stdin closes it or dies. What the system does not allow is left out and told to RUNNER.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import struct
import sys
import time
from contextlib import suppress

CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
# System calls, with one number on every architecture.
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_VERSION, LANDLOCK_PATH_BENEATH = 1, 1
EXECUTE, WRITE, READ, LIST, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
BASIC = (1 << 13) - 1  # all that the first version of Landlock knows
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")

FILE_BYTES = 16 << 20  # of one file that an answer writes
OPEN_FILES = 64
PROCESSES = 16  # with threads


def main() -> None:
    """Start the runner in its cage and see to its end."""
    runner, folder, seconds, clock, memory, result = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    apart = _leave(libc)
    child = os.fork()
    if child == 0:
        if sys.platform.startswith("linux"):
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        _limit(float(seconds), int(memory))
        closed = _close_files(libc, folder, runner)
        os.set_inheritable(int(result), True)
        told = [str(int(apart)), str(int(closed))]
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", runner, folder, result, *told])
    os.close(int(result))
    _wait(child, float(clock))
    _end(child, apart)


def _leave(libc: ctypes.CDLL) -> bool:
    """Leave the network and the other processes behind, for the children to come; false where that is not allowed."""
    if not sys.platform.startswith("linux"):
        return False
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # without a user of its own only the administrator may
    return any(libc.unshare(user | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC) == 0 for user in (CLONE_NEWUSER, 0))


def _limit(seconds: float, memory: int) -> None:
    limits = {
        resource.RLIMIT_CPU: max(1, round(seconds)),
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if hasattr(resource, "RLIMIT_NPROC"):
        limits[resource.RLIMIT_NPROC] = PROCESSES
    for which, limit in limits.items():
        with suppress(ValueError, OSError):  # an older limit is tighter, or the system has none
            resource.setrlimit(which, (limit, limit))


def _close_files(libc: ctypes.CDLL, folder: str, runner: str) -> bool:
    """Keep all files but Python's own and those of the folder out of reach; false where the system knows no way."""
    if not sys.platform.startswith("linux"):
        return False
    version = libc.syscall(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION)
    if version < 1:
        return False
    every = BASIC | (TRUNCATE if version >= 3 else 0)
    asked = struct.pack("Q", every)
    rules = libc.syscall(LANDLOCK_CREATE, asked, len(asked), 0)
    python = os.path.realpath(sys.executable)
    readable = (*LIBRARIES, sys.base_prefix, python, f"{sys.prefix}/pyvenv.cfg")
    granted = {path: READ | LIST | EXECUTE for path in readable}
    granted |= {runner: READ, "/dev/urandom": READ, "/dev/null": READ | WRITE, folder: every & ~EXECUTE}
    for path, rights in granted.items():
        _grant(libc, rules, path, rights)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    closed: bool = libc.syscall(LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return closed


def _grant(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    if not os.path.exists(path):
        return
    if not os.path.isdir(path):
        rights &= EXECUTE | WRITE | READ | TRUNCATE
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, opened)
    libc.syscall(LANDLOCK_ADD, rules, LANDLOCK_PATH_BENEATH, rule, 0)
    os.close(opened)


def _wait(child: int, seconds: float) -> None:
    """Until the child has ended, its time is up, or nobody waits for it any more."""
    until, asking = time.monotonic() + seconds, select.poll()
    asking.register(0, 0)  # only that the other end was closed
    while time.monotonic() < until and not asking.poll(20):
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            return


def _end(child: int, apart: bool) -> None:
    """Kill the child and all that came of it; without a namespace of its own, whatever has become ours."""
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while not apart and (left := _children()):
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(process, 0)


def _children() -> list[int]:
    """The processes whose parent is this one."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        with suppress(OSError, ValueError):
            with open(f"/proc/{int(name)}/stat", encoding="utf-8", errors="replace") as file:
                parent = file.read().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append(int(name))
    return found


if __name__ == "__main__":
    main()
