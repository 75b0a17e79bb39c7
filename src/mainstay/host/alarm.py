"""A timer that is a descriptor, timerfd_create(2): Python 3.11 has none yet."""

from __future__ import annotations

import ctypes
import os
import time

NEVER_S = float("inf")
_SOON_NS = 1
"""Not 0, which would set no timer at all."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Setting(ctypes.Structure):
    """struct itimerspec of a timer that expires once."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


class Alarm:
    """Its descriptor `fd` becomes readable at a moment of `time.monotonic()`, and stays so until `heard`.

    Raises `OSError` if the kernel gives none.
    """

    def __init__(self) -> None:
        self.fd = _checked(_libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        self.at_s = NEVER_S
        """The moment; infinite if there is none."""

    def no_later_than(self, at_s: float) -> None:
        """At this moment, unless it is set for an earlier one already. Raises `OSError`."""
        if self.at_s <= at_s:
            return
        after_ns = max(int((at_s - time.monotonic()) * 1e9), _SOON_NS)
        setting = _Setting(0, 0, *divmod(after_ns, 1_000_000_000))
        _checked(_libc.timerfd_settime(self.fd, 0, ctypes.byref(setting), None))
        self.at_s = at_s

    def heard(self) -> None:
        """It has been, and is set for no other moment."""
        self.at_s = NEVER_S
        try:
            os.read(self.fd, 8)
        except BlockingIOError:  # somebody has taken it back meanwhile
            pass

    def close(self) -> None:
        """No more."""
        os.close(self.fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
