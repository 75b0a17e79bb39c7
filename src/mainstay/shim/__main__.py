"""The shim: starts one engine process, outlives the agent, and knows at once when the engine is gone.

Guarantees:
- the engine is this process's direct child; what the engine orphans is re-parented to us (PR_SET_CHILD_SUBREAPER), so
  when the engine dies nothing of it is left running: all descendants are killed at once and reaped, because a server
  process that lost its parent could still acknowledge commits;
- if we die, the kernel sends the engine SIGQUIT (PR_SET_PDEATHSIG), PostgreSQL's "immediate shutdown";
- everybody connected to our socket is told of the exit, and only after the last descendant has been reaped, so a
  successor may be started the moment the notice arrives;
- the engine, and whatever it starts, writes nothing but what `writable` names and lies below it, whoever makes himself
  superuser in it (Landlock, from Linux 5.19 on; an older kernel does not confine it, which `mainstay doctor` tells).

Started as `python -I -S <path>/__main__.py` with one JSON object on standard input:
    {"argv": [...], "env": {...}, "cwd": "...", "socket": "...", "output": "...", "user": uid|null, "group": gid|null,
     "cgroups": ["<path>/cgroup.procs", ...], "writable": ["<directory or file>", ...], "tag": {...}}
Socket protocol, JSON lines. We send on connect and on change: {"state": "running"|"exited", "pid", "started_at",
"exit_code", "tag"}. We take: {"signal": number}. `exit_code` is negative for a signal, as in `subprocess`.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, cast

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINE_BYTES_MAX = 4096
EXEC_FAILED = 127

PR_SET_NO_NEW_PRIVS = 38
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_ASK_VERSION = 1
LANDLOCK_LEAST = 2
"""The first version under which a file may be renamed into another directory (landlock(7)), as engines do."""

WRITE_FILE, TRUNCATE_FILE = 1 << 1, 1 << 14
CHANGE_DIRECTORY = sum(1 << bit for bit in range(4, 14))
"""Removing, making and renaming of every kind: LANDLOCK_ACCESS_FS_REMOVE_DIR to _REFER."""
INHERITED_SIGNALS = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD,
)  # fmt: skip
"""What we handle or ignore, and what `nohup` and shells ignore in what they start in the background: an engine that
inherited an ignored SIGQUIT would outlive us until it has set up its own handlers."""

Listeners = dict[socket.socket, bytes]


def main() -> int:
    """Runs until the engine and all its descendants have ended and every listener has been told."""
    launch = json.loads(sys.stdin.buffer.read())
    os.setsid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")
    _redirect_output(launch["output"])
    server, inode = _listen(launch["socket"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only the agent stops engines, through the socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_read, False)
    os.set_blocking(wakeup_write, False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    pid = _start_engine(launch, libc)
    if not pid:
        os.unlink(launch["socket"])
        return EXEC_FAILED
    state = {"state": "running", "pid": pid, "started_at": time.time(), "exit_code": None, "tag": launch.get("tag", {})}
    _serve(server, wakeup_read, pid, state, lambda: _withdraw(launch["socket"], inode))
    return 0


def landlock_version(libc: ctypes.CDLL) -> int:
    """What this kernel has of Landlock, 0 if it confines nobody."""
    return max(0, int(libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_ASK_VERSION)))


def _redirect_output(path: str) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _listen(path: str) -> tuple[socket.socket, int]:
    """A socket that appears at `path` listening, in one step, in the place of a stale one; and its inode there."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    new = f"{path}~"
    try:
        os.unlink(new)
    except FileNotFoundError:
        pass
    server.bind(new)
    os.chmod(new, 0o600)
    server.listen(8)
    server.setblocking(False)
    os.rename(new, path)
    return server, os.stat(path).st_ino


def _withdraw(path: str, inode: int) -> None:
    """Removes our socket; one of a successor stays."""
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass


def _start_engine(launch: dict[str, Any], libc: ctypes.CDLL) -> int:
    """Forks and executes the engine with its own credentials; returns its pid once it is executed, 0 if it cannot be.

    The pipe is closed by the execution itself: only then is it said that the engine runs.
    """
    parent = os.getpid()
    executed, failed = os.pipe()
    pid = os.fork()
    if pid:
        os.close(failed)
        message = os.read(executed, 1)
        os.close(executed)
        return 0 if message else pid
    try:
        for path in launch.get("cgroups", ()):
            with open(path, "w") as procs:
                procs.write(str(os.getpid()))
        if launch.get("user") is not None:
            os.setgroups([])
            os.setgid(launch["group"])
            os.setuid(launch["user"])
        # After setuid: a change of credentials clears the parent-death signal (prctl(2)).
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(EXEC_FAILED)
        signal.set_wakeup_fd(-1)
        for number in INHERITED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.umask(0o077)
        os.chdir(launch["cwd"])
        _confine(libc, launch.get("writable", []))
        os.execve(launch["argv"][0], launch["argv"], launch["env"])  # noqa: S606 - a list from the agent, no shell
    except OSError as error:
        os.write(2, f"cannot start {launch['argv'][0]}: {error}\n".encode())
    finally:
        os.write(failed, b"!")
        os._exit(EXEC_FAILED)


def _confine(libc: ctypes.CDLL, writable: list[str]) -> None:
    """From here on this process and its descendants write nothing outside; does nothing where the kernel cannot."""
    version = landlock_version(libc)
    if not writable or version < LANDLOCK_LEAST:
        return
    in_files = WRITE_FILE | (TRUNCATE_FILE if version >= 3 else 0)
    everything = in_files | CHANGE_DIRECTORY
    allowed = [(path, everything if os.path.isdir(path) else in_files) for path in writable]
    restrict(libc, struct.pack("=Q", everything), allowed)


def restrict(libc: ctypes.CDLL, ruleset: bytes, allowed: list[tuple[str, int]]) -> None:
    """From here on this process and its descendants may do what the ruleset handles only where a rule allows it.

    `ruleset` is a `struct landlock_ruleset_attr` (landlock_create_ruleset(2)); a rule is a path and what is allowed
    below it. Raises `OSError` naming what is not there.
    """
    handled = ctypes.create_string_buffer(ruleset, len(ruleset))
    rules = _checked(libc.syscall(LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(len(ruleset)), 0))
    for path, rights in allowed:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, place))
        _checked(libc.syscall(LANDLOCK_ADD_RULE, rules, LANDLOCK_RULE_PATH_BENEATH, rule, 0))
        os.close(place)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0))
    os.close(rules)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"cannot confine it: {os.strerror(ctypes.get_errno())}")
    return result


def _serve(
    server: socket.socket, wakeup: int, engine: int, state: dict[str, Any], withdraw: Callable[[], None]
) -> None:
    """Answers listeners until the engine has ended; before they are told of that the socket is withdrawn."""
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    selector.register(wakeup, selectors.EVENT_READ)
    listeners: Listeners = {}
    exit_code = None
    while exit_code is None:
        for key, _ in selector.select():
            if key.fileobj is server:
                _accept(server, selector, listeners, state)
            elif key.fileobj == wakeup:
                os.read(wakeup, 512)
            else:
                _receive(cast(socket.socket, key.fileobj), selector, listeners, engine)
        exit_code = _reap(engine)
    state["exit_code"] = exit_code
    state["state"] = "exited"
    _reap_descendants()
    withdraw()  # a successor may be started the moment the end is told
    for listener in list(listeners):
        _send(listener, state)


def _accept(
    server: socket.socket, selector: selectors.BaseSelector, listeners: Listeners, state: dict[str, Any]
) -> None:
    try:
        listener, _ = server.accept()
    except OSError:
        return
    listener.settimeout(1.0)
    listeners[listener] = b""
    selector.register(listener, selectors.EVENT_READ)
    _send(listener, state)


def _send(listener: socket.socket, state: dict[str, Any]) -> None:
    try:
        listener.sendall(json.dumps(state).encode() + b"\n")
    except OSError:
        pass  # a listener that left learns the state when it comes back


def _receive(listener: socket.socket, selector: selectors.BaseSelector, listeners: Listeners, engine: int) -> None:
    try:
        data = listener.recv(LINE_BYTES_MAX)
    except OSError:
        data = b""
    buffered = listeners[listener] + data
    if not data or len(buffered) > LINE_BYTES_MAX:
        selector.unregister(listener)
        del listeners[listener]
        listener.close()
        return
    *lines, listeners[listener] = buffered.split(b"\n")
    for line in lines:
        try:
            number = int(json.loads(line)["signal"])
            os.kill(engine, number)
        except (ValueError, KeyError, TypeError, ProcessLookupError):
            continue


def _reap(engine: int) -> int | None:
    """Reaps whatever has ended; the engine's exit code once it is among them."""
    exit_code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return exit_code
        if pid == 0:
            return exit_code
        if pid == engine:
            exit_code = os.waitstatus_to_exitcode(status)


def _reap_descendants() -> None:
    """Kills what the engine left behind, until nothing is left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            continue
        with open(f"/proc/self/task/{os.getpid()}/children") as children:
            for child in children.read().split():
                os.kill(int(child), signal.SIGKILL)
        time.sleep(0.002)


if __name__ == "__main__":
    sys.exit(main())
