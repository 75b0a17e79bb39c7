"""System users: the one that engines run as, and those that operate them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess

from mainstay.model.errors import Permanent


def ensure_engine_user(name: str) -> None:
    """As root, makes the system user that engines run as (they refuse root). Raises `Permanent` if that fails."""
    if os.geteuid() != 0:
        return
    try:
        pwd.getpwnam(name)
    except KeyError:
        useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")
        if useradd is None:
            raise Permanent("useradd is missing", hint="Install the package passwd.") from None
        done = subprocess.run(
            [useradd, "-r", "-M", "-d", "/nonexistent", "-s", "/usr/sbin/nologin", name],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Permanent(f"the system user {name} cannot be made: {done.stderr.strip()}") from None


def names_of(user_ids: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the system users with these ids, each once; ids without a name are left out."""
    found: dict[str, None] = {}
    for user_id in user_ids:
        try:
            found[pwd.getpwuid(user_id).pw_name] = None
        except KeyError:
            continue
    return tuple(found)
