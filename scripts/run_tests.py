"""The tests as CI runs them: those on real engines, which mostly wait, and beside them all others.

Tests on real engines share two cores with everything else that runs at that moment. One of them that fails among the
others runs once more, alone; if it passes then it is named as UNSTABLE, with its failure above, and does not fail the
run. Nothing else is forgiven: no other test, not more than MOST_UNSTABLE of them, and none that fails again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
ON_ENGINES = ("clients", "engine", "faults", "security")
CACHES = ROOT / ".pytest_cache"
MOST_UNSTABLE = 3
TESTS_FAILED = 1  # pytest's exit status


def main() -> int:
    """pytest's exit status; 0 if all is well."""
    folders = sorted(one.name for one in TESTS.iterdir() if any(one.glob("**/test_*.py")))
    CACHES.mkdir(exist_ok=True)
    told = CACHES / "others.log"
    with told.open("wb") as output:
        others = subprocess.Popen(_pytest("others", *sorted(set(folders) - set(ON_ENGINES))), cwd=ROOT, stdout=output)
        print(f"tests on real engines; beside them all others, told of when they end (till then: {told})", flush=True)
        on_engines = subprocess.run(_pytest("engines", *(set(folders) & set(ON_ENGINES))), cwd=ROOT, check=False)
        status = others.wait()
    print(told.read_text(errors="replace"), flush=True)
    return status or _looked_at_again(on_engines.returncode)


def last_failed(cache: Path) -> list[str]:
    """Names of the tests that failed in the last run, as pytest has kept them; none if it has kept nothing."""
    try:
        return sorted(json.loads((cache / "v/cache/lastfailed").read_text()))
    except (OSError, ValueError):
        return []


def _looked_at_again(status: int) -> int:
    failed = last_failed(CACHES / "engines")
    if status != TESTS_FAILED or not 0 < len(failed) <= MOST_UNSTABLE:
        return status
    print(f"\n{len(failed)} failed on real engines; they run once more, alone …", flush=True)
    alone = [*_pytest("engines"), "--last-failed", "--randomly-dont-reorganize"]
    again = subprocess.run(alone, cwd=ROOT, check=False)
    if again.returncode != 0:
        return status
    for name in failed:
        print(f"UNSTABLE: {name} failed among the others (see above) and passed alone", flush=True)
    return 0


def _pytest(cache: str, *folders: str) -> list[str]:
    paths = (f"tests/{name}" for name in sorted(folders))
    return [sys.executable, "-m", "pytest", "-o", f"cache_dir={CACHES / cache}", *paths]


if __name__ == "__main__":
    sys.exit(main())
