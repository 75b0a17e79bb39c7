"""Clones the image of a mounted file system as it is at one moment: frozen, its blocks shared, thawed.

Run as `python -I -S freezer.py DIRECTORY IMAGE CLONE LIMIT_S`, with the standard library alone, so that it is there at
once; it answers with one JSON object, {"frozen_at", "frozen_s"} or {"error"}. A frozen file system lets everybody who
writes to it wait, so whatever happens it is thawed: by us; by our watcher, a process of its own, when we die or are
late; and should both be killed, by the next agent (`thaw`). Source: ioctl_fsfreeze in linux/fs.h, ioctl_ficlone(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FIFREEZE, FITHAW, FICLONE = 0xC0045877, 0xC0045878, 0x40049409
SYNC_ROUNDS = 4
SYNCED_WITHIN_S = 0.05
LATE_AGAIN_S = 0.02


def main(arguments: list[str]) -> int:
    """Does it, or leaves no clone and says why."""
    directory, image, clone, limit_s = arguments
    try:
        answer: dict[str, object] = clone_frozen(directory, image, clone, float(limit_s))
    except OSError as error:
        with suppress(OSError):
            os.unlink(clone)
        answer = {"error": f"{error.strerror or error}"}
    with suppress(BrokenPipeError):  # whoever wanted it has died
        print(json.dumps(answer), flush=True)
    return int("error" in answer)


def clone_frozen(directory: str, image: str, clone: str, limit_s: float) -> dict[str, object]:
    """The clone, which must not exist yet, is complete and on disk when this returns. Raises `OSError`."""
    volume = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    source = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    target = os.open(clone, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    _write_back(volume)
    started = time.monotonic()
    with frozen(volume, limit_s):
        frozen_at = time.time()
        fcntl.ioctl(target, FICLONE, source)
    frozen_s = time.monotonic() - started
    os.fsync(target)
    return {"frozen_at": frozen_at, "frozen_s": round(frozen_s, 3)}


@contextmanager
def frozen(volume: int, limit_s: float) -> Iterator[None]:
    """Nobody changes the file system of this descriptor within the block.

    Raises `OSError` ETIMEDOUT at its end if it was thawed meanwhile, because the block took longer than `limit_s`.
    """
    watcher, told = _start_watcher(volume, limit_s)
    try:
        fcntl.ioctl(volume, FIFREEZE, 0)
        try:
            yield
        finally:
            still = thaw(volume)
        if not still:
            raise TimeoutError(f"it was frozen for longer than {limit_s} s")
    finally:
        with suppress(OSError):
            os.write(told, b".")  # thawed: it must not thaw what somebody freezes after us
        os.close(told)
        os.waitpid(watcher, 0)


def thaw(volume: int) -> bool:
    """Thaws the file system of this descriptor; whether it was frozen."""
    try:
        fcntl.ioctl(volume, FITHAW, 0)
    except OSError:
        return False
    return True


def _write_back(volume: int) -> None:
    """Most of what is dirty is written before anybody has to wait for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(SYNC_ROUNDS):
        started = time.monotonic()
        if libc.syncfs(volume) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        if time.monotonic() - started < SYNCED_WITHIN_S:
            return


def _start_watcher(volume: int, limit_s: float) -> tuple[int, int]:
    """A process that thaws when we have died, or have not said within the limit that we have; its pid, where to say."""
    listening, told = os.pipe()
    pid = os.fork()
    if pid:
        os.close(listening)
        return pid, told
    try:
        os.close(told)
        os.setsid()  # a signal to our group does not reach it
        _watch(volume, listening, limit_s)
    finally:
        os._exit(0)


def _watch(volume: int, listening: int, limit_s: float) -> None:
    wait_s = limit_s
    while True:
        heard, _, _ = select.select([listening], [], [], wait_s)
        if heard:
            if not os.read(listening, 1):  # dead; its freezing has ended, one way or the other, before its descriptors
                thaw(volume)
            return
        if thaw(volume):
            return
        wait_s = LATE_AGAIN_S  # it is still being frozen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
