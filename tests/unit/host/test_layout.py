"""What our processes are started with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mainstay.host.layout import environment
from mainstay.settings import load_settings

TRANSPARENT = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HELD = """
held = [bytes(2000) for _ in range(10_000)]
print([line for line in open("/proc/self/smaps") if line.startswith("AnonHugePages:") and line.split()[1] != "0"])
"""


@pytest.mark.skipif(
    not TRANSPARENT.exists() or "[never]" in TRANSPARENT.read_text(), reason="this kernel has no large pages to give"
)
@pytest.mark.parametrize("name", ["proxy", "agent"])
def test_the_proxy_alone_has_large_pages(tmp_path: Path, name: str) -> None:
    if name == "agent" and "[always]" in TRANSPARENT.read_text():
        pytest.skip("here all processes have them")
    env = environment(load_settings({"MAINSTAY_HOME": str(tmp_path)}), name)
    done = subprocess.run([sys.executable, "-c", HELD], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout != "[]\n") is (name == "proxy"), done.stdout
