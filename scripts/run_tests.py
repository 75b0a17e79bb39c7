"""The tests as CI runs them: those on real engines in two runs side by side, for they mostly wait, and beside them all
others.

Tests on real engines share two cores with everything else that runs at that moment. One of them that fails among the
others runs once more, alone; if it passes then it is named as UNSTABLE, with its failure above, and does not fail the
run. Nothing else is forgiven: no other test, not more than MOST_UNSTABLE of them, and none that fails again.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
ON_ENGINES = {"engine": ("engine",), "clients": ("clients", "faults", "security")}
"""Folders of each run on real engines; they take about equally long. The first is seen as it goes."""

OTHERS = "others"
CACHES = ROOT / ".pytest_cache"
MOST_UNSTABLE = 3
TESTS_FAILED = 1  # pytest's exit status


def main() -> int:
    """pytest's exit status; 0 if all is well."""
    present = {one.name for one in TESTS.iterdir() if any(one.glob("**/test_*.py"))}
    runs = {name: present & set(folders) for name, folders in ON_ENGINES.items()}
    runs[OTHERS] = present - set().union(*runs.values())
    seen, *unseen = [name for name, folders in runs.items() if folders]
    CACHES.mkdir(exist_ok=True)
    beside = {name: _beside(name, runs[name]) for name in unseen}
    told = ", ".join(str(_told(name)) for name in unseen)
    print(f"tests on real engines; all others are told of when they end (till then: {told})", flush=True)
    statuses = {seen: subprocess.run(_pytest(seen, runs[seen]), cwd=ROOT, check=False).returncode}
    for name, process in beside.items():
        statuses[name] = process.wait()
        print(_told(name).read_text(errors="replace"), flush=True)
    return statuses.pop(OTHERS, 0) or _looked_at_again(statuses)


def last_failed(cache: Path) -> list[str]:
    """Names of the tests that failed in the last run, as pytest has kept them; none if it has kept nothing."""
    try:
        return sorted(json.loads((cache / "v/cache/lastfailed").read_text()))
    except (OSError, ValueError):
        return []


def _looked_at_again(statuses: dict[str, int]) -> int:
    """The statuses of the runs on real engines in; the status of all of them."""
    failed = {name: last_failed(CACHES / name) for name, status in statuses.items() if status}
    if not failed:
        return 0
    status = max(statuses.values())
    count = sum(map(len, failed.values()))
    if status != TESTS_FAILED or not all(failed.values()) or count > MOST_UNSTABLE:
        return status
    print(f"\n{count} failed on real engines; they run once more, alone …", flush=True)
    for name in failed:
        alone = [*_pytest(name), "--last-failed", "--randomly-dont-reorganize"]
        if subprocess.run(alone, cwd=ROOT, check=False).returncode != 0:
            return status
    for test in itertools.chain.from_iterable(failed.values()):
        print(f"UNSTABLE: {test} failed among the others (see above) and passed alone", flush=True)
    return 0


def _told(name: str) -> Path:
    return CACHES / f"{name}.log"


def _beside(name: str, folders: Iterable[str]) -> subprocess.Popen[bytes]:
    with _told(name).open("wb") as output:
        return subprocess.Popen(_pytest(name, folders), cwd=ROOT, stdout=output)


def _pytest(name: str, folders: Iterable[str] = ()) -> list[str]:
    paths = (f"tests/{folder}" for folder in sorted(folders))
    return [sys.executable, "-m", "pytest", "-o", f"cache_dir={CACHES / name}", *paths]


if __name__ == "__main__":
    sys.exit(main())
