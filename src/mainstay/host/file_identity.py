"""Files reached by root on behalf of somebody else: the kernel checks, and owns new ones, as if that user did it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from mainstay.model.errors import Permanent

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def files_as(owner: tuple[int, int] | None) -> Iterator[None]:
    """Within it this thread reaches files as (uid, gid) only; other threads are not concerned. None: as we are.

    The kernel takes the capabilities over files away meanwhile (setfsuid(2), capabilities(7)), so a directory that
    belongs to the user cannot lead root astray. Supplementary groups stay; drop them before, once for the process.
    """
    if owner is None:
        yield
        return
    uid, gid = owner
    before_gid = _libc.setfsgid(gid)
    before_uid = _libc.setfsuid(uid)
    try:
        # setfsuid returns the previous value whether or not it worked; asking with an impossible one tells.
        if _libc.setfsuid(-1) != uid or _libc.setfsgid(-1) != gid:
            raise Permanent(f"files cannot be reached as user {uid}", hint="Do it as root, or as that user.")
        yield
    finally:
        _libc.setfsuid(before_uid)
        _libc.setfsgid(before_gid)
