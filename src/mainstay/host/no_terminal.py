"""To be imported first by a process that never writes to a terminal.

structlog loads rich and colorama where they are installed, for the colours of its console output: 4 MB in each process
of the service, which writes JSON (`logs.py`). The command line, which does use them, does not import this.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast

for _name in ("rich", "colorama"):
    sys.modules.setdefault(_name, cast(ModuleType, None))  # importing it fails, as if it were not installed
