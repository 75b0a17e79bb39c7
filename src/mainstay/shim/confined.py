"""Runs a program that is only to read: what it may read is named, and nothing else can be done with it.

For programs that take apart what somebody else has made. Guarantees, whatever code runs in the program:
- it reads below `readable` and what is open already, executes what is below `executable`, and writes nothing but
  what is open already (Landlock, which asks about the file itself: a link to elsewhere leads nowhere);
- it has no network and no Unix socket, starts no further process, and reaches none that runs (seccomp, Landlock);
- it is bounded in memory, processor time and what it writes into a regular file, leaves no core, and ends with us;
- if any of this cannot be had it is not started: the exit code is 126, and standard error says why.

Started as `python -I -m mainstay.shim.confined JSON`, with one object, which is no secret:
    {"argv": [...], "env": {...}, "cwd": "...", "readable": [...], "executable": [...], "user": uid|null,
     "group": gid|null, "memory_bytes": n, "cpu_s": n, "file_bytes": n}
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys

from mainstay.shim.__main__ import PR_SET_PDEATHSIG, landlock_version, restrict

NOT_CONFINED = 126
READS_SINCE = 1
"""The first version of Landlock, which knows reading and executing (landlock(7))."""

EXECUTE, READ_FILE, READ_DIRECTORY = 1 << 0, 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights over files each version knows, where it knows more than the one before."""
NET_SINCE, SCOPES_SINCE = 4, 6
TCP_BIND_AND_CONNECT = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD_WORD, JUMP_IF_EQUAL, JUMP_IF_GREATER_OR_EQUAL, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER_OFFSET, ARCHITECTURE_OFFSET = 0, 4
ALLOW, KILL_PROCESS, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
X32_CALLS = 0x40000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COMMON_CALLS = {"pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438}
FORBIDDEN_CALLS = {
    "x86_64": {
        "socket": 41, "connect": 42, "bind": 49, "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58, "kill": 62,
        "ptrace": 101, "tkill": 200, "tgkill": 234, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
        "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": {
        "unshare": 97, "ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131, "socket": 198, "socketpair": 199,
        "bind": 200, "connect": 203, "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220,
        "perf_event_open": 241, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
        "process_vm_writev": 271, "bpf": 280, "userfaultfd": 282,
    },
}  # fmt: skip
"""By machine, what of the kernel's calls (syscalls(2)) leads to other processes or hosts, or makes new ones."""


def main() -> int:
    """Becomes the program. Returns only if it cannot be confined or executed."""
    wanted = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _limit(wanted)
        if wanted["user"] is not None:
            os.setgroups([])
            os.setgid(wanted["group"])
            os.setuid(wanted["user"])
        # After setuid, as in the shim: a change of credentials clears it.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.umask(0o077)
        os.chdir(wanted["cwd"])
        _confine_files(libc, wanted["readable"], wanted["executable"])
        _confine_calls(libc)
        os.execve(wanted["argv"][0], wanted["argv"], wanted["env"])  # noqa: S606 - a list of ours, no shell
    except OSError as error:
        print(f"it cannot be confined: {error}", file=sys.stderr)
    return NOT_CONFINED


def _limit(wanted: dict[str, int]) -> None:
    for what, most in (
        (resource.RLIMIT_AS, wanted["memory_bytes"]),
        (resource.RLIMIT_CPU, wanted["cpu_s"]),
        (resource.RLIMIT_FSIZE, wanted["file_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _confine_files(libc: ctypes.CDLL, readable: list[str], executable: list[str]) -> None:
    version = landlock_version(libc)
    if version < READS_SINCE:
        raise OSError(errno.ENOSYS, "the kernel has no Landlock")
    rights = FILE_RIGHTS[max(since for since in FILE_RIGHTS if since <= version)]
    ruleset = struct.pack("=Q", (1 << rights) - 1)
    if version >= NET_SINCE:
        ruleset += struct.pack("=Q", TCP_BIND_AND_CONNECT)
    if version >= SCOPES_SINCE:
        ruleset += struct.pack("=Q", ABSTRACT_SOCKETS_AND_SIGNALS)
    reading, executing = READ_FILE | READ_DIRECTORY, EXECUTE | READ_FILE | READ_DIRECTORY
    allowed = [(path, reading) for path in readable] + [(path, executing) for path in executable]
    in_files = EXECUTE | READ_FILE
    restrict(libc, ruleset, [(path, all_ if os.path.isdir(path) else all_ & in_files) for path, all_ in allowed])


def _confine_calls(libc: ctypes.CDLL) -> None:
    """A filter of seccomp(2): the forbidden calls answer EPERM, those of another architecture end the process."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"the calls of {machine} are not known here")
    numbers = [*FORBIDDEN_CALLS[machine].values(), *COMMON_CALLS.values()]
    filters = [
        (LOAD_WORD, 0, 0, ARCHITECTURE_OFFSET),
        (JUMP_IF_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD_WORD, 0, 0, NUMBER_OFFSET),
        # Each jumps over what is left of the list and over ALLOW.
        (JUMP_IF_GREATER_OR_EQUAL, len(numbers) + 1, 0, X32_CALLS),
        *((JUMP_IF_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, FAIL | errno.EPERM),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in filters))
    program = ctypes.create_string_buffer(struct.pack("HP", len(filters), ctypes.addressof(code)))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp is not to be had")


if __name__ == "__main__":
    sys.exit(main())
