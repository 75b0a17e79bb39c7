"""The table of the kernel path: its text, what a change of it touches, and a table at work where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from mainstay.endpoint import nftables as module
from mainstay.endpoint.commands import run
from mainstay.endpoint.nftables import Flow, NftablesTable, contents
from mainstay.model.errors import Transient

NAME, PREFIX = "mainstay_test_nftables", 0x4FFF
ONE = Flow("127.64.0.5", 5432, ("127.96.0.1", 24000), True, 0x4FFF0007, ("10.0.0.0/8", "10.1.0.0/16", "::/0"))
TWO = Flow("127.64.0.6", 3306, ("127.96.0.2", 24000), True, 0x4FFF0008, ("0.0.0.0/0",))
MANY = tuple(
    Flow(f"127.64.1.{number}", 5432, ("127.96.1.1", number), True, 0x4FFF1000 + number, (f"10.0.{number}.1/32",))
    for number in range(1, 101)
)

change = msgspec.structs.replace


class Written(list[str]):
    """What nft was given, and does."""

    async def __call__(self, command: list[str], text: str = "") -> str:
        if text:
            self.append(text)
        return await run(command, text)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    if os.geteuid() != 0 or shutil.which("nft") is None:
        pytest.skip("needs root and nftables")
    made = Written()
    monkeypatch.setattr(module, "run", made)
    yield made
    subprocess.run(["nft", "delete", "table", "ip", NAME], capture_output=True, check=False)


def listed() -> str:
    done = subprocess.run(["nft", "list", "table", "ip", NAME], capture_output=True, text=True, check=False)
    return done.stdout


def test_ranges_never_overlap_and_an_endpoint_on_hold_keeps_its_connections_only() -> None:
    held = contents([ONE, change(TWO, open=False)])
    assert held["targets"] == {"127.64.0.5 . 5432": "127.96.0.1 . 24000"}
    assert list(held["admitted"]) == ["127.64.0.5 . 5432 . 10.0.0.0/8"]
    assert sorted(held["live"]) == ["0x4fff0007", "0x4fff0008"]


async def test_a_change_touches_what_it_is_about(written: Written) -> None:
    table = NftablesTable(NAME, PREFIX)
    await table.agree([ONE, TWO])
    await table.agree([ONE, TWO])
    assert len(written) == 1, "nothing to change"
    moved = change(TWO, target=("127.96.0.9", 24000), mark=0x4FFF0009)
    await table.agree([ONE, moved])
    assert "127.64.0.5" not in written[-1] and "0x4fff0007" not in written[-1] and "delete table" not in written[-1]
    assert "127.64.0.6 . 3306 : 127.96.0.9 . 24000" in listed()
    await table.agree([ONE, change(moved, admits=("10.2.0.0/15", "10.1.2.3/32"))])
    assert "127.64.0.6 . 3306 . 10.2.0.0/15" in listed() and "127.64.0.6 . 3306 . 0.0.0.0/0" not in listed()
    await table.agree([])
    assert "elements" not in listed()


async def test_a_successor_finds_out_what_there_is(written: Written) -> None:
    await NftablesTable(NAME, PREFIX).agree([ONE, TWO, *MANY])
    await NftablesTable(NAME, PREFIX).agree([ONE, TWO, *MANY])
    assert len(written) == 1
    await NftablesTable(NAME, PREFIX).agree([TWO, *MANY])
    assert written[1:] and "delete table" not in written[-1] and "127.64.0.5" not in listed()
    await NftablesTable(NAME, PREFIX ^ 1).agree([TWO])
    assert "delete table" in written[-1], "its rules are others"


@pytest.mark.parametrize(
    "meddling",
    ["delete table ip {0}", "flush set ip {0} live", "flush chain ip {0} cut\ndelete set ip {0} live"],
    ids=["table", "elements", "set"],
)
async def test_a_table_that_a_firewall_has_swept_away_is_written_anew(written: Written, meddling: str) -> None:
    table = NftablesTable(NAME, PREFIX)
    await table.agree([ONE])
    right = listed()
    await run(["nft", "-f", "-"], meddling.format(NAME))
    await table.agree([TWO])
    await table.agree([ONE])
    assert listed() == right


async def test_what_became_of_a_change_that_failed_is_looked_up(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = NftablesTable(NAME, PREFIX)
    await table.agree([ONE])

    async def done_but_not_told(command: list[str], text: str = "") -> str:
        if text:
            await run(command, text)
        raise Transient("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(module, "run", done_but_not_told)
        with pytest.raises(Transient, match="no answer"):
            await table.agree([TWO])
    await table.agree([TWO])
    assert "127.64.0.6" in listed() and "127.64.0.5" not in listed()
