"""`mainstay backups load`: a database comes in from elsewhere, as what the engine's own dump program has written.

The dump is read here and sent to the engine over TLS, as a user of the database. What is done so that a hostile one
reaches nothing but that user's rights is the engine's part (`engines/dumps.py`).
"""

from __future__ import annotations

import getpass
import os
import resource
import stat
import sys
from pathlib import Path

import msgspec

from mainstay.cli.agent import ask_control
from mainstay.cli.progress import bar
from mainstay.engines.builds import Builds
from mainstay.engines.dumps import Loaded, LoadOrder
from mainstay.engines.registry import drivers
from mainstay.model.errors import Permanent
from mainstay.model.login_place import LoginPlace
from mainstay.model.secret import Secret
from mainstay.settings import Settings

TIMEOUT_S = 24 * 3600.0
MEMORY_BYTES_MAX = 4 << 30
"""Of this process: a row that the dump makes the engine answer with is held as a whole."""

SCRIPT_PER_STORAGE = 4
"""How much longer a script may be than the instance has storage: as text most data is longer than in the database."""

PASSWORD_BYTES_MAX = 4096


class LoadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `database` and `user` "": those that the instance was created with."""

    dump: Path
    instance: str
    region: str = ""
    database: str = ""
    user: str = ""
    password_file: Path | None = None
    without_owners: bool = False
    without_privileges: bool = False


def load_dump(settings: Settings, request: LoadRequest) -> tuple[Loaded, str]:
    """Does it; what was loaded, and into which database. Nothing is changed if it raises."""
    if not request.dump.exists():
        raise Permanent(f"there is no {request.dump}")
    named = {"name": request.instance, "region": request.region, "database": request.database}
    plan = ask_control(settings, "where_to_load", named)
    dumps = drivers()[plan["engine"]].dumps
    if dumps is None:
        raise Permanent(
            f"dumps of {plan['engine']} cannot be loaded in this version of Mainstay",
            hint="Its own client program can, from where you trust the dump to run.",
        )
    user = request.user or plan["master"]
    place = LoginPlace(**plan["place"], authorities=settings.home / "ca-bundle.pem")
    place = msgspec.structs.replace(place, database=place.database or dumps.default_database)
    password = _password(request.password_file, f"Password of {user} in {place.database}: ")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    order = LoadOrder(
        place=place,
        user=user,
        password=password,
        # The newest of its major version: it may have fixes that the instance waits for until its maintenance window.
        build=Builds(settings).resolve(plan["engine"], plan["version"].split(".")[0]),
        scratch=settings.home,
        script_bytes_max=(plan["room_gib"] << 30) * SCRIPT_PER_STORAGE,
        timeout_s=TIMEOUT_S,
        without_owners=request.without_owners,
        without_privileges=request.without_privileges,
    )
    try:
        with bar() as show:
            return dumps.load(request.dump, order, lambda done, total: show("dump", done, total)), place.database
    except MemoryError as error:
        raise Permanent(
            f"it needs more than {MEMORY_BYTES_MAX >> 30} GiB of memory; nothing was loaded",
            hint="Take the dump without --inserts, so that its rows come as data.",
        ) from error


def _password(file: Path | None, question: str) -> Secret:
    """From a file that nobody else may read, or from the terminal: never from arguments or the environment."""
    if file is None:
        if not sys.stdin.isatty():
            raise Permanent("there is no terminal to ask for the password", hint="Name a file: --password-file.")
        return Secret(getpass.getpass(question))
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise Permanent(f"{file} can be read by others", hint=f"Run `chmod 600 {file}`.")
            content = opened.read(PASSWORD_BYTES_MAX + 1)
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise Permanent(f"the password cannot be read from {file}: {error}") from error
    if len(content) > PASSWORD_BYTES_MAX or not text or "\n" in text or "\0" in text:
        raise Permanent(f"{file} holds no password: it must be one line of at most {PASSWORD_BYTES_MAX} bytes")
    return Secret(text)
