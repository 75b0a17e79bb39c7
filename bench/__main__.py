"""`python -m bench [name …]`: runs the benches named, or all, prints their tables and keeps them in the docs.

A bench is a module of this package with HEADING and `run(say) -> Iterable[Table]`, where `say` prints progress.
A table is printed as soon as it is there.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

from bench.report import keep, machine, show

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
BENCHES = (
    "create",
    "mariadb",
    "mariadb_backups",
    "mysql",
    "recovery",
    "describe",
    "idle",
    "multi_az",
    "read_replicas",
    "crowd",
    "rds_proxy",
    "instructions",
    "endpoint_relay",
    "volumes",
    "backups",
    "snapshots",
)
INTRODUCTION = """# Measurements

`make bench` measures on your machine and rewrites the sections below; `python -m bench create` does one of them.
Nothing is asserted: a figure is only worth something beside its peer, on the same machine, in the same minute. A figure
with a range is the median with the least and the greatest of its rounds.
"""


def main() -> int:
    """Returns 0 when every bench that was asked for has run."""
    present = [name for name in BENCHES if (ROOT / "bench" / f"{name}.py").is_file()]
    wanted = sys.argv[1:] or present
    if unknown := sorted(set(wanted) - set(present)):
        print(f"no bench named {unknown[0]!r}; there are: {', '.join(present)}", file=sys.stderr)
        return 2
    sys.path.append(str(ROOT / "tests"))  # the benches start services with the tests' harness
    if not PAGE.exists():
        PAGE.write_text(INTRODUCTION)
    for number, name in enumerate(wanted, 1):
        started = time.monotonic()
        stamp = machine()
        _say(f"[{number}/{len(wanted)}] {name}")
        bench = importlib.import_module(f"bench.{name}")
        shown = []
        for table in bench.run(_say):
            shown.append(show(table))
            print(f"\n{shown[-1]}", flush=True)
        text = "\n".join(shown)
        keep(PAGE, name, bench.HEADING, f"{stamp}\n\n{text}")
        _say(f"{name}: {time.monotonic() - started:.0f} s")
    return 0


def _say(text: str) -> None:
    print(f"[bench] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
