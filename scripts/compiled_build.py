"""What `compile.py` runs where mypyc is: mypyc's C, compiled once to be watched at work and once by what was seen.

    compiled_build.py OUT SCRATCH OPTIMISATION FILE ... NAME=FILE.c ...

A client's statement finds the caches full of what others did since the one before it: what counts is how much code it
passes, in how many places. A compiler that has seen which branches are taken lays that out in a third less pages.
Where the compiler is not GCC, or anything else goes wrong on the way, the build is an ordinary one, and says why.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Extension, setup
from setuptools.errors import BaseError

from mainstay import compiled

ROOT = Path(__file__).resolve().parent.parent
WATCHED = ("-fprofile-generate",)
SEEN = ("-fprofile-use", "-fprofile-partial-training", "-Wno-missing-profile")
"""What was not called in the training is compiled as usual, instead of as if it were never called."""

WORK = (
    *(("bench.statement_driver", kind, "4000") for kind in ("simple", "extended", "prepared")),
    *(("bench.statement_driver", kind, "4000", "tls") for kind in ("simple", "extended", "prepared")),
    ("bench.login_driver", "500"),
)
WORK_TIMEOUT_S = 120.0


def main(out: str, scratch: str, optimisation: str, *files: str) -> None:
    """Raises what setuptools raises, or exits, if not even the ordinary build is possible."""
    in_python = [file for file in files if "=" not in file]
    in_c = [file.split("=") for file in files if "=" in file]
    options = ["--strict", "--python-version", f"{sys.version_info[0]}.{sys.version_info[1]}"]
    extensions = mypycify([*options, *in_python], opt_level=optimisation, debug_level="0", target_dir=f"{scratch}/c")
    extensions += [Extension(name, [file], extra_compile_args=[f"-O{optimisation}"]) for name, file in in_c]
    plain = [list(extension.extra_compile_args) for extension in extensions]

    def build(*flags: str) -> None:
        for extension, arguments in zip(extensions, plain, strict=True):
            extension.extra_compile_args = [*arguments, *flags]
            extension.extra_link_args = [*flags]
        places = ["--build-lib", out, "--build-temp", f"{scratch}/o"]
        setup(
            name="mainstay-compiled", packages=[], ext_modules=extensions,
            script_args=["-q", "build_ext", "--force", *places],
        )  # fmt: skip

    try:
        build(*WATCHED)
        train(out, scratch)
        build(*SEEN)
    except (BaseError, SystemExit, subprocess.SubprocessError, OSError) as error:
        build()
        (Path(out) / compiled.PLAIN).write_text(str(error))


def train(out: str, scratch: str) -> None:
    """Has the build serve clients. Raises `OSError` or `SubprocessError` if it cannot, or nothing was seen of it."""
    (Path(out) / compiled.COMPLETE).touch()
    environment = {**os.environ, compiled.BUILD: out, compiled.PURE: ""}
    for work in WORK:
        subprocess.run(
            [sys.executable, "-m", *work], cwd=ROOT, env=environment, check=True, timeout=WORK_TIMEOUT_S,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    if not any(Path(scratch).rglob("*.gcda")):
        raise OSError("the build that was to be watched was not run")


if __name__ == "__main__":
    main(*sys.argv[1:])
