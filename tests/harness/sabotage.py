"""A service with one protection taken out, to see that the tests notice.

Nothing in the product knows of this: the service runs in an interpreter of its own, a virtual environment whose only
content is a path to the packages of ours, and a line that changes one thing in the agent process, or in others too. It
is no `sitecustomize`: Debian's Python has one already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import mainstay
from harness.service import Service

SABOTAGES = Path(__file__).parent.parent / "faults" / "sabotage"
LIBRARY = Path(f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages")
SABOTAGE = (
    "import runpy, sys; hasattr(sys, 'sabotaged') or not {processes!r}.intersection(sys.orig_argv)"
    " or setattr(sys, 'sabotaged', runpy.run_path({file!r}, run_name='sabotage'))"
)
"""A line of a .pth file, which is run at the start of every interpreter (Python documentation, `site`): in a virtual
environment twice.
"""

PATHS = "import site; site.addsitedir({packages!r}); sys.path.insert(0, {source!r})\n"


class SabotagedService(Service):
    """Its agent (`processes`) runs the file of this name in tests/faults/sabotage before anything else."""

    def __init__(self, sabotage: str, *, processes: Collection[str] = ("agent",), **settings: Any) -> None:
        super().__init__(**settings)
        file = SABOTAGES / f"{sabotage}.py"
        assert file.exists(), file
        environment = self.home / "sabotaged"
        packages = environment / LIBRARY
        packages.mkdir(parents=True)
        (environment / "bin").mkdir()
        (environment / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
        (environment / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
        source = str(Path(mainstay.__file__).parent.parent)
        (packages / "ours.pth").write_text(PATHS.format(packages=str(Path(sys.prefix) / LIBRARY), source=source))
        modules = {f"mainstay.{process}" for process in processes}
        (packages / "sabotage.pth").write_text(SABOTAGE.format(file=str(file), processes=modules) + "\n")  # after ours
        self.python = str(environment / "bin" / "python")
